"""Reads the turns of a conversation, in any of the spellings in which they are published.

{"role": "user", "content": "2+2?"}          OpenAI; the content may be a list of text parts
{"from": "human", "value": "2+2?"}           ShareGPT
{"input": "2+2?", "output": "4"}             two turns at once
["2+2?", "4"]                                two turns at once, as in a list of pairs
"2+2?"                                       user and assistant in turn, as UltraChat has them
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from g2is_jax.data.messages import ROLES, Message
from g2is_jax.data.values import BadRow, is_absent, kind_of, text_of

ROLE_KEYS = ("role", "from", "speaker", "author")
TEXT_KEYS = ("content", "value", "text", "message", "utterance", "parts")
PAIR_KEYS = {"input": "output", "human": "assistant", "user": "assistant", "question": "answer",
             "prompt": "response", "instruction": "response", "query": "response"}  # fmt: skip
ROLE_OF = {
    **{name: "system" for name in ("system", "developer")},
    **{name: "user" for name in ("user", "human", "prompter", "customer")},
    **{
        name: "assistant"
        for name in ("assistant", "gpt", "model", "chatgpt", "bot", "chatbot", "ai", "bing", "bard")
    },
}
TOOL_ROLES = {"tool", "function", "function_call", "tool_call", "tool_response", "observation",
              "function_response", "ipython", "environment"}  # fmt: skip
TOOL_KEYS = ("tool_calls", "tool_call", "tool_call_id", "tool_responses", "tools", "function_call",
             "function_calls", "functions")  # fmt: skip
MEDIA_KEYS = ("images", "image", "image_url", "videos", "video", "audios", "audio")
PLAIN = {"role", "content"}
PART_KEYS = {"type", "text", "thinking"}
THOUGHT_KEYS = ("reasoning_content", "thinking", "reasoning")
# Marks of a turn that is learned or not (mistral-finetune and OpenAI; axolotl; XTuner and ms-swift;
# torchtune) -> whether a true value means that it is learned.
MARKS = {"weight": True, "train": True, "training": True, "loss": True, "masked": False}
TRUE, FALSE = (True, 1, "true", "1"), (False, 0, "false", "0")
NO_TOOLS = "calls of tools cannot be learned from: write them as text, or leave such rows out"
NO_MEDIA = "only text can be learned from: leave such rows out"
NOT_LEARNED = f"replies marked by {', '.join(MARKS)} are not learned"
THOUGHTS = "thoughts stand before their reply between <think> and </think>"
SECOND_THOUGHT = "thoughts beside a reply that holds one of its own are not read"
IN_TURN = "texts without roles are user and assistant in turn"


@dataclass
class Remarks:
    """Notes on how a row was read, and the names of fields that were not."""

    notes: set[str] = field(default_factory=set)
    unread: set[str] = field(default_factory=set)


def read_turns(turns: object, name: str, remarks: Remarks) -> list[Message]:
    """Reads the turns of the field `name`; a single turn may stand for a list of one."""
    if isinstance(turns, dict):
        turns = [turns]
    if not isinstance(turns, list) or not turns:
        raise BadRow(f'"{name}" is {kind_of(turns)}; expected a list of messages')
    if all(isinstance(turn, str) for turn in turns):
        if name == "turns":  # of MT-bench: a user's questions alone
            raise BadRow('"turns" holds texts without roles; write "messages"')
        remarks.notes.add(IN_TURN)
        return [
            Message(ROLES[1 + index % 2], text_of(turn, f"message {index + 1}"))
            for index, turn in enumerate(turns)
        ]
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        where = f"message {number}"
        if isinstance(turn, list) and len(turn) == 2:
            messages += _pair(turn[0], turn[1], where)
        elif isinstance(turn, dict):
            messages += _turn(turn, name, where, remarks)
        else:
            raise BadRow(
                f'{where} is {kind_of(turn)}; expected an object with "role" and "content"'
            )
    return messages


def has_role(value: Mapping) -> bool:
    """Tells whether an object is a turn by its fields."""
    fields = {key.lower() for key in value}
    return any(key in fields for key in ROLE_KEYS) and any(key in fields for key in TEXT_KEYS)


def with_thought(thought: object, content: str, name: str, remarks: Remarks) -> str:
    """Returns a reply with its thought before it, unless it holds that already."""
    text = text_of(thought, name).strip()
    if "<think>" in content:
        if text not in content:
            remarks.notes.add(SECOND_THOUGHT)
        return content
    remarks.notes.add(THOUGHTS)
    return f"<think>\n{text}\n</think>\n\n{content}"


def content_of(value: object, name: str, remarks: Remarks) -> tuple[str, str | None]:
    """Returns a text, or that of its parts joined, and the thought where a part holds one."""
    if not isinstance(value, list):
        return text_of(value, name), None
    texts, thoughts = [], []
    for part in value:
        if isinstance(part, dict):
            _check_part(part, name, remarks)
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if isinstance(part, dict) and kind in ("text", "input_text", "output_text"):
            texts.append(text_of(part.get("text"), f'{name}: the "text" of a part'))
        elif kind == "thinking":
            thoughts.append(text_of(part.get("thinking"), f"{name}: its thought"))
        elif isinstance(part, str):
            texts.append(text_of(part, f"{name}: a part"))
        else:
            what = f"of the type {kind!r}" if isinstance(part, dict) else kind_of(part)
            raise BadRow(f"{name}: a part is {what}; {NO_MEDIA}")
    return "".join(texts), "\n".join(thoughts) or None


def _check_part(part: Mapping[str, object], name: str, remarks: Remarks) -> None:
    """Names what a part of a content says beside its text; BadRow where that is not learned."""
    left = {key for key in part.keys() - PART_KEYS if not is_absent(part[key])}
    marks = {key: part[key] for key in left & MARKS.keys()}
    if marks and not _learned(marks, "assistant", f"{name}: "):
        raise BadRow(f"{name}: a part of it is not learned; only whole turns can be so")
    remarks.unread |= {f"[].{key} of a part" for key in left - marks.keys()}


def refuse_tools_and_media(fields: Mapping[str, object], where: str) -> None:
    """Raises BadRow where a field holds calls of tools, descriptions of them, or pictures."""
    for keys, reason in ((TOOL_KEYS, NO_TOOLS), (MEDIA_KEYS, NO_MEDIA)):
        for key in filter(fields.__contains__, keys):
            value = fields[key]
            if not is_absent(value) and value not in ("[]", "{}", "null", "None", False):
                raise BadRow(f'{where}"{key}": {reason}')


def _pair(question: object, reply: object, where: str) -> list[Message]:
    return [
        Message("user", text_of(question, f"{where}: the question")),
        Message("assistant", text_of(reply, f"{where}: the reply")),
    ]


def _turn(turn: dict, name: str, where: str, remarks: Remarks) -> list[Message]:
    """Reads an object: one turn, or a question with its reply."""
    if turn.keys() == PLAIN and all(isinstance(value, str) for value in turn.values()):
        role = ROLE_OF.get(turn["role"])  # most turns are so, and read sooner
        if role is not None:
            return [Message(role, text_of(turn["content"], f'{where}: "content"'))]
    keys = {key.lower(): key for key in turn}
    fields = {low: turn[key] for low, key in keys.items() if not is_absent(turn[key])}
    refuse_tools_and_media(fields, f"{where}: ")
    role_key = next((key for key in ROLE_KEYS if key in fields), None)
    if role_key is None:
        for asked, replied in PAIR_KEYS.items():
            if asked in fields and replied in fields:
                remarks.unread |= {f"{name}[].{keys[k]}" for k in fields.keys() - {asked, replied}}
                return _pair(fields[asked], fields[replied], where)
    named = ("from", "value") if "from" in keys else ("role", "content")
    text_key = next((key for key in TEXT_KEYS if key in fields), None) or next(
        (key for key in TEXT_KEYS if key in keys and turn[keys[key]] in ("", [])), None
    )
    if role_key is None or text_key is None:
        absent = named[0] if role_key is None else named[1]
        if role_key and absent in keys:
            raise BadRow(f'{where}: "{absent}" is {kind_of(turn[keys[absent]])}; expected a string')
        raise BadRow(
            f'{where} has no "{absent}"; every message needs "{named[0]}" and "{named[1]}"'
        )
    role = _role(fields[role_key], role_key, where)
    text, thought = content_of(turn[keys[text_key]], f'{where}: "{text_key}"', remarks)
    used = {role_key, text_key, *TOOL_KEYS, *MEDIA_KEYS}
    if role == "assistant":
        found = [key for key in THOUGHT_KEYS if key in fields]
        thought = fields[found[0]] if found else thought
        used.update(found[:1])
        if thought is not None:
            text = with_thought(thought, text, f"{where}: its thought", remarks)
    learned = _learned(fields, role, f"{where}: ")
    if role == "assistant" and not learned:
        remarks.notes.add(NOT_LEARNED)
    # Of other turns nothing is learned anyway: a mark is not read where it asks for that.
    used.update(key for key in MARKS if key in fields and (role == "assistant" or not learned))
    remarks.unread |= {f"{name}[].{keys[key]}" for key in fields.keys() - used}
    return [Message(role, text, learned or role != "assistant")]


def _role(value: object, key: str, where: str) -> str:
    role = value.strip().lower() if isinstance(value, str) else ""
    if role in TOOL_ROLES:
        raise BadRow(f'{where} has the "{key}" {value!r}: {NO_TOOLS}')
    if role not in ROLE_OF:
        raise BadRow(f'{where} has the unknown "{key}" {value!r}; known are {", ".join(ROLE_OF)}')
    return ROLE_OF[role]


def _learned(fields: Mapping[str, object], role: str, where: str) -> bool:
    """Returns whether a turn is learned by its marks; False by one of them is enough."""
    learned = [role == "assistant"]
    for key, learned_if in MARKS.items():
        value = fields.get(key)
        if value is None:
            continue
        low = value.lower() if isinstance(value, str) else value
        if isinstance(low, list | dict) or low not in (*TRUE, *FALSE):
            raise BadRow(f'{where}"{key}" is {value!r}; only 0 and 1, true and false are honoured')
        learned.append((low in TRUE) == learned_if)
    if role == "assistant":
        return all(learned)
    return any(learned)
