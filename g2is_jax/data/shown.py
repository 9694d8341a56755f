"""An example as text, with what is learned of it marked."""

import numpy as np

from g2is_jax.data.chat import ChatFormat, Encoded

LEARNED = "[[{}]]"  # in ASCII, as every terminal has it
MOST_LETTERS = 1_200  # of an example; a longer one is shown without its middle


def marked_text(chat: ChatFormat, example: Encoded) -> str:
    """Returns the text of the tokens as the model sees them, what is learned between [[ and ]]."""
    tokens_T = example.tokens_T
    edges = np.flatnonzero(np.diff(example.supervised_T.astype(np.int8))) + 1
    parts, before = [], ""
    for start, end in zip([0, *edges], [*edges, len(tokens_T)], strict=True):
        # The text of a piece by itself may lack the blank that it begins with.
        text = str(chat.tokenizer.decode(tokens_T[:end], clean_up_tokenization_spaces=False))
        piece = text.removeprefix(before)
        parts.append(LEARNED.format(piece) if example.supervised_T[start] else piece)
        before = text
    return _printable(_shortened("".join(parts)))


def _shortened(text: str) -> str:
    left_out = len(text) - MOST_LETTERS
    if left_out <= 0:
        return text
    half = MOST_LETTERS // 2
    return f"{text[:half]} ...({left_out:,} characters)... {text[-half:]}"


def _printable(text: str) -> str:
    """Returns a text without signs that would steer a terminal; its line breaks stay."""
    return "".join(
        sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text
    )
