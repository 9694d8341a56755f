"""The benchmarks on the Hugging Face hub, and their rows in the project's format.

Repositories, configs, splits and fields in PARTS are as the dataset cards and other projects have
them; no download was tried. GPQA asks for a login, and that its terms be accepted on its page.
"""

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from etils import epath

from g2is_jax.evaluation.tasks.answers import stated
from g2is_jax.evaluation.tasks.latex import boxed
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import make_folder, write_atomic

Example = tuple[str, str, str, str]  # subtask, question, worked reply, answer
Load = Callable[[str, str, str], Iterable[dict]]  # repository, config, split -> rows


def from_gsm8k(config: str, question: str, answer: str) -> Iterator[Example]:
    """Removes the calculator's marks, which stand in double angle brackets."""
    reply = re.sub(r"<<.*?>>", "", answer)
    yield "gsm8k", question, reply, reply.rpartition("####")[2].strip()


def from_math(config: str, problem: str, solution: str) -> Iterator[Example]:
    """Takes the answer from the solution's last box; a problem without a box is left out."""
    answer = boxed(solution)
    if answer:
        yield config, problem, solution, answer


def from_bbh(config: str, question: str, target: str) -> Iterator[Example]:
    """Puts the question as the worked examples do; the reply is the answer alone."""
    yield config, f"Q: {question}", target, target


def from_bbh_worked(config: str, subtask: str, text: str) -> Iterator[Example]:
    """Splits a prompt into its worked examples; the introduction stays before the first."""
    lead, *examples = re.split(r"(?:\A|\n\n)(?=Q: )", text.rpartition("-----\n")[2].strip())
    for example in examples:
        question, _, reply = example.partition("\nA: ")
        asked = f"{lead}\n\n{question}" if lead else question
        yield subtask, asked, reply.strip(), stated(reply) or ""
        lead = ""


def from_mmlu(
    config: str, question: str, choices: list[str], answer: int, subject: str
) -> Iterator[Example]:
    """Puts the subject before the question, and the lettered choices after it."""
    topic = subject.replace("_", " ")
    lead = f"The following is a multiple choice question about {topic}.\n\n"
    letter = "ABCD"[answer]
    yield subject, lead + _with_choices(question, choices), f"The answer is {letter}.", letter


def from_gpqa(config: str, question: str, right: str, *others: str) -> Iterator[Example]:
    """Shuffles the choices by the question alone, so that their order is always the same."""
    domain, wrong = others[-1], others[:-1]
    choices = [choice.strip() for choice in (right, *wrong)]
    seed = int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big")
    order = random.Random(seed).sample(range(len(choices)), len(choices))
    letter = "ABCD"[order.index(0)]
    asked = _with_choices(question.strip(), [choices[place] for place in order])
    yield domain, asked, f"The answer is {letter}.", letter


def _with_choices(question: str, choices: Iterable[str]) -> str:
    """Writes the choices below the question, a letter each."""
    lines = [f"{letter}. {choice}" for letter, choice in zip("ABCD", choices, strict=True)]
    return "\n".join([question, *lines, "Answer:"])


@dataclass(frozen=True)
class Part:
    """Names a split of a repository and its fields, in the order in which `examples` takes them.

    configs: all are read in order. most: examples of each, from its beginning; 0: all.
    """

    repository: str
    configs: tuple[str, ...]
    split: str
    fields: tuple[str, ...]
    examples: Callable[..., Iterator[Example]]
    most: int = 0


MATH_SUBJECTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)
BBH_SUBTASKS = (
    *("boolean_expressions", "causal_judgement", "date_understanding", "disambiguation_qa"),
    *("dyck_languages", "formal_fallacies", "geometric_shapes", "hyperbaton"),
    *("logical_deduction_five_objects", "logical_deduction_seven_objects"),
    *("logical_deduction_three_objects", "movie_recommendation", "multistep_arithmetic_two"),
    *("navigate", "object_counting", "penguins_in_a_table", "reasoning_about_colored_objects"),
    *("ruin_names", "salient_translation_error_detection", "snarks", "sports_understanding"),
    *("temporal_sequences", "tracking_shuffled_objects_five_objects"),
    *("tracking_shuffled_objects_seven_objects", "tracking_shuffled_objects_three_objects"),
    *("web_of_lies", "word_sorting"),
)
GSM8K = ("question", "answer")
MATH = ("problem", "solution")
MMLU = ("question", "choices", "answer", "subject")
GPQA = (
    *("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2"),
    *("Incorrect Answer 3", "High-level domain"),
)
BBH, BBH_WORKED = ("input", "target"), ("dataset_name", "chain_of_thought_prompt")
# Task -> validation part, test part.
PARTS = {
    "gsm8k": (
        Part("openai/gsm8k", ("main",), "train", GSM8K, from_gsm8k, most=100),
        Part("openai/gsm8k", ("main",), "test", GSM8K, from_gsm8k),
    ),
    "math": (
        Part("EleutherAI/hendrycks_math", MATH_SUBJECTS, "train", MATH, from_math, most=15),
        Part("EleutherAI/hendrycks_math", MATH_SUBJECTS, "test", MATH, from_math),
    ),
    "bbh": (
        Part(
            "Joschka/big_bench_hard",
            ("few_shot_prompts",),
            "few_shot_prompts",
            BBH_WORKED,
            from_bbh_worked,
        ),
        Part("lukaemon/bbh", BBH_SUBTASKS, "test", BBH, from_bbh),
    ),
    "mmlu": (
        Part("cais/mmlu", ("all",), "dev", MMLU, from_mmlu),
        Part("cais/mmlu", ("all",), "test", MMLU, from_mmlu),
    ),
    # The extended set holds the main one, whose questions `fetch_task` takes out of it.
    "gpqa": (
        Part("Idavidrein/gpqa", ("gpqa_extended",), "train", GPQA, from_gpqa),
        Part("Idavidrein/gpqa", ("gpqa_main",), "train", GPQA, from_gpqa),
    ),
}


def fetch_task(task: str, destination: epath.Path, load: Load) -> str:
    """Writes val_TASK.jsonl and test_TASK.jsonl, which share no question; returns a summary.

    The rows are those of data.validation and data.test: id, source, task, subtask, messages and
    answer. Raises InputError where a split has no examples or lacks a field.
    """
    validation, test = PARTS[task]
    test_rows = rows_of(test, task, "test", load)
    asked = {row["messages"][0]["content"] for row in test_rows}
    validation_rows = [
        row
        for row in rows_of(validation, task, "val", load)
        if row["messages"][0]["content"] not in asked
    ]
    make_folder(destination)
    summary = []
    for split, rows in (("val", validation_rows), ("test", test_rows)):
        file = destination / f"{split}_{task}.jsonl"
        write_atomic(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        summary.append(f"{file}: {len(rows):,} rows")
    return "\n".join(summary)


def rows_of(part: Part, task: str, split: str, load: Load) -> list[dict]:
    """Loads a part's rows and writes them in the project's format; split is val or test."""
    rows = []
    for config in part.configs:
        place = f"{part.repository}, config {config}, split {part.split}"
        examples = [
            example
            for raw in load(part.repository, config, part.split)
            for example in part.examples(config, *_values(raw, part.fields, place))
        ]
        if not examples:
            raise InputError(f"{place}: no examples; compare its rows with PARTS of hub_tasks.py")
        for number, example in enumerate(examples[: part.most or None]):
            rows.append(_row(task, split, number, *example))
    return rows


def _row(task: str, split: str, number: int, *example: str) -> dict:
    """Writes an example, the number-th of its config, in the project's format."""
    subtask, question, reply, answer = example
    name = "" if subtask == task else f"{subtask}_"
    return {
        "id": f"{task}_{split}_{name}{number}",
        "source": task,
        "task": task,
        "subtask": subtask,
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": reply},
        ],
        "answer": answer,
    }


def _values(raw: dict, fields: tuple[str, ...], place: str) -> list:
    """Returns the fields' values; InputError names the first field that is absent."""
    absent = [field for field in fields if field not in raw]
    if absent:
        raise InputError(
            f"{place}: no field {absent[0]!r}, the fields are {', '.join(raw)}; mend PARTS of "
            "hub_tasks.py"
        )
    return [raw[field] for field in fields]


def load_from_hub(repository: str, config: str, split: str) -> Iterable[dict]:
    """Loads the rows of a split, from the hub or from the cache of the `datasets` library.

    A repository's own loading script is never run.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "the package datasets, which reads the hub, is absent; pip install -e '.[eval]'"
        ) from error
    try:
        return datasets.load_dataset(repository, config, split=split, trust_remote_code=False)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{repository}, config {config}, split {split}: cannot be loaded "
            f"({type(error).__name__}: {reason}); check the network, and for a repository with "
            "terms accept them on its page and log in with `hf auth login`"
        ) from error
