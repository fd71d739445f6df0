"""What a recurrent cell is: two functions of scalars, for one unit at one time step.

``forward(pre, state) -> (new_state, local)`` and ``backward(gradient, local) -> (d_pre, d_state, total)`` take and return tuples of numbers
of one precision. ``gradient`` is what later steps (and layers above) send to each state; ``total`` adds what flows between the states of
this step (c through h), so it is the full derivative by each state; ``d_state`` goes to the step before, without the product W^T d_pre.
The engine does the matrix products, the loops over units, steps and sequences, and the storage; a cell knows none of them.

``local`` holds the cell's local derivatives, multiplied out as far as the forward pass can: the backward function is then a handful of
multiplications, linear in the gradient, and any rescaling of the gradient passes through it. Called with unit vectors it gives the rows of
the cell's Jacobian.

Which pre-activations get W h: all of the ``n_pre`` rows get U x + b; the *recurrent* product has its own rows because the GRU applies its
reset gate to the product alone. ``recurrent_rows`` says to which row each gate of W_hh goes, ``input_rows`` the same for W_ih.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """A cell as the engine sees it.

    Attributes
    ----------
    name : str
    forward, backward : function
        The two pointwise functions, ``formula``.
    n_states : int
        Numbers of state a unit carries: 1 (h) or 2 (h, c). The first is the output.
    n_pre : int
        Pre-activations of a unit.
    n_local : int
        Local derivatives kept for the backward pass.
    recurrent_rows, input_rows : tuple of int
        Row of ``pre`` that gate k of W_hh (of W_ih) is added to, in PyTorch's order of gates.
    """

    name: str
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    n_states: int
    n_pre: int
    n_local: int
    recurrent_rows: tuple[int, ...]
    input_rows: tuple[int, ...]
