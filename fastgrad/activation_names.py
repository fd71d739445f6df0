"""The names of the activations, apart from their formulas so that naming one does not import Numba."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["ACTIVATION_NAMES", "ActivationName"]

ActivationName = Literal[
    "linear",
    "tanh",
    "sigmoid",
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "silu",
    "softplus",
    "erf",
    "sin",
]
"""Every activation, as a type that editors complete."""

ACTIVATION_NAMES: tuple[str, ...] = get_args(ActivationName)
"""Every activation, in the order of the documentation."""
