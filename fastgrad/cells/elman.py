"""The simple recurrent cell (Elman 1990) with any activation: h' = phi(pre), pre = W h + U x + b."""

from __future__ import annotations

from functools import cache

from fastgrad.activations import ACTIVATIONS
from fastgrad.cells.contract import Cell
from fastgrad.jit import formula


@cache
def elman_cell(activation: str) -> Cell:
    """The cell for one activation of ``ACTIVATIONS``."""
    pair = ACTIVATIONS[activation].pair

    @formula
    def elman_forward(pre, state):
        h, slope = pair(pre[0])
        return (h,), (slope,)

    @formula
    def elman_backward(gradient, local):
        dh = gradient[0]
        return (dh * local[0],), (type(dh)(0),), (dh,)

    return Cell("elman_" + activation, elman_forward, elman_backward, 1, 1, 1, (0,), (0,))
