"""A chat format whose prompts can be read: each character is a token."""

import numpy as np

from g2is_jax.data.chat import Encoded
from g2is_jax.data.files import Record
from g2is_jax.data.messages import Message

END = "\n"


class Characters:
    """A turn is its role's initial, its text and a line break, which ends it."""

    def encode(self, messages, max_length: int) -> Encoded:
        tokens, supervised = [], []
        for message in messages:
            header = f"{message.role[0]}:"
            text = message.content + END
            tokens += map(ord, header + text)
            supervised += [False] * len(header) + [message.role == "assistant"] * len(text)
        kept = slice(max_length)
        return Encoded(np.array(tokens, np.int32)[kept], np.array(supervised)[kept], False)

    def encode_all(self, records, max_length: int) -> list[Encoded]:
        return [self.encode(record.messages, max_length) for record in records]

    def encode_prompt(self, messages, max_length: int) -> np.ndarray:
        if messages[-1].role == "assistant":
            messages = messages[:-1]
        tokens_T = self.encode(messages, 1_000_000).tokens_T
        tokens_T = np.concatenate([tokens_T, np.array([ord("a"), ord(":")], np.int32)])
        return tokens_T[-max_length:]


def text_of(tokens_T) -> str:
    return "".join(map(chr, tokens_T))


def record(number: int, question: str, answer: str, subtask: str = "all", **fields) -> Record:
    """A row whose reply is its answer in a sentence."""
    messages = (Message("user", question), Message("assistant", f"It is {answer}."))
    known = {"row": number, "id": f"row-{number}", "source": "", "task": "task"}
    return Record(
        **known | {"subtask": subtask, "answer": answer, "messages": messages, "line": ""} | fields
    )
