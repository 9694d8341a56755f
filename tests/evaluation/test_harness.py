"""The adapter to lm-evaluation-harness: equal to a plain loop, whatever the batches."""

import copy
import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tokenizers import processors

from g2is_jax.data.chat import ChatFormat
from g2is_jax.data.messages import Message
from g2is_jax.data.tokenizer import load_tokenizer
from g2is_jax.evaluation.harness_tasks import read_metrics
from g2is_jax.model.build import build_model
from g2is_jax.model.families import decoder_config
from g2is_jax.model.generate import Prompts, Stops, generate
from g2is_jax.model.sampling import GenerateConfig
from g2is_jax.runs.errors import InputError
from g2is_jax.skills.world import BASE_FOLDER
from tests.support.harness_folder import config_of, write_tasks
from tests.support.tiny_models import FLOAT32, lora_config, random_leaves, raw_of

MAX_LENGTH = 40
NEW_TOKENS = 6
QUESTIONS = ("Sort the letters: b a c", "Add 3 and 4", "Which is red: a cat or a rose? ", "", "Say")
CHOICES = ("a b c", "the answer is 7", "red")
PAIRS = [(question, f" {choice}") for question in QUESTIONS for choice in CHOICES]
LONG = "The letters in order are a b c. The answer is red. " * 6
CONTEXTS = (*QUESTIONS, LONG, QUESTIONS[0])
TEXTS = ("It is red.", LONG, "", "Add 3")
BATCHES = (1, 10_000)  # tokens in each


@pytest.fixture(scope="module")
def tuned():
    """A random model with an adapter that matters: model, adapter, base."""
    raw = raw_of(
        "llama", vocab_size=640, num_hidden_layers=1, max_position_embeddings=MAX_LENGTH + 9
    )
    model = build_model(decoder_config(raw, "config.json"), lora_config(), FLOAT32)
    return model, random_leaves(model.adapter_shapes, seed=1), random_leaves(model.base_shapes)


@pytest.fixture(scope="module")
def chat():
    """The built-in tokenizer, which here writes <s> before each text."""
    tokenizer = load_tokenizer(BASE_FOLDER)
    start = processors.TemplateProcessing(
        "<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    tokenizer.backend_tokenizer.post_processor = start
    return ChatFormat(tokenizer, "tulu")


@pytest.fixture(scope="module")
def made(harness, tuned, chat):
    """Makes adapters that differ in some of their settings."""

    def make(chat=chat, batch_tokens=10_000, chats=False):
        return harness.HarnessModel(*tuned, chat, MAX_LENGTH, batch_tokens, chats)

    return make


@functools.cache
def compiled(model):
    return jax.jit(model.logits)


def plain_logits(tuned, tokens: list[int]) -> np.ndarray:
    """(T, V) float64, for as many tokens as there may be."""
    model, adapter, base = tuned
    padded_T = np.pad(np.array(tokens, np.int32), (0, MAX_LENGTH - len(tokens)))
    return np.asarray(compiled(model)(adapter, base, padded_T), np.float64)


def plain_likelihood(tuned, prompt: list[int], rest: list[int]) -> tuple[float, bool]:
    """From all logits, a token at a time."""
    tokens = [*prompt, *rest]
    logits_TV = plain_logits(tuned, tokens)
    total, greedy = 0.0, True
    for place in range(len(prompt), len(tokens)):
        logits_V = logits_TV[place - 1]
        total += logits_V[tokens[place]] - np.log(np.exp(logits_V).sum())
        greedy &= logits_V.argmax() == tokens[place]
    return total, greedy


def plain_reply(tuned, chat, context: str, *stops: str) -> str:
    """Greedy, alone in its batch; a long context loses its beginning."""
    room = MAX_LENGTH - NEW_TOKENS
    prompt = tokens(chat, context)[-room:]
    padded_T = np.pad(np.array(prompt, np.int32), (room - len(prompt), 0))
    mask_T = np.arange(room) >= room - len(prompt)
    rows = Prompts(padded_T[None], mask_T[None], np.zeros(1, np.int32))
    config = GenerateConfig(NEW_TOKENS, temperature=0.0, top_p=1.0, seed=0)
    decode = functools.partial(chat.tokenizer.decode, skip_special_tokens=True)
    (reply,) = generate(*tuned, rows, config, Stops(chat.end_tokens(), stops), decode)
    return reply.text


def requests(*arguments: tuple) -> list:
    from lm_eval.api.instance import Instance

    return [Instance("any", {}, asked, 0) for asked in arguments]


def tokens(chat, text: str, start: bool = True) -> list[int]:
    return chat.tokenizer(text, add_special_tokens=start)["input_ids"]


@pytest.fixture(scope="module")
def pairs(tuned, chat) -> list[tuple[str, str]]:
    """PAIRS, and a word with the likeliest token after it: one that is read as itself there."""
    for word in LONG.split():
        prompt = tokens(chat, word)
        likeliest = int(plain_logits(tuned, prompt)[len(prompt) - 1].argmax())
        text = chat.tokenizer.decode([likeliest])
        if tokens(chat, word + text) == [*prompt, likeliest]:
            return [*PAIRS, (word, text)]
    raise AssertionError("no likeliest token is read as itself")


@pytest.fixture(scope="module")
def expected(tuned, chat, pairs) -> list[tuple[float, bool]]:
    """The blank at the end of a question belongs to the choice; an empty question is <s>."""
    found = []
    for question, choice in pairs:
        whole, prompt = tokens(chat, question + choice), tokens(chat, question.rstrip())
        assert whole[: len(prompt)] == prompt
        found.append(plain_likelihood(tuned, prompt, whole[len(prompt) :]))
    return found


def assert_same(found, expected):
    np.testing.assert_allclose([f[0] for f in found], [e[0] for e in expected], atol=1e-4)
    assert [f[1] for f in found] == [e[1] for e in expected]


@pytest.mark.parametrize("batch_tokens", BATCHES)
def test_likelihoods_are_those_of_a_plain_loop(made, pairs, expected, batch_tokens):
    assert [greedy for _, greedy in expected] == [False] * len(PAIRS) + [True]
    model = made(batch_tokens=batch_tokens)
    assert_same(model.loglikelihood(requests(*pairs)), expected)
    assert_same(model.loglikelihood(requests(*pairs[::-1])), expected[::-1])


def test_a_long_prompt_loses_its_beginning(tuned, chat, made, capsys):
    whole, rest = tokens(chat, LONG + "red"), tokens(chat, " red", start=False)
    prompt = whole[-MAX_LENGTH : -len(rest)]
    found = made().loglikelihood(requests((LONG.rstrip(), " red"), ("Say", " red")))
    assert found[0][0] == pytest.approx(plain_likelihood(tuned, prompt, rest)[0], abs=1e-4)
    printed = capsys.readouterr().out
    assert printed == "harness: 1 of 2 prompts lose their beginning to fit into 40 tokens\n"


def plain_rolling(tuned, chat, text: str) -> float:
    """Windows that predict each token once; the last one reaches back as far as it can."""
    row, total = [chat.tokenizer.bos_token_id, *tokens(chat, text)], 0.0
    for first in range(1, len(row), MAX_LENGTH - 1):
        last = min(first + MAX_LENGTH - 1, len(row))
        begin = max(last - MAX_LENGTH, 0)
        total += plain_likelihood(tuned, row[begin:first], row[first:last])[0]
    return total


def test_rolling_is_the_sum_over_windows(tuned, chat, made):
    assert len(tokens(chat, LONG)) > 2 * MAX_LENGTH
    expected = [plain_rolling(tuned, chat, text) for text in TEXTS]
    for texts, sums, batch_tokens in ((TEXTS, expected, 1), (TEXTS[::-1], expected[::-1], 10_000)):
        asked = requests(*((text,) for text in texts))
        found = made(batch_tokens=batch_tokens).loglikelihood_rolling(asked)
        np.testing.assert_allclose(found, sums, atol=3e-4)


@pytest.fixture(scope="module")
def replies(tuned, chat) -> list[str]:
    """Greedy ones to CONTEXTS, of NEW_TOKENS."""
    return [plain_reply(tuned, chat, context) for context in CONTEXTS]


def replying(**arguments) -> list:
    return requests(*((context, {"max_gen_toks": NEW_TOKENS, **arguments}) for context in CONTEXTS))


@pytest.mark.parametrize("batch_tokens", BATCHES)
def test_replies_are_those_of_one_by_one(made, replies, batch_tokens):
    """Each up to the stop that its own request names."""
    stop = replies[0][2:4]
    asked = [*replying(until=[stop])[:3], *replying()[3:]]
    expected = [reply.partition(stop)[0] for reply in replies[:3]] + replies[3:]
    assert expected[0] == replies[0][:2]
    assert len(set(expected)) > 3
    model = made(batch_tokens=batch_tokens)
    assert model.generate_until(asked) == expected
    assert model.generate_until(asked[::-1]) == expected[::-1]


def test_sampled_replies_depend_on_their_prompts_alone(made, replies):
    """Each of the two equal prompts has a reply of its own."""
    asked = replying(do_sample=True, temperature=1.5, top_p=0.9)
    asked.insert(3, asked.pop())  # the second of the equal ones
    found = made(batch_tokens=1).generate_until(asked)
    assert found[0] != found[3]
    found[0], found[3] = found[3], found[0]
    assert made().generate_until(asked[::-1]) == found[::-1]
    assert replies[0] not in found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_beams": 4, "top_k": 3}, "num_beams, top_k is not supported; a task may give until"),
        (
            {"max_gen_toks": MAX_LENGTH},
            "40 leaves no room for a prompt within model.max_length = 40",
        ),
        ({"until": ["a", ""]}, "a stop string is empty"),
        ({"do_sample": True, "temperature": 1.0, "top_p": 0.0}, "top_p = 0.0"),
    ],
)
def test_wrong_arguments(made, arguments, message):
    with pytest.raises(InputError, match=message):
        made().generate_until(replying(**arguments))


def test_a_tokenizer_without_bos_and_eos(made):
    model = made()
    model.tokenizer = SimpleNamespace(bos_token_id=None, eos_token_id=None, name_or_path="folder")
    with pytest.raises(InputError, match="folder: the tokenizer has neither bos nor eos"):
        _ = model.prefix_token_id


def test_answers_go_to_the_harness_cache(made, pairs):
    """Under the names and arguments by which it looks them up."""
    model, kept = made(), []
    model.set_cache_hook(SimpleNamespace(add_partial=lambda *entry: kept.append(entry)))
    for name, asked in (
        ("loglikelihood", requests(*pairs)),
        ("loglikelihood_rolling", requests(*((text,) for text in TEXTS))),
        ("generate_until", replying()),
    ):
        answers = getattr(model, name)(asked)
        assert kept == [(name, r.args, answer) for r, answer in zip(asked, answers, strict=True)]
        kept.clear()


OWN = "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}>"
HISTORY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Add 3 and 4"},
    {"role": "assistant", "content": "The answer is"},
]


@pytest.mark.parametrize("template", ["tulu", "chatml", "own"])
def test_prompts_in_the_chat_template(made, chat, template):
    if template == "own":
        tokenizer = copy.deepcopy(chat.tokenizer)
        tokenizer.chat_template = OWN
        template = "auto"
    else:
        tokenizer = chat.tokenizer
    of_template = ChatFormat(tokenizer, template)
    model = made(of_template, chats=True)
    messages = [Message(**turn) for turn in HISTORY]
    prompt = model.apply_chat_template(HISTORY[:2])
    assert model.tok_encode(prompt) == of_template.encode_prompt(messages, 99).tolist()
    started = model.apply_chat_template(HISTORY, add_generation_prompt=False)
    assert started == f"{prompt}The answer is"
    assert model.tokenizer_name.endswith(f"skills__base--{of_template.template}")
    assert "/" not in model.tokenizer_name


def test_replies_in_a_chat_end_with_the_turn(made, chat, replies):
    """The turn's end may be several tokens; plain prompts know no turns."""
    marked = copy.copy(chat)
    marked.stop_strings = lambda: (replies[0][2:4],)
    chatting, plain = (made(marked, chats=c).generate_until(replying()) for c in (True, False))
    assert (chatting[0], plain) == (replies[0][:2], replies)


@pytest.fixture(scope="module")
def folder(tuned, expected, replies, tmp_path_factory):
    """Tasks of which some rows are right: every other choice, the first two replies."""
    folder = tmp_path_factory.mktemp("tasks")
    likeliest = likeliest_choices(expected)
    choices = [
        {"question": question, "choices": CHOICES, "gold": (int(best) + number % 2) % 3}
        for number, (question, best) in enumerate(zip(QUESTIONS, likeliest, strict=True))
    ]
    rows = [
        {"question": context, "answer": reply if number < 2 else "No"}
        for number, (context, reply) in enumerate(zip(CONTEXTS, replies, strict=True))
    ]
    write_tasks(folder, choices, rows, [{"text": "It is red."}, {"text": LONG}], until="\n\n\n")
    return folder


def likeliest_choices(expected) -> np.ndarray:
    sums = np.array([value for value, _ in expected[: len(PAIRS)]])
    return sums.reshape(len(QUESTIONS), len(CHOICES)).argmax(axis=1)


def test_tasks_of_a_folder(harness, made, tuned, chat, folder, replies):
    config = config_of(folder, "tiny_group", "tiny_reply", "tiny_text")
    harness.check_tasks(config)
    results = harness.measure(made(), config)
    assert results["versions"]["tiny_first"] == 3
    assert results["results"]["tiny_second"]["acc,none"] == 0.5
    named, less_is_better = read_metrics(results)
    characters = sum(len(text.encode()) for text in ("It is red.", LONG))
    total = sum(plain_rolling(tuned, chat, text) for text in ("It is red.", LONG))
    lowered = [reply.lower() == reply for reply in replies[:2]]
    assert named == {
        "tiny_group/acc": pytest.approx((3 / 5 + 2 / 4) / 2),
        "tiny_reply/exact_match,whole": pytest.approx(2 / 7),
        "tiny_reply/exact_match,lower": pytest.approx(sum(lowered) / 7),
        "tiny_text/byte_perplexity": pytest.approx(np.exp(-total / characters), rel=1e-5),
    }
    assert less_is_better == ["tiny_text/byte_perplexity"]


def test_shots_limit_and_chat_reach_the_harness(harness, made, folder):
    asked = []

    class Recorded(harness.HarnessModel):
        def loglikelihood(self, requests, disable_tqdm=False):
            asked.extend(request.args[0] for request in requests)
            return [(0.0, False) for _ in requests]

    model = made(chats=True)
    model.__class__ = Recorded
    harness.measure(model, config_of(folder, "tiny_first", shots=1, limit=2, chat=True))
    assert len(asked) == 2 * len(CHOICES)
    assert asked[0].startswith("<|user|>\n")
    assert asked[0].count("<|assistant|>") == 2
