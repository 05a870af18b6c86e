"""What is removed as one: single weights, blocks, N of M, neurons."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .models.view import BoolArray


@dataclass(frozen=True)
class Weights:
    """Single weights."""

    def __str__(self) -> str:
        return "weight"


@dataclass(frozen=True)
class Neurons:
    """Output neurons of Dense, output channels of Conv2D, with everything that reads them."""

    def __str__(self) -> str:
        return "neuron"


@dataclass(frozen=True)
class Pattern:
    """At most `n` of every `m` neighbours along a row are kept."""

    n: int
    m: int

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    def kept(self, length: int) -> int:
        """How many weights of a row of `length` are kept, its tail included."""
        groups, tail = divmod(length, self.m)
        return groups * self.n + min(tail, self.n)

    def count(self, shape: tuple[int, ...]) -> int:
        """How many weights of a tensor are kept."""
        rows, columns = matrix_shape(shape)
        return rows * self.kept(columns)


@dataclass(frozen=True)
class Blocks:
    """Blocks of the matrix (first axis, all others), cut from its upper left corner, smaller at the edges.

    ::

        2x3 over 3 × 7:   A A A B B B C
                          A A A B B B C
                          D D D E E E F
    """

    rows: int
    columns: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"

    def sizes(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """How many weights the blocks of a tensor hold, by their row and column."""
        rows, columns = matrix_shape(shape)
        down = np.minimum(self.rows, rows - np.arange(0, rows, self.rows))
        across = np.minimum(self.columns, columns - np.arange(0, columns, self.columns))
        return np.outer(down, across)

    def sums(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The sums over the blocks of a tensor, by the blocks' row and column."""
        rows, columns = matrix_shape(values.shape)
        matrix = np.asarray(values, np.float64).reshape(rows, columns)
        down, across = np.arange(0, rows, self.rows), np.arange(0, columns, self.columns)
        if matrix.size == 0:
            return np.zeros((len(down), len(across)))
        by_rows = np.add.reduceat(matrix, down, axis=0)
        sums: NDArray[np.float64] = np.add.reduceat(by_rows, across, axis=1)
        return sums

    def means(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The means over the blocks of a tensor, by the blocks' row and column."""
        return self.sums(values) / self.sizes(values.shape)

    def spread(self, kept: BoolArray, shape: tuple[int, ...]) -> BoolArray:
        """Every weight's value from its block's."""
        rows, columns = matrix_shape(shape)
        spread: BoolArray = np.repeat(np.repeat(kept, self.rows, axis=0), self.columns, axis=1)
        return spread[:rows, :columns].reshape(shape)


Granularity: TypeAlias = Weights | Neurons | Pattern | Blocks

CHOICES = 'weight, neuron, blocks such as "8x1", or N:M such as "2:4"'


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """A tensor's shape as a matrix: the first axis by all others."""
    return shape[0], int(np.prod(shape[1:]))


def parse_granularity(text: Any) -> Granularity:
    """The granularity that `text` names.

    Raises
    ------
    ValueError
        Listing the choices, if it names none.

    Examples
    --------
    >>> from secateur.granularity import parse_granularity
    >>> parse_granularity("8x1")
    Blocks(rows=8, columns=1)
    >>> parse_granularity("2:4")
    Pattern(n=2, m=4)
    """
    if text == "weight":
        return Weights()
    if text == "neuron":
        return Neurons()
    match = re.fullmatch(r"(\d{1,4})([x:])(\d{1,4})", text) if isinstance(text, str) else None
    if match:
        first, second = int(match[1]), int(match[3])
        if match[2] == "x" and first > 0 and second > 0:
            return Blocks(first, second)
        if match[2] == ":" and 0 < first <= second:
            return Pattern(first, second)
    raise ValueError(f"granularity: unknown {text!r}; choose from {CHOICES}")
