"""What a study of one network is, as plain data: it travels to threads, processes and machines, and any part of it can be run alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgrad.networks import MLP, Recurrent
from fastgrad.weight_files import Fitted

DTYPES: dict[str, Any] = {"float32": np.float32, "float64": np.float64}


@dataclass(frozen=True, eq=False)
class Task:
    """Everything that the realizations of one measurement share.

    Attributes
    ----------
    network
        The description.
    method
        Which engine: ``"dense"`` or ``"conditional"``.
    dtype
        ``"float32"`` or ``"float64"``.
    key
        Two uint32 words, the key of the random numbers.
    unit_probe
        The loss is <v, x_L> with v uniform on the unit sphere; else v is ones.
    variables
        Names of the variables wanted.
    every
        Every how many layers or steps one is kept; both ends always are.
    inputs
        (B, n_0) or (T, B, N), or None to draw standard normals.
    weights
        Given weights, or None to draw them.
    probes
        Backward passes through the same network, each with its own v.
    reason
        Why this method was taken: the end of a sentence.
    keep
        Hold between the passes what would otherwise be drawn twice (weights, or the units of sampled layers).
    """

    network: MLP | Recurrent
    method: str
    dtype: str
    key: tuple[int, int]
    unit_probe: bool
    variables: tuple[str, ...]
    every: int = 1
    inputs: NDArray[Any] | None = None
    weights: Fitted | None = None
    probes: int = 1
    reason: str = ""
    keep: bool = True

    @property
    def number(self) -> Any:
        """The NumPy type of the run."""
        return DTYPES[self.dtype]

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return int(np.dtype(self.number).itemsize)

    @property
    def key_words(self) -> tuple[Any, Any]:
        """The key as the kernels take it."""
        return np.uint32(self.key[0]), np.uint32(self.key[1])

    @property
    def length(self) -> int:
        """Layers L of an MLP, steps T of a recurrent network."""
        return self.network.depth if isinstance(self.network, MLP) else self.network.steps

    @property
    def kept(self) -> int:
        """How many layers or steps are kept."""
        return self.length // self.every + 1 + (1 if self.length % self.every else 0)

    @property
    def positions(self) -> NDArray[np.int64]:
        """The kept layers or steps: 0, every, 2 every, … and the last."""
        positions = np.arange(0, self.length + 1, self.every, dtype=np.int64)
        return positions if positions[-1] == self.length else np.append(positions, self.length)

    def slots(self) -> NDArray[np.int64]:
        """Output column of each layer or step 0 … length, -1 where it is not kept."""
        slots = np.full(self.length + 1, -1, dtype=np.int64)
        slots[self.positions] = np.arange(self.kept)
        return slots

    def columns(self, names: tuple[str, ...]) -> NDArray[np.int64]:
        """Output row of each name, -1 where it is not wanted."""
        wanted = [name for name in self.variables if name in names]
        return np.array([wanted.index(name) if name in wanted else -1 for name in names], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class BlockResult:
    """What a block of realizations gave.

    Attributes
    ----------
    arrays
        Variable name -> float64 array, realizations first, nats.
    left
        (count,) int64: -1, or the first layer or step at which the forward pass left the number range.
    """

    arrays: dict[str, NDArray[np.float64]]
    left: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
