"""The chat template that a tokenizer brings: the text that it writes, and each reply's place in it.

Templates of thinking models write more than the turns: an empty think block before a reply without
thoughts, a think tag that ends the prompt, or less: the thoughts of the last reply alone. So a
reply is looked for in its turn, and what the template adds before it is not learned.
"""

import dataclasses
import datetime
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from g2is_jax.data.messages import Message
from g2is_jax.data.reply_places import Marked, Place, find_places, with_marks
from g2is_jax.data.template_date import date_macro, takes_date_string, writes_now
from g2is_jax.data.templates import TEMPLATES, Span
from g2is_jax.runs.errors import InputError

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

GENERATION_TAG = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
OPENED = re.compile(r"<think>\s*$")
WAY_OUT = f"name a chat template instead: {', '.join(TEMPLATES)}"
NO_SYSTEM = (
    "the tokenizer's chat template has no system role: the system text stands before the first "
    "user message"
)
THOUGHTS_LEFT_OUT = "the tokenizer's chat template leaves thoughts out: they are not learned"
REPLY_LEFT_OUT = "the tokenizer's chat template leaves a reply out: it is not learned"
NOT_MARKED = (
    "the tokenizer's chat template marks not every reply by {% generation %}: those it does not "
    "mark are found by their text, and learned"
)


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, the pieces of each reply to learn, and notes on what was changed."""

    text: str
    replies: list[list[Span]]  # of each reply, in order; none where the template leaves it out
    notes: tuple[str, ...] = ()


class OwnTemplate:
    """The template of a tokenizer. `today`: the date that it writes, where it writes one."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", today: datetime.date):
        text = _template_text(tokenizer)
        self.writes_date = writes_now(text) or takes_date_string(text)
        self._marked = GENERATION_TAG.search(text) is not None
        self._text = f"{date_macro(today)}\n{text}" if writes_now(text) else text
        self._variables: dict[str, Any] = dict(tokenizer.special_tokens_map)
        if takes_date_string(text):
            self._variables["date_string"] = today.strftime("%d %b %Y")
        self._added = tokenizer.get_added_vocab()

    def render(self, messages: Sequence[Message]) -> Rendered:
        """Returns the text of a conversation and the pieces of each reply to learn.

        A reply's piece ends behind the mark that ends its turn. Raises InputError where the
        template refuses the conversation, or a reply cannot be found in what it writes.
        """
        messages, notes = self._with_system_joined(messages)
        text, spans = self._write(messages, spans=self._marked)
        marked = with_marks(messages)
        places = find_places(text, self._write(marked.messages)[0], marked)
        if places is None and spans:
            return Rendered(text, _by_order(spans, marked), tuple(notes))
        if places is None or (places and all(place.reply is None for place in places)):
            raise InputError(
                f"message {marked.replies[0] + 1} cannot be found exactly in what the tokenizer's "
                f"own chat template writes; {WAY_OUT}"
            )
        found, lower = [], 0
        for place in places:
            found.append(self._learned(text, place, lower))
            lower = found[-1][-1][1] if found[-1] else lower
        notes += [THOUGHTS_LEFT_OUT] * any(place.thought_left_out for place in places)
        notes += [REPLY_LEFT_OUT] * any(place.reply is None for place in places)
        if self._marked:
            clipped = [_clipped(pieces, spans) for pieces in found]
            missing = any(pieces and not kept for pieces, kept in zip(found, clipped, strict=True))
            notes += [NOT_MARKED] * missing
            found = [kept or pieces for pieces, kept in zip(found, clipped, strict=True)]
        return Rendered(text, found, tuple(notes))

    @functools.cached_property
    def ends(self) -> list[str]:
        """The texts that the template writes behind a reply, such as `<|im_end|>`; none if nothing.

        The first is that of every reply; where there is none, that of the last and of the others.
        """
        turns = [Message("user", "\ue000"), Message("assistant", "\ue001")]
        turns += [Message("user", "\ue002"), Message("assistant", "\ue003")]
        try:
            alone, several = (self._write(turns[:count])[0] for count in (2, 4))
        except InputError:
            return []
        last = [alone.partition("\ue001")[2], several.partition("\ue003")[2]]
        inner = several.partition("\ue001")[2].partition("\ue002")[0]
        every = _shared(*last, inner).rstrip()
        if every:
            return [self._to_token(every, max)]
        header = _shared(inner[::-1], alone.partition("\ue000")[0][::-1])
        inner = inner[: len(inner) - len(header)]  # without that of the next question
        if not any(token in inner for token in self._added):
            inner = ""
        found = _shared(*last).rstrip(), inner.rstrip()
        return [end for end in (self._to_token(text, min) for text in found) if end.strip()]

    def _to_token(self, text: str, choose: Callable) -> str:
        """Returns a text up to its first (min) or last (max) special token; whole without any."""
        found = [token for token in self._added if token in text]
        places = [match.end() for token in found for match in re.finditer(re.escape(token), text)]
        return text[: choose(places)] if places else text

    @functools.cached_property
    def _headers(self) -> list[str]:
        """The header that asks for a reply; then the same without an opened think tag."""
        turns = [Message("user", "\ue000")]
        try:
            asked, said = self._write(turns, asks=True)[0], self._write(turns)[0]
        except InputError:
            return []
        header = asked[len(said) :] if asked.startswith(said) else ""
        return [text for text in dict.fromkeys((header, OPENED.sub("", header))) if text]

    @functools.cached_property
    def _has_system(self) -> bool:
        """True where the template writes a system message, or refuses other turns too."""
        turns = [Message("system", "\ue000"), Message("user", "a"), Message("assistant", "b")]
        try:
            return "\ue000" in self._write(turns)[0]
        except InputError:
            pass
        try:
            self._write(turns[1:])
        except InputError:
            return True
        return False

    def _with_system_joined(
        self, messages: Sequence[Message]
    ) -> tuple[Sequence[Message], list[str]]:
        roles = [message.role for message in messages[:2]]
        if roles != ["system", "user"] or self._has_system:
            return messages, []
        system, user, *others = messages
        if not system.content.strip():
            return [user, *others], []
        text = f"{system.content}\n\n{user.content}"
        return [dataclasses.replace(user, content=text), *others], [NO_SYSTEM]

    def _learned(self, text: str, place: Place, lower: int) -> list[Span]:
        """Returns the piece of a reply: from its thought or text to the mark that ends its turn."""
        if place.reply is None:
            return []
        first, (_, last) = place.thought or place.reply, place.reply
        start = self._start(text, first[0], lower, place.thought is not None)
        end = next((end for end in self.ends if text.startswith(end, last)), "")
        return [(start, last + len(end))]

    def _start(self, text: str, first: int, lower: int, thinks: bool) -> int:
        """Returns where a reply begins whose text, or thought, is at `first`.

        Blanks between the header and the text belong to the reply, as most tokenizers join them to
        the first word; the tag that opens a thought does too, unless the header ends in it.
        """
        word = next((i for i in range(first, len(text)) if not text[i].isspace()), len(text))
        for header in self._headers:
            found = text.rfind(header, lower, word)
            behind = found + len(header)
            if found >= 0 and (thinks or not text[behind:first].strip()):
                return behind
        opened = text.rfind("<think>", lower, first) if thinks else -1
        return opened if opened >= 0 else lower + len(text[lower:first].rstrip(" "))

    def _write(
        self, messages: Sequence[Message], asks: bool = False, spans: bool = False
    ) -> tuple[str, list[Span]]:
        """Returns the text, and with `spans` the pieces that `{% generation %}` marks.

        Not apply_chat_template(return_assistant_tokens_mask=True), which uses the same pieces:
        where a reply ends in a trimmed space it marks everything that follows.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        render: Any = render_jinja_template  # its annotations are too narrow
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            texts, found = render(
                conversations=[turns],
                chat_template=self._text,
                return_assistant_tokens_mask=spans,
                add_generation_prompt=asks,
                **self._variables,
            )
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(
                f"the tokenizer's own chat template refuses the conversation ({reason}); {WAY_OUT}"
            ) from error
        return texts[0], [(start, end) for start, end in found[0]] if spans else []


def _template_text(tokenizer: "PreTrainedTokenizerBase") -> str:
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:
        named = ", ".join(sorted(dict(tokenizer.chat_template or {})))
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer has chat templates named {named}, and none "
            f'"default"; {WAY_OUT}'
        ) from error


def _shared(*texts: str) -> str:
    """Returns the longest beginning that all texts share."""
    columns = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in columns)


def _clipped(pieces: list[Span], marks: list[Span]) -> list[Span]:
    """Returns the parts of a reply's pieces that are marked."""
    parts = [(max(a, c), min(b, d)) for a, b in pieces for c, d in marks]
    return [(start, end) for start, end in parts if start < end]


def _by_order(marks: list[Span], marked: Marked) -> list[list[Span]]:
    """Returns the marks as the pieces of the replies, which are not found otherwise."""
    if len(marks) != len(marked.replies):
        raise InputError(
            f"the tokenizer's own chat template marks {len(marks)} pieces for "
            f"{len(marked.replies)} replies, which are not found by their text; {WAY_OUT}"
        )
    return [[mark] for mark in marks]
