"""Every array of one realization, for tests and for teaching: the same kernels, with nothing thrown away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastgrad.engine.mlp_problem import VARIABLES, trace_mlp
from fastgrad.engine.recurrent_problem import trace_recurrent, variables
from fastgrad.engine.setup import make_task
from fastgrad.networks import MLP, Network, Recurrent

__all__ = ["trace"]


def trace(
    network: Network,
    *,
    rng: Any = 0,
    realization: int = 0,
    weights: Mapping[str, Any] | None = None,
    inputs: Any = None,
    loss: str = "probe",
    dtype: str = "float64",
) -> dict[str, Any]:
    """Run one realization and return its arrays in float64, out of the log domain: a long network's gradients may overflow or vanish here.

    Parameters
    ----------
    network
        An `MLP`, `RNN`, `LSTM` or `GRU`.
    rng, weights, inputs, loss, dtype
        As in `fastgrad.measure`; the same ``rng`` gives the realization that `measure` gives.
    realization
        Which one.

    Returns
    -------
    dict
        MLP: lists over layers ``x`` and ``gradient`` (0 … L, (batch, n_l)), ``weight``, ``bias``, ``weight_gradient``, ``bias_gradient``
        (1 … L), and ``v`` (batch, n_L). Recurrent: ``h``, ``gradient_h`` (and ``c``, ``gradient_c`` for an LSTM) of shape
        (layers, T + 1, batch, width); ``state_dict`` and ``gradient``, the weights and the loss's derivatives by them under PyTorch's
        names; ``inputs`` (T, batch, N); ``v`` (batch, width).

    Raises
    ------
    ValueError
        As `fastgrad.measure`.
    """
    names = VARIABLES if isinstance(network, MLP) else variables(network) if isinstance(network, Recurrent) else ()
    task, _ = make_task(network, rng=rng, inputs=inputs, loss=loss, method="dense", dtype=dtype, record=names[:1], weights=weights)
    return trace_mlp(task, realization) if isinstance(network, MLP) else trace_recurrent(task, realization)
