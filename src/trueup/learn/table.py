"""Columns that travel together: the only container that learners exchange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Generic, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Text = tuple[str, ...]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Named columns with one common leading dimension B (rows): tensors, tuples of strings, or other tables. Subclasses only add fields."""

    def __post_init__(self) -> None:
        sizes = {f.name: len(getattr(self, f.name)) for f in fields(self)}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"{type(self).__name__} columns differ in rows: {sizes}")

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def take(self, rows: Tensor) -> Self:
        """The given rows, in the given order; ``rows`` holds integer positions, [N]."""
        order = rows.tolist()
        columns: dict[str, object] = {}
        for f in fields(self):
            column = getattr(self, f.name)
            if isinstance(column, Tensor):
                columns[f.name] = column[rows.to(column.device)]
            else:
                columns[f.name] = column.take(rows) if isinstance(column, Table) else tuple(column[i] for i in order)
        return type(self)(**columns)

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, in order. Tensor columns must agree in width."""
        columns: dict[str, object] = {}
        for f in fields(cls):
            values = [getattr(p, f.name) for p in parts]
            first = values[0]
            if isinstance(first, Tensor):
                columns[f.name] = torch.cat(values)
            else:
                columns[f.name] = type(first).concat(values) if isinstance(first, Table) else tuple(s for v in values for s in v)
        return cls(**columns)

    def to(self, device: torch.device) -> Self:
        """The same rows with every tensor on that device."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(**{n: x.to(device) if isinstance(x, Tensor | Table) else x for n, x in columns.items()})

    def stacked(self, size: int) -> Self:
        """Rows by groups of ``size`` neighbours: every tensor column [B * size, ...] -> [B, size, ...]. Only tables of tensors can be."""
        return self._reshaped(lambda x: x.unflatten(0, (-1, size)))

    def unstacked(self) -> Self:
        """The inverse of `stacked`."""
        return self._reshaped(lambda x: x.flatten(0, 1))

    def _reshaped(self, change: Callable[[Tensor], Tensor]) -> Self:
        columns: dict[str, object] = {}
        for f in fields(self):
            column = getattr(self, f.name)
            columns[f.name] = change(column) if isinstance(column, Tensor) else column._reshaped(change)
        return type(self)(**columns)


@runtime_checkable
class Measured(Protocol):
    """A column whose rows cost by their length."""

    @property
    def lengths(self) -> Tensor:
        """[B] or [B, K] tokens of each row."""
        ...


@dataclass(frozen=True, kw_only=True)
class Examples(Table, Generic[T]):
    """Rows of a data set to learn from, such as demonstrations or judged groups."""

    row: Tensor
    """[B] int64 position in the data set."""
    example: tuple[T, ...]

    @classmethod
    def of(cls, data: Sequence[T], rows: NDArray[np.int64]) -> Examples[T]:
        """The rows at these positions of ``data``, [B]."""
        return Examples(row=torch.from_numpy(rows), example=tuple(data[int(i)] for i in rows))


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean that can still be merged over micro-batches and processes: keep the sum and the count, divide once at the end."""

    total: float
    count: float

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float | None:
        """The mean, or None where nothing was counted: absent is absent, never 0."""
        return self.total / self.count if self.count else None


class Loss(NamedTuple):
    """What one loss call returns."""

    value: Tensor
    """[] The weighted sum over the rows given; micro-batches therefore add up to the minibatch."""
    metrics: dict[str, Mean]
    """Detached diagnostics, masked exactly as the loss is."""
