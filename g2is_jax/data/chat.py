"""Turns messages into tokens, and marks the tokens that the model is to learn."""

import datetime
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from g2is_jax.data.files import Record
from g2is_jax.data.messages import Message
from g2is_jax.data.own_template import WAY_OUT, OwnTemplate, Rendered
from g2is_jax.data.reply_places import split_thought
from g2is_jax.data.templates import END_OF_TURN, TEMPLATES, Span, render_named
from g2is_jax.data.tokenizer import configured_ends, end_of_sequence
from g2is_jax.runs.errors import InputError

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

ROWS_PER_CALL = 1024  # offsets come back as Python tuples: keep few rows of them alive at a time
FALLBACK = "tulu"
Written = tuple[str, list[Span]]  # a conversation as text, and the characters to learn
# Conversations whose tokens tell one format from another: blanks, digits, accents, code, thoughts.
PROBES = (
    (
        Message("system", "Be brief: é, 漢, 😀."),
        Message("user", "What is 12345 + 67?\n\n  def f(x):\n\treturn x"),
        Message("assistant", "It is  12412.\n\nDone, isn't it?"),
        Message("user", "And <b>twice</b> that?"),
        Message("assistant", "24,824"),
    ),
    (Message("user", "1 + 1?"), Message("assistant", "<think>\nOne, two.\n</think>\n\n2")),
)


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

    today: the date that the tokenizer's own template writes, if it writes one; None: the present
    one. notes: what that template changed in the rows that were `written`, counted in rows.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        template: str,
        today: datetime.date | None = None,
    ):
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
        self.notes = Counter[str]()
        self.today: datetime.date | None = None  # where it is written
        self._own: OwnTemplate | None = None
        if template == "own":
            today = today or datetime.date.today()
            self._own = OwnTemplate(tokenizer, today)
            self.today = today if self._own.writes_date else None
            self._start: list[int] = []  # the tokenizer's own template writes it into the text
        else:
            self._end = TEMPLATES[template].end or end_of_sequence(tokenizer)
            first = tokenizer("a", verbose=False)["input_ids"][:1]
            self._start = first if first == [tokenizer.bos_token_id] else []

    def encode(self, messages: Sequence[Message], max_length: int) -> Encoded:
        """Returns tokens and supervised mask of a conversation, cut after `max_length` tokens."""
        rendered = self._render(messages)
        return self.encode_written([(rendered.text, _spans(messages, rendered))], max_length)[0]

    def written(self, messages: Sequence[Message]) -> Written:
        """Returns a conversation as text; InputError where the template cannot write it."""
        rendered = self._render(messages)
        self.notes.update(rendered.notes)
        return rendered.text, _spans(messages, rendered)

    def encode_all(self, records: Sequence[Record], max_length: int) -> list[Encoded]:
        """Encodes every record, many rows to a call of the tokenizer."""
        encoded = []
        for first in range(0, len(records), ROWS_PER_CALL):
            texts = []
            for record in records[first : first + ROWS_PER_CALL]:
                try:
                    texts.append(self.written(record.messages))
                except InputError as error:
                    raise InputError(f'row {record.row} (id "{record.id}"): {error}') from error
            encoded += self.encode_written(texts, max_length)
        return encoded

    def encode_prompt(self, messages: Sequence[Message], max_length: int) -> np.ndarray:
        """Returns the tokens before the last assistant turn (if a user spoke last: a new turn).

        They are those that stand before the turn in training: with an empty think block where the
        template writes one before a reply without thoughts, and without the think tag that the
        template's own prompt may end in where replies do not begin with it. A longer prompt loses
        its beginning, so that the question and the assistant header stay.
        """
        tokens = self._start + self._before_reply(*self._prompt(messages))
        begins = tokens[:1] == [self.tokenizer.bos_token_id]
        start = tokens[:1] if begins and (self._own or self._start) else []
        if len(tokens) > max_length:
            tokens = start + tokens[len(tokens) - max_length + len(start) :]
        return np.asarray(tokens, np.int32)

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """Returns the conversation as text, up to where the next assistant turn starts."""
        text, length = self._prompt([*messages, Message("assistant", "A")])
        return text[:length]

    @functools.cached_property
    def probe(self) -> str:
        """A hash of the tokens, learned ones and prompts of PROBES: what the format does."""
        found: list = []
        for messages in PROBES:
            try:
                encoded, prompt_T = self.encode(messages, 4096), self.encode_prompt(messages, 4096)
            except InputError as error:
                found.append(str(error))
                continue
            parts = encoded.tokens_T, encoded.supervised_T, prompt_T
            found.append([part.astype(int).tolist() for part in parts])
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]

    def summary(self) -> list[str]:
        """Returns lines on the format, and on what the template changed in the rows so far."""
        ends = self._ends_of_turn()
        lines = []
        eos = self.tokenizer.eos_token
        if not ends:
            lines.append("nothing follows a reply, so where it ends is not learned")
        elif eos is not None and not any(eos in end for end in ends):
            lines.append(
                f"a reply ends in {ends[0]!r}, not in the tokenizer's end of sequence {eos!r}: "
                "generation stops at either"
            )
        lines += [f"{note} ({count:,} rows)" for note, count in sorted(self.notes.items())]
        return [f"chat template {self.template}: {line}" for line in lines]

    def end_tokens(self) -> tuple[int, ...]:
        """Returns the ids at which generation stops: eos, the config's own, end-of-turn marks."""
        special = self.tokenizer.get_added_vocab()
        ends = {special[token] for token in END_OF_TURN if token in special}
        ends |= {special[end.strip()] for end in self._ends_of_turn() if end.strip() in special}
        if self.tokenizer.eos_token_id is not None:
            ends.add(self.tokenizer.eos_token_id)
        return tuple(sorted(ends | configured_ends(self.tokenizer.name_or_path)))

    def stop_strings(self) -> tuple[str, ...]:
        """Returns texts at which generation stops too: ends of a turn that are no single token.

        A template's mark may be plain text to the tokenizer: there it is many tokens.
        """
        special = self.tokenizer.get_added_vocab()
        plain = [e for e in self._ends_of_turn() if not any(token in e for token in special)]
        return (*plain, *(() if self._own else TEMPLATES[self.template].stops))

    def _ends_of_turn(self) -> list[str]:
        return self._own.ends if self._own else [self._end]

    def _render(self, messages: Sequence[Message]) -> Rendered:
        """Returns the text of a conversation and the character spans of each reply."""
        if self._own:
            return self._own.render(messages)
        text, spans = render_named(self.template, messages, self._end)
        return Rendered(text, [[span] for span in spans])

    def _prompt(self, messages: Sequence[Message]) -> tuple[str, int]:
        """Returns a text that goes on with a reply, and the characters before the reply."""
        asked, reply = messages, "A"
        if messages[-1].role == "assistant":
            asked = messages[:-1]
            opening, thought, closing, _ = split_thought(messages[-1].content)
            if self._own and thought.strip():
                blanks = thought[: len(thought) - len(thought.lstrip())]
                reply = f"{opening}{blanks}A{closing}A"
        rendered = self._render([*asked, Message("assistant", reply)])
        if not rendered.replies[-1]:
            raise InputError(f"the tokenizer's own chat template leaves the reply out; {WAY_OUT}")
        return rendered.text, rendered.replies[-1][0][0]

    def _before_reply(self, text: str, length: int) -> list[int]:
        """Returns the tokens before an answer, as they are where an answer follows.

        Without the answer the text may end in other tokens: GPT-2's rule splits two line breaks
        before a word and joins them at the end of a text. Where one token covers both the end of
        the header and the answer's beginning, the header is tokenised alone.
        """
        batch = self._tokenise([text])
        ends_T = np.asarray(batch["offset_mapping"][0])[:, 1]
        kept = int(np.searchsorted(np.maximum.accumulate(ends_T), length, side="right"))
        if kept and ends_T[kept - 1] == length:
            return batch["input_ids"][0][:kept]
        return self._tokenise([text[:length]])["input_ids"][0]

    def _tokenise(self, texts: list[str]) -> Any:
        return self.tokenizer(
            texts,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # rows longer than the model's length are cut below
        )

    def encode_written(self, rendered: Sequence[Written], max_length: int) -> list[Encoded]:
        """Returns tokens and supervised masks of at most ROWS_PER_CALL conversations."""
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


def _spans(messages: Sequence[Message], rendered: Rendered) -> list[Span]:
    """Returns the characters to learn: those of the replies that are not marked otherwise."""
    replies = [message for message in messages if message.role == "assistant"]
    pieces = zip(replies, rendered.replies, strict=True)
    return [span for reply, spans in pieces if reply.learned for span in spans]


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
