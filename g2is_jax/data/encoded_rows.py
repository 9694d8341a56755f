"""Examples as the model sees them, many in one flat array, so that a pool of millions fits."""

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np

from g2is_jax.data.chat import Encoded


class EncodedRows(Sequence[Encoded]):
    """Examples whose tokens stand one after another in two arrays, of which each is a view.

    lengths_N, supervised_N: tokens of each example, in all and supervised ones, int64.
    truncated_N: bool.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        supervised: np.ndarray,
        ends_N: np.ndarray,
        lengths_N: np.ndarray,
        supervised_N: np.ndarray,
        truncated_N: np.ndarray,
    ):
        self._tokens, self._supervised, self._ends_N = tokens, supervised, ends_N
        self.lengths_N, self.supervised_N, self.truncated_N = lengths_N, supervised_N, truncated_N

    def __len__(self) -> int:
        return len(self._ends_N)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...

    @overload
    def __getitem__(self, index: slice) -> "EncodedRows": ...

    def __getitem__(self, index: int | slice) -> "Encoded | EncodedRows":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        end = self._ends_N[index]
        place = slice(end - self.lengths_N[index], end)
        truncated = bool(self.truncated_N[index])
        return Encoded(self._tokens[place], self._supervised[place], truncated)

    def take(self, rows: Sequence[int] | np.ndarray) -> "EncodedRows":
        """Returns some of the examples, whose tokens stay where they are."""
        rows_K = np.asarray(rows, np.int64)
        columns = (self._ends_N, self.lengths_N, self.supervised_N, self.truncated_N)
        return EncodedRows(self._tokens, self._supervised, *(column[rows_K] for column in columns))

    def prompts(self) -> "EncodedRows":
        """Returns the tokens of each example before its last run of supervised ones, which is the
        last reply that is learned."""
        starts_N = self._ends_N - self.lengths_N
        lengths_N = np.zeros(len(self), np.int64)
        supervised_N = np.zeros(len(self), np.int64)
        for row, (start, end) in enumerate(zip(starts_N, self._ends_N, strict=True)):
            supervised_T = self._supervised[start:end]
            after = _after_last(supervised_T, True)
            lengths_N[row] = _after_last(supervised_T[:after], False)
            supervised_N[row] = np.count_nonzero(supervised_T[: lengths_N[row]])
        return EncodedRows(
            self._tokens,
            self._supervised,
            starts_N + lengths_N,
            lengths_N,
            supervised_N,
            self.truncated_N,
        )

    @property
    def largest_token(self) -> int:
        """The largest token of all examples, those included that were left out by `take`."""
        return int(self._tokens.max())


def _after_last(values_T: np.ndarray, value: bool) -> int:
    """Returns the place behind the last of these values; 0 where there is none."""
    places = np.flatnonzero(values_T == value)
    return int(places[-1]) + 1 if len(places) else 0


class Encoder:
    """Puts examples behind one another as they come."""

    def __init__(self) -> None:
        self._tokens, self._supervised = array("i"), array("b")
        self._lengths, self._supervised_counts = array("q"), array("q")
        self._truncated = array("b")

    def add(self, examples: Iterable[Encoded]) -> None:
        """Adds examples behind those before."""
        for example in examples:
            self._tokens.frombytes(example.tokens_T.astype(np.int32, copy=False).tobytes())
            self._supervised.frombytes(example.supervised_T.tobytes())
            self._lengths.append(len(example.tokens_T))
            self._supervised_counts.append(int(np.count_nonzero(example.supervised_T)))
            self._truncated.append(example.truncated)

    def rows(self) -> EncodedRows:
        """Returns all examples; none can be added afterwards."""
        lengths_N = np.frombuffer(self._lengths, np.int64)
        return EncodedRows(
            np.frombuffer(self._tokens, np.int32),
            np.frombuffer(self._supervised, np.bool_),
            lengths_N.cumsum(),
            lengths_N,
            np.frombuffer(self._supervised_counts, np.int64),
            np.frombuffer(self._truncated, np.bool_),
        )
