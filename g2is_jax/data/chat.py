"""Turns messages into tokens, and marks the tokens that the model is to learn."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from g2is_jax.data.files import Record
from g2is_jax.data.messages import Message
from g2is_jax.data.templates import END_OF_TURN, TEMPLATES, Span, render_named
from g2is_jax.data.tokenizer import configured_ends, end_of_sequence
from g2is_jax.runs.errors import InputError

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

ROWS_PER_CALL = 1024  # offsets come back as Python tuples: keep few rows of them alive at a time
FALLBACK = "tulu"
GENERATION_TAG = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


@dataclass(frozen=True)
class Encoded:
    """An example as the model sees it."""

    tokens_T: np.ndarray  # int32
    supervised_T: np.ndarray  # bool: this token is predicted and counted in the loss
    truncated: bool


class ChatFormat:
    """A tokenizer with a chat template: `auto` (its own, else tulu) or one of TEMPLATES.

    Each row is rendered once and tokenised once; assistant turns are found by their characters. A
    token is supervised if it starts inside an assistant turn's text and end-of-turn mark. (A token
    that also covers the header before it, as where "\\n" and "\\n" merge, is not.) The token that
    begins a sequence is written where the tokenizer itself writes it.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", template: str):
        if template != "auto" and template not in TEMPLATES:
            known = ", ".join(["auto", *TEMPLATES])
            raise InputError(f'chat template "{template}" is unknown; known are {known}')
        if not tokenizer.is_fast:
            raise InputError(
                f"{tokenizer.name_or_path}: the tokenizer is slow and gives no character offsets; "
                "convert it to a fast one (a folder with tokenizer.json)"
            )
        self.tokenizer = tokenizer
        if template == "auto":
            template = "own" if tokenizer.chat_template else FALLBACK
        self.template = template  # "own" or a key of TEMPLATES
        if template == "own":
            self._own_text = tokenizer.get_chat_template()
            self._marked = GENERATION_TAG.search(self._own_text) is not None
            self._start: list[int] = []  # the tokenizer's own template writes it into the text
        else:
            self._end = TEMPLATES[template].end or end_of_sequence(tokenizer)
            first = tokenizer("a", verbose=False)["input_ids"][:1]
            self._start = first if first == [tokenizer.bos_token_id] else []

    def encode(self, messages: Sequence[Message], max_length: int) -> Encoded:
        """Returns tokens and supervised mask of a conversation, cut after `max_length` tokens."""
        return self._encode_texts([self._render(messages)], max_length)[0]

    def encode_all(self, records: Sequence[Record], max_length: int) -> list[Encoded]:
        """Encodes every record, many rows to a call of the tokenizer."""
        encoded = []
        for first in range(0, len(records), ROWS_PER_CALL):
            rendered = []
            for record in records[first : first + ROWS_PER_CALL]:
                try:
                    rendered.append(self._render(record.messages))
                except InputError as error:
                    raise InputError(f'row {record.row} (id "{record.id}"): {error}') from error
            encoded += self._encode_texts(rendered, max_length)
        return encoded

    def encode_prompt(self, messages: Sequence[Message], max_length: int) -> np.ndarray:
        """Returns the tokens before the last assistant turn (if a user spoke last: a new turn).

        A longer prompt loses its beginning, so that the question and the assistant header stay.
        """
        if messages[-1].role == "assistant":
            messages = messages[:-1]
        if self.template == "own":
            tokens = self._tokenise([self.prompt_text(messages)])["input_ids"][0]
            start = tokens[:1] if tokens[0] == self.tokenizer.bos_token_id else []
        else:
            tokens = self._start + self._named_prompt(messages)
            start = self._start
        if len(tokens) > max_length:
            tokens = start + tokens[len(tokens) - max_length + len(start) :]
        return np.asarray(tokens, np.int32)

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """Returns the conversation as text, up to where the next assistant turn starts."""
        if self.template == "own":
            return self._own_rendering(messages, generation_prompt=True)
        text, spans = self._render([*messages, Message("assistant", "A")])
        return text[: spans[-1][0]]

    def end_tokens(self) -> tuple[int, ...]:
        """Returns the ids at which generation stops: eos, the config's own, end-of-turn marks."""
        special = self.tokenizer.get_added_vocab()
        ends = {special[token] for token in END_OF_TURN if token in special}
        if self.tokenizer.eos_token_id is not None:
            ends.add(self.tokenizer.eos_token_id)
        return tuple(sorted(ends | configured_ends(self.tokenizer.name_or_path)))

    def stop_strings(self) -> tuple[str, ...]:
        """Returns texts at which generation stops too: ends of a turn that are no single token.

        A named template's mark may be plain text to the tokenizer: there it is many tokens.
        """
        if self.template == "own":
            return ()
        template = TEMPLATES[self.template]
        plain = template.end is not None and template.end not in self.tokenizer.get_added_vocab()
        return ((self._end,) if plain else ()) + template.stops

    def _render(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """Returns the text of a conversation and the character spans to learn."""
        text, spans = self._render_replies(messages)
        replies = [message for message in messages if message.role == "assistant"]
        if all(reply.learned for reply in replies):
            return text, spans
        if len(spans) != len(replies):
            raise InputError(
                f"the tokenizer's own chat template marks {len(spans)} pieces for {len(replies)} "
                "replies, of which some are not to be learned; name a chat template instead: "
                f"{', '.join(TEMPLATES)}"
            )
        return text, [span for reply, span in zip(replies, spans, strict=True) if reply.learned]

    def _render_replies(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """Returns the text of a conversation and the character span of each reply."""
        if self.template == "own":
            return self._own_marked(messages) if self._marked else self._own_by_prefix(messages)
        return render_named(self.template, messages, self._end)

    def _named_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Returns the tokens before an answer, as they are where an answer follows.

        Without the answer the text may end in other tokens: GPT-2's rule splits two line breaks
        before a word and joins them at the end of a text. Where one token covers both the end of
        the header and the answer's beginning, the header is tokenised alone.
        """
        text, spans = self._render([*messages, Message("assistant", "A")])
        length = spans[-1][0]
        batch = self._tokenise([text])
        ends_T = np.asarray(batch["offset_mapping"][0])[:, 1]
        kept = int(np.searchsorted(np.maximum.accumulate(ends_T), length, side="right"))
        if kept and ends_T[kept - 1] == length:
            return batch["input_ids"][0][:kept]
        return self._tokenise([text[:length]])["input_ids"][0]

    def _own_marked(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """Takes the spans from the template's `{% generation %}` blocks.

        Not apply_chat_template(return_assistant_tokens_mask=True), which uses the same spans: where
        an answer ends in a trimmed space it marks everything that follows.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        render: Any = render_jinja_template  # its annotations are too narrow
        try:
            texts, spans = render(
                conversations=[_as_dicts(messages)],
                chat_template=self._own_text,
                return_assistant_tokens_mask=True,
                **self.tokenizer.special_tokens_map,
            )
        except Exception as error:
            raise _template_error(error) from error
        return texts[0], [(start, end) for start, end in spans[0]]

    def _own_by_prefix(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """Finds the spans by rendering the conversation up to and after each assistant turn."""
        text = self._own_rendering(messages, generation_prompt=False)
        spans = []
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self._own_rendering(messages[:index], generation_prompt=True)
            through = self._own_rendering(messages[: index + 1], generation_prompt=False)
            turn = through[len(before) :]
            lead = len(turn) - len(turn.lstrip())
            content = message.content.strip()
            if not (
                text.startswith(before)
                and text.startswith(through)
                and through.startswith(before)
                and turn.startswith(content, lead)
            ):
                raise InputError(
                    f"message {index + 1} cannot be found exactly in what the tokenizer's own chat "
                    f"template writes; name a chat template instead: {', '.join(TEMPLATES)}"
                )
            # The line break that many templates write after the end-of-turn mark is not learned.
            spans.append((len(before), len(before) + max(len(turn.rstrip()), lead + len(content))))
        return text, spans

    def _own_rendering(self, messages: Sequence[Message], generation_prompt: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                _as_dicts(messages), tokenize=False, add_generation_prompt=generation_prompt
            )
        except Exception as error:
            raise _template_error(error) from error
        return str(text)

    def _tokenise(self, texts: list[str]) -> Any:
        return self.tokenizer(
            texts,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # rows longer than the model's length are cut below
        )

    def _encode_texts(
        self, rendered: list[tuple[str, list[Span]]], max_length: int
    ) -> list[Encoded]:
        batch = self._tokenise([text for text, _ in rendered])
        encoded = []
        for (_, spans), ids, offsets in zip(
            rendered, batch["input_ids"], batch["offset_mapping"], strict=True
        ):
            tokens_T = np.asarray(self._start + ids, np.int32)
            supervised_T = np.zeros(len(tokens_T), bool)
            supervised_T[len(self._start) :] = _inside(np.asarray(offsets).reshape(-1, 2), spans)
            encoded.append(
                Encoded(
                    tokens_T[:max_length].copy(),
                    supervised_T[:max_length].copy(),
                    truncated=len(tokens_T) > max_length,
                )
            )
        return encoded


def _as_dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _template_error(error: Exception) -> InputError:
    reason = str(error).strip().split("\n")[0]
    return InputError(
        f"the tokenizer's own chat template refuses the conversation ({reason}); "
        f"name a chat template instead: {', '.join(TEMPLATES)}"
    )


def _inside(offsets_T2: np.ndarray, spans: list[Span]) -> np.ndarray:
    """Marks the tokens that start inside a character span; (T, 2) -> (T,).

    Byte-level tokenizers may leave a token's leading blanks out of its offsets, but never its last
    character: so a token starts no later than where the one before it ended. The last token of an
    end-of-turn mark that is plain text may cover what follows: it has to be learned to end a turn.
    """
    ends_T = offsets_T2[:, 1]
    before_T = np.concatenate([[0], np.maximum.accumulate(ends_T)])[: len(ends_T)]
    starts_T = np.minimum(offsets_T2[:, 0], before_T)
    inside_T = np.zeros(len(ends_T), bool)
    for start, end in spans:
        reaches_T = (ends_T > start) & ((ends_T <= end) | (offsets_T2[:, 0] < end))
        inside_T |= (starts_T >= start) & reaches_T
    return inside_T
