"""Turns a row of any published shape into messages.

    {"messages": [{"role": "user", "content": "2+2?"}, ...]}     turns, by any name of TURNS
    {"prompt": "2+2?", "completion": "4"}                        by names of PROMPTS and REPLIES
    {"prompt": {"text": "2+2?", "replies": [...]}}               a tree of replies (OASST)
    {"text": "### Human: 2+2?### Assistant: 4"}                  a transcript

Each row is recognised by itself, from the values that are there: null, NaN and what is empty count
as absent. A system text, a history and a context beside them are part of the conversation.
"""

import dataclasses

from g2is_jax.data.beside_turns import with_what_is_beside
from g2is_jax.data.messages import Message
from g2is_jax.data.row_fields import Fields
from g2is_jax.data.transcripts import turns_from_columns, turns_from_text, turns_from_transcript
from g2is_jax.data.turns import (
    MEDIA_KEYS,
    TOOL_KEYS,
    Remarks,
    has_role,
    read_turns,
    refuse_tools_and_media,
    with_thought,
)
from g2is_jax.data.values import BadRow, is_absent, kind_of, single, text_of

UNDESIRED = ("label", "kto_tag", "is_correct")  # false: the reply is one that people did not want
MAY_BE_TRANSCRIPTS = ("text", "input", "prompt")
PROMPT_BESIDE = {"source": ("target", "targets")}  # else a label -> the replies to it
RENDERED = "### "  # a prompt with it may be the other fields in a template, with the reply
HOLDS_OTHERS = "instruction_with_input"
OF_NODES = ("message_id", "parent_id", "user_id", "created_date", "lang", "review_count",
            "review_result", "deleted", "rank", "synthetic", "model_name", "detoxify",
            "message_tree_id", "tree_state", "emojis", "labels", "replies")  # fmt: skip
PREFERENCE = 'of a preference pair "chosen" is the reply, "rejected" is not read'
OF_LISTS = "the messages of the prompt are followed by those of the reply"
BEST_PATH = "of a tree of replies the best-ranked path is read, else the first replies"
TRANSCRIPT = "texts with marks of speakers are read as turns; one before the first is a system text"
AS_TEXT = "turns that are written as a text are read as the list that it is"
KNOWN = 'a list "messages", or a prompt and its reply, as "prompt" and "completion"'


def read_conversation(fields: Fields, remarks: Remarks) -> tuple[str, tuple[Message, ...]]:
    """Returns the name of a row's shape and its messages; BadRow if it has none that is known."""
    for key in fields.spelled("instances"):
        fields.unfold(key)
    refuse_tools_and_media({key.lower(): fields.row[key] for key in fields.left()}, "")
    for key in fields.spelled(*TOOL_KEYS, *MEDIA_KEYS):
        fields.take(key)  # it says that there are none
    for name in UNDESIRED:
        if fields.row.get(name) is False:
            raise BadRow(f'"{name}" is false, so the reply is one to avoid; leave such rows out')
    readers = [_tree, _turns, _prompt_and_reply, _transcript]
    if fields.by_hand.keys() & {"prompt", "reply"}:
        readers = [_prompt_and_reply, _turns, _tree, _transcript]
    found = next((found for read in readers if (found := read(fields, remarks))), None)
    if found is None:
        raise BadRow(_unrecognised(fields))
    shape, messages = found
    return shape, tuple(with_what_is_beside(messages, fields, remarks))


def _turns(fields: Fields, remarks: Remarks) -> tuple[str, list[Message]] | None:
    """Reads turns; where they end in a question, the reply may be in a field beside them."""
    for key in fields.holding("messages"):
        value = fields.row[key]
        if isinstance(value, list):
            messages = read_turns(value, key, remarks)
        elif (found := _written_turns(value, key, remarks)) is not None:
            messages = found
        else:
            continue
        fields.take(key)
        _take_repeated(fields, messages)
        # A gold answer is not taken for the reply, unless it is named so.
        gold = {*fields.names("answer")} - {fields.by_hand.get("reply")}
        replied = next((name for name in fields.holding("reply") if name not in gold), None)
        if messages[-1].role == "user" and replied:
            return f"{key}/{replied}", messages + _reply(fields, replied, remarks)
        return key, messages
    return None


def _prompt_and_reply(fields: Fields, remarks: Remarks) -> tuple[str, list[Message]] | None:
    """Reads a prompt and its reply, each a text or messages; `chosen` may hold both."""
    replied = fields.find("reply")
    asked = _asked(fields)
    if replied is None:
        return None
    if asked is None and not _holds_turns(fields.row[replied]):
        beside = [name for name in PROMPT_BESIDE if replied.lower() in PROMPT_BESIDE[name]]
        asked = next(iter(fields.spelled(*beside)), None)
        if asked is None or not isinstance(fields.row[asked], str):
            return None
    before = _messages(fields, asked, "user", remarks) if asked else []
    if asked and asked.lower() == HOLDS_OTHERS:
        _take_contained(fields, before[0].content)
    lists = asked and _holds_turns(fields.row[asked])
    reply = _reply(fields, replied, remarks)
    said = {message.content.strip() for message in reply}
    whole = reply[0].role != "assistant" and all(m.content.strip() in said for m in before)
    if lists and not whole:
        remarks.notes.add(OF_LISTS)
    shape = f"{asked}/{replied}" if asked else replied
    return shape, reply if whole else [*before, *reply]


def _asked(fields: Fields) -> str | None:
    """Returns the field of the prompt: none that holds another one, written by a template."""
    keys = fields.holding("prompt")
    for key in keys:
        text = fields.row[key]
        others = [fields.row[other] for other in keys if fields.row[other] != text]
        held = isinstance(text, str) and any(isinstance(o, str) and o in text for o in others)
        if not held or RENDERED not in text or key == fields.by_hand.get("prompt"):
            return key
    return None


def _transcript(fields: Fields, remarks: Remarks) -> tuple[str, list[Message]] | None:
    """Reads a whole conversation that is written as one text."""
    for key in fields.spelled(*MAY_BE_TRANSCRIPTS):
        messages = turns_from_transcript(fields.row[key], opening=False) or []
        if any(message.role == "assistant" for message in messages):
            fields.take(key)
            remarks.notes.add(TRANSCRIPT)
            return f"transcript in {key}", messages
    return None


def _written_turns(value: object, key: str, remarks: Remarks) -> list[Message] | None:
    """Reads turns that are written as one text or as columns; None for anything else."""
    if isinstance(value, dict) and has_role(value) and (rows := turns_from_columns(value)):
        return read_turns(rows, key, remarks)
    if not isinstance(value, str):
        return None
    if messages := turns_from_transcript(value, opening=True):
        remarks.notes.add(TRANSCRIPT)
        return messages
    turns = turns_from_text(value)
    if not turns or not all(isinstance(turn, dict) and has_role(turn) for turn in turns):
        return None
    remarks.notes.add(AS_TEXT)
    return read_turns(turns, key, remarks)


def _reply(fields: Fields, key: str, remarks: Remarks) -> list[Message]:
    """Takes the field of the reply, and that of its thought."""
    reply = _messages(fields, key, "assistant", remarks)
    thought = fields.find("thought")
    if thought and reply[-1].role == "assistant":
        value = single(fields.take(thought), thought)
        text = with_thought(value, reply[-1].content, f'"{thought}"', remarks)
        reply[-1] = dataclasses.replace(reply[-1], content=text)
    return reply


def _holds_turns(value: object) -> bool:
    turns = value if isinstance(value, list) else [value]
    return any(isinstance(turn, dict) and has_role(turn) for turn in turns) or (
        _written_turns(value, "", Remarks()) is not None
    )


def _messages(fields: Fields, key: str, role: str, remarks: Remarks) -> list[Message]:
    """Takes a field that holds a text of this role, or messages."""
    value, chosen = fields.take(key), key.lower() == "chosen"
    if chosen:
        for rejected in fields.spelled("rejected"):
            fields.take(rejected)
        remarks.notes.add(PREFERENCE)
    if role == "user" or chosen:
        written = _written_turns(value, key, remarks)
        if written is not None:
            return written
    if _holds_turns(value):
        return read_turns(value, key, remarks)
    return [Message(role, text_of(single(value, key), f'"{key}"'))]


def _tree(fields: Fields, remarks: Remarks) -> tuple[str, list[Message]] | None:
    """Reads the best path of a tree of replies."""
    key = next(iter(fields.spelled("prompt")), "")
    root = fields.row.get(key)
    if not isinstance(root, dict) or "replies" not in root:
        return None
    path = [root]
    while replies := _replies(path[-1]):
        path.append(min(replies, key=_rank))
    found = Remarks()
    messages = read_turns(path, key, found)
    remarks.notes |= found.notes
    remarks.unread |= found.unread - {f"{key}[].{name}" for name in OF_NODES}
    for name in fields.spelled("prompt", "message_tree_id", "tree_state"):
        fields.take(name)
    remarks.notes.add(BEST_PATH)
    return "tree of replies", messages[:-1] if messages[-1].role == "user" else messages


def _replies(node: dict) -> list[dict]:
    replies = node.get("replies")
    if not isinstance(replies, list):
        return []
    return [one for one in replies if isinstance(one, dict) and one.get("deleted") is not True]


def _rank(node: dict) -> float:
    """Returns a reply's rank, 0 the best; replies without one come after those that have it."""
    rank = node.get("rank")
    return rank if isinstance(rank, int | float) and not is_absent(rank) else float("inf")


def _take_repeated(fields: Fields, messages: list[Message]) -> None:
    """Takes the fields that say what a message says already, as a prompt beside the messages."""
    said = {(message.role, message.content.strip()) for message in messages}
    roles = {"system": "system", "prompt": "user", "context": "user", "reply": "assistant"}
    for part, role in roles.items():
        for key in {*fields.holding(part)}.difference(fields.names("answer")):
            text = fields.row[key]
            if isinstance(text, str) and (role, text.strip()) in said:
                fields.take(key)


def _take_contained(fields: Fields, text: str) -> None:
    """Takes the other prompts, and the contexts, that a prompt says already."""
    for key in {*fields.holding("prompt"), *fields.holding("context")}:
        if isinstance(fields.row[key], str) and fields.row[key].strip() in text:
            fields.take(key)


def _unrecognised(fields: Fields) -> str:
    """Says why a row is of no known shape, and the way out."""
    asked, replied = fields.find("prompt"), fields.find("reply")
    of_turns = (key for key in fields.holding("messages") if not isinstance(fields.row[key], int))
    turns, empty = next(of_turns, None), fields.empty("messages")
    name = fields.empty("reply")
    if name and not replied and (asked or not (turns or empty)):
        return f'"{name}" is {kind_of(fields.row[name])}; fill it or leave the row out'
    if replied and (name := fields.empty("prompt")):
        return f'"{name}" is {kind_of(fields.row[name])}, so nothing is asked; leave the row out'
    if key := turns or empty:
        return f'"{key}" is {kind_of(fields.row[key])}; expected a list of messages'
    if has_role(fields.row):
        return (
            'the row is one message; write a whole conversation a row, as a list "messages", or '
            "take the file of trees that OASST has beside it"
        )
    for key in fields.spelled("instances"):
        return f'"{key}" is {kind_of(fields.row[key])}; write each of them as a row of its own'
    if asked and "text" in fields.left():
        return f'no reply beside "{asked}"; if "text" is one, give data.columns=reply=text'
    if "text" in fields.left():
        return f'only "text", which does not say what is asked and what is the reply; write {KNOWN}'
    if "chosen" in fields.left():
        return '"chosen" stands beside no prompt; write it as messages, or a "prompt" beside it'
    found = ", ".join(f'"{key}"' for key in fields.row) or "none"
    return (
        f"format not recognised, the fields are {found}; a row needs {KNOWN}; "
        "other names are given by data.columns"
    )
