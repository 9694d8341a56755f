"""EleutherAI's lm-evaluation-harness: the project's model as it calls one, and runs of its tasks.

No other file imports lm_eval, so import this one only where its tasks are asked for.
"""

import difflib
import functools
import json
import os
from collections.abc import Sequence

import numpy as np

from g2is_jax.data.chat import ChatFormat
from g2is_jax.data.messages import Message
from g2is_jax.evaluation.harness_tasks import HarnessConfig
from g2is_jax.evaluation.likelihood import Likelihoods, continuations, likelihoods
from g2is_jax.evaluation.replies import replies
from g2is_jax.model.build import Model
from g2is_jax.model.generate import Stops
from g2is_jax.model.lora import Leaves
from g2is_jax.model.sampling import GenerateConfig
from g2is_jax.runs.errors import InputError

# Its bootstrap would fork this process, whose threads (JAX's) may then hold locks for ever.
os.environ["DISABLE_MULTIPROC"] = "1"
try:
    import lm_eval
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import (
        get_rolling_token_windows,
        handle_non_serializable,
        make_disjoint_window,
    )
except ImportError as error:
    raise InputError(
        f'lm-evaluation-harness cannot be imported ({error}); pip install -e ".[eval]"'
    ) from error

NEW_TOKENS = 256  # longest reply where the task says nothing, as of the harness's own models
SUPPORTED = ("until", "max_gen_toks", "do_sample", "temperature", "top_p")
SEED = 0  # of sampled replies
DRAWS = 1000  # of the bootstrap, for metrics whose standard error has no formula
VERSION = lm_eval.__version__


class HarnessModel(TemplateLM):
    """Base and adapter as a model of the harness; answers are in the order of the requests.

    TemplateLM brings the harness's own rules of how context and continuation become tokens: both
    at once, then split; blanks at the end of a context belong to the continuation; an empty context
    is the token that begins a sequence. Differs from the harness's Hugging Face model: a row holds
    its last token too, so at most `max_length` - 1 tokens stand before the last one.

    chats: contexts are conversations that `apply_chat_template` wrote.
    """

    def __init__(
        self,
        model: Model,
        adapter: Leaves,
        base: Leaves,
        chat: ChatFormat,
        max_length: int,
        batch_tokens: int,
        chats: bool,
    ):
        super().__init__()
        self.weights = (model, adapter, base)
        self.chat = chat
        self.tokenizer = chat.tokenizer
        self.max_length = max_length
        self.batch_tokens = batch_tokens
        self.chats = chats

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that has no context."""
        found = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        for token in found:
            if token is not None:
                return token
        raise InputError(
            f"{self.tokenizer.name_or_path}: the tokenizer has neither bos nor eos token, so "
            'nothing can stand before a text; set "bos_token" in tokenizer_config.json'
        )

    @property
    def tokenizer_name(self) -> str:
        """The name by which the harness stores requests of this tokenizer and template."""
        return f"{self.tokenizer.name_or_path}--{self.chat.template}".replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Writes a conversation up to the next answer, or to the break in its last message."""
        messages = [Message(turn["role"], turn["content"]) for turn in chat_history]
        if add_generation_prompt:
            return self.chat.prompt_text(messages)
        return self.chat.prompt_text(messages[:-1]) + messages[-1].content

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs
    ) -> list[int]:
        """Encodes a text, with the tokens that the tokenizer adds unless they are in it."""
        if add_special_tokens is None:
            bos = self.tokenizer.bos_token
            own = self.chats and self.chat.template == "own"
            add_special_tokens = not (own or (bos and string.startswith(bos)))
        found = self.tokenizer(string, add_special_tokens=add_special_tokens, verbose=False)
        return found["input_ids"]

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """Scores every token of each text once, in windows of at most `max_length` tokens."""
        pairs, owners = [], []
        for number, request in enumerate(requests):
            (text,) = request.args
            windows = get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, self.max_length - 1, context_len=1
            )
            for window in windows:
                pairs.append(make_disjoint_window(window))
                owners.append(number)
        sums_M = self._likelihoods(pairs).sums_M
        totals = np.bincount(owners, sums_M, minlength=len(requests)).tolist()
        self._remember("loglikelihood_rolling", requests, totals)
        return totals

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """Generates replies, cut before the first stop; requests of equal arguments go together."""
        asked: dict[tuple[GenerateConfig, Stops], list[int]] = {}
        for number, request in enumerate(requests):
            asked.setdefault(self._read_arguments(request.args[1]), []).append(number)
        texts = [""] * len(requests)
        for (config, stops), numbers in asked.items():
            prompts = self._prompts([requests[n].args[0] for n in numbers], config.new_tokens)
            found = replies(*self.weights, self.chat, prompts, config, stops, self.batch_tokens)
            self._remember("generate_until", [requests[n] for n in numbers], found)
            for number, text in zip(numbers, found, strict=True):
                texts[number] = text
        return texts

    def _loglikelihood_tokens(self, requests, **kwargs) -> list[tuple[float, bool]]:
        """Answers TemplateLM's `loglikelihood`: requests are (texts, context, continuation)."""
        found = self._likelihoods([(context, rest) for _, context, rest in requests])
        answers = list(zip(found.sums_M.tolist(), found.greedy_M.tolist(), strict=True))
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _likelihoods(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Likelihoods:
        rows = continuations(pairs, self.max_length)
        _report_cut([row.truncated for row in rows], self.max_length)
        return likelihoods(*self.weights, rows, self.batch_tokens)

    def _prompts(self, contexts: Sequence[str], new_tokens: int) -> list[np.ndarray]:
        """Encodes contexts; those that leave no room for the reply lose their beginning."""
        room = self.max_length - new_tokens
        if room < 1:
            raise InputError(
                f"max_gen_toks = {new_tokens} leaves no room for a prompt within "
                f"model.max_length = {self.max_length}; lower it in the task's generation_kwargs, "
                "or raise model.max_length"
            )
        prompts = [self.tok_encode(context) or [self.prefix_token_id] for context in contexts]
        _report_cut([len(prompt) > room for prompt in prompts], room)
        return [np.asarray(prompt[-room:], np.int32) for prompt in prompts]

    def _read_arguments(self, arguments: dict) -> tuple[GenerateConfig, Stops]:
        """Reads a request's `generation_kwargs`; greedy unless they ask for a temperature."""
        asked = dict(normalize_gen_kwargs(arguments, NEW_TOKENS))
        unknown = [name for name in asked if name not in SUPPORTED]
        if unknown:
            raise InputError(
                f"generation_kwargs: {', '.join(unknown)} is not supported; a task may give "
                f"{', '.join(SUPPORTED)}"
            )
        temperature, top_p = float(asked.get("temperature", 0.0)), float(asked.get("top_p", 1.0))
        config = GenerateConfig(asked["max_gen_toks"], temperature, top_p, SEED)
        strings = (*asked["until"], *(self.chat.stop_strings() if self.chats else ()))
        return config, Stops(self.chat.end_tokens(), strings)

    def _remember(self, method: str, requests, answers: Sequence) -> None:
        """Adds answers to the harness's own cache, where it is in use."""
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial(method, request.args, answer)


def _report_cut(cut: Sequence[bool], room: int) -> None:
    if any(cut):
        print(
            f"harness: {sum(cut):,} of {len(cut):,} prompts lose their beginning to fit into "
            f"{room:,} tokens",
            flush=True,
        )


def measure(model: HarnessModel, config: HarnessConfig) -> dict:
    """Runs the tasks; returns the JSON that the harness would write, without single rows."""
    results = lm_eval.simple_evaluate(
        model,
        tasks=list(config.tasks),
        num_fewshot=None if config.shots < 0 else config.shots,
        limit=config.limit or None,
        bootstrap_iters=DRAWS,
        log_samples=False,
        apply_chat_template=config.chat,
        task_manager=task_manager(config),
        torch_random_seed=None,  # it would import PyTorch where that is installed
    )
    return json.loads(json.dumps(results, default=handle_non_serializable))


def check_tasks(config: HarnessConfig) -> None:
    """Loads all tasks and their data, so that InputError names what is wrong before any work."""
    manager = task_manager(config)
    for task in config.tasks:
        if task not in manager.all_tasks:
            near = difflib.get_close_matches(task, manager.all_tasks, n=1)
            hint = f"did you mean {near[0]}?" if near else "`lm-eval ls tasks` lists all"
            raise InputError(f"evaluate.harness_tasks: there is no task {task!r}; {hint}")
    try:
        manager.load(list(config.tasks))  # all at once: no task may come in by two names
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"evaluate.harness_tasks = {','.join(config.tasks)} cannot be loaded "
            f"({type(error).__name__}: {reason}); check the names, and that the hub can be reached "
            "or the tasks' YAML files name local files"
        ) from error


def task_manager(config: HarnessConfig) -> TaskManager:
    """Finds tasks in the folder alone where they suffice: to read all others takes many seconds."""
    return _task_manager(config.tasks, config.include, config.digest())


@functools.cache
def _task_manager(tasks: tuple[str, ...], include: str, digest: str) -> TaskManager:
    """Caches managers by the folder's digest, so that a changed file is read again."""
    if include:
        own = TaskManager(include_path=include, include_defaults=False)
        if set(tasks) <= set(own.all_tasks):
            return own
    return TaskManager(include_path=include or None)
