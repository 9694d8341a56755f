"""The named chat templates: how a conversation is written for each family of models.

None writes the beginning-of-sequence token: it is put first where the tokenizer itself puts it,
as those of Llama, Mistral and Gemma do. None adds a system message of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from g2is_jax.data.messages import ROLES, Message
from g2is_jax.runs.errors import InputError

Piece = tuple[str, bool]  # text, and whether it is learned
Span = tuple[int, int]  # half-open range of characters

ALPACA_HEADER = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)


@dataclass(frozen=True)
class Template:
    """A rule that writes a conversation: (messages, end of turn) -> pieces.

    Each assistant turn is one learned piece: its text and the mark that ends it.
    """

    write: Callable[[Sequence[Message], str], list[Piece]]
    end: str | None = None  # the mark that ends a turn; None: the tokenizer's end of sequence
    in_turn: bool = False  # user and assistant must alternate, after at most one system message
    stops: tuple[str, ...] = ()  # texts a reply cannot hold: there generation has run on


def render_named(name: str, messages: Sequence[Message], end: str) -> tuple[str, list[Span]]:
    """Writes the conversation by the named template; returns it and the characters to learn.

    Raises InputError where the template cannot express the conversation.
    """
    _check_roles(name, messages)
    text, spans = "", []
    for piece, learned in TEMPLATES[name].write(messages, end):
        if learned:
            spans.append((len(text), len(text) + len(piece)))
        text += piece
    return text, spans


def _check_roles(name: str, messages: Sequence[Message]) -> None:
    template = TEMPLATES[name]
    first = 1 if template.in_turn and messages[0].role == "system" else 0
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            raise InputError(
                f'message {index + 1} has the role "{message.role}", which the chat template '
                f'"{name}" cannot write; known are {", ".join(ROLES)}'
            )
        expected = "user" if (index - first) % 2 == 0 else "assistant"
        if template.in_turn and index >= first and message.role != expected:
            free = ", ".join(other for other in TEMPLATES if not TEMPLATES[other].in_turn)
            raise InputError(
                f"message {index + 1} is from {message.role}, where the chat template "
                f'"{name}" can only write {expected}; reorder the messages, or name a chat '
                f"template that takes any order: {free}"
            )


def _tulu(messages: Sequence[Message], end: str) -> list[Piece]:
    pieces: list[Piece] = []
    for message in messages:
        pieces.append((f"<|{message.role}|>\n", False))
        if message.role == "assistant":
            pieces += [(message.content + end, True), ("\n", False)]
        else:
            pieces.append((message.content + "\n", False))
    # As in open-instruct, nothing follows the last answer.
    return pieces[:-1] if messages[-1].role == "assistant" else pieces


def _llama3(messages: Sequence[Message], end: str) -> list[Piece]:
    """Writes turns as Meta-Llama-3-8B-Instruct, without the dated system message of Llama 3.1."""
    pieces: list[Piece] = []
    for message in messages:
        pieces.append((f"<|start_header_id|>{message.role}<|end_header_id|>\n\n", False))
        pieces.append((message.content.strip() + end, message.role == "assistant"))
    return pieces


def _chatml(messages: Sequence[Message], end: str) -> list[Piece]:
    """Writes turns as Qwen and SmolLM; without the system message they add where there is none."""
    pieces: list[Piece] = []
    for message in messages:
        pieces.append((f"<|im_start|>{message.role}\n", False))
        pieces += [(message.content + end, message.role == "assistant"), ("\n", False)]
    return pieces


def _mistral(messages: Sequence[Message], end: str) -> list[Piece]:
    """Writes turns as Mistral-7B-Instruct-v0.3: a blank after [INST] and before answers, no other.

    The blank before an answer is learned with it, as most tokenizers join it to the first word.
    Differs from v0.3, which writes the system text only into a last message that is the user's: it
    stands before the first user message, as in v0.1. (v0.1 has a blank before each [/INST] too.)
    """
    system, turns = _system_and_turns(messages)
    pieces: list[Piece] = []
    for index, message in enumerate(turns):
        if message.role == "assistant":
            pieces.append((" " + message.content.strip() + end, True))
        else:
            before = system if index == 0 else ""
            pieces.append((f"[INST] {before}{message.content}[/INST]", False))
    return pieces


def _gemma(messages: Sequence[Message], end: str) -> list[Piece]:
    """Writes turns as Gemma, with the system text before the first user message as in Gemma 3."""
    system, turns = _system_and_turns(messages)
    pieces: list[Piece] = []
    for index, message in enumerate(turns):
        learned = message.role == "assistant"
        header = f"<start_of_turn>{'model' if learned else 'user'}\n"
        pieces.append((header + (system if index == 0 else ""), False))
        pieces += [(message.content.strip() + end, learned), ("\n", False)]
    return pieces


def _alpaca(messages: Sequence[Message], end: str) -> list[Piece]:
    """Writes Stanford Alpaca's prompt for rows without input; a system text replaces its header.

    As there, the answer follows "### Response:" without a blank. Later turns repeat the sections.
    """
    system, turns = _system_and_turns(messages)
    pieces: list[Piece] = [(system or f"{ALPACA_HEADER}\n\n", False)]
    for index, message in enumerate(turns):
        if message.role == "assistant":
            pieces.append((message.content + end, True))
        else:
            gap = "" if index == 0 else "\n\n"
            section = f"{gap}### Instruction:\n{message.content}\n\n### Response:"
            pieces.append((section, False))
    return pieces


def _system_and_turns(messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    """Returns the system text with a blank line after it ("" if it has none), and the rest."""
    if messages[0].role != "system":
        return "", messages
    text = messages[0].content
    return (f"{text}\n\n" if text.strip() else ""), messages[1:]


TEMPLATES: dict[str, Template] = {
    "tulu": Template(_tulu),
    "llama3": Template(_llama3, end="<|eot_id|>"),
    "mistral": Template(_mistral, in_turn=True),
    "gemma": Template(_gemma, end="<end_of_turn>", in_turn=True),
    "chatml": Template(_chatml, end="<|im_end|>"),
    "alpaca": Template(_alpaca, in_turn=True, stops=("\n### Instruction:",)),
}
# Marks at which a reply ends, of the templates above and of some that tokenizers bring themselves.
NAMED_ENDS = {template.end for template in TEMPLATES.values() if template.end is not None}
END_OF_TURN = NAMED_ENDS | {"<|end|>", "<|end_of_turn|>"}
