"""Both kinds of network in JAX: ``vmap`` over realizations of a jitted ``scan``, and a ``scan`` back that rescales and keeps each norm.

Letters: T steps or L layers, R realizations, B inputs or sequences, n or H units.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, nn, random

GAIN = 1.3
GATES = {"rnn": 1, "lstm": 4, "gru": 3}


def _norm(x: Any) -> Any:
    return jnp.sqrt(jnp.sum(x * x))


def _outer_squares(delta: Any, x: Any) -> Any:
    """Squared norm of delta^T x for rows (B, n)."""
    return jnp.sum((delta @ delta.T) * (x @ x.T))


@cache
def _mlp(width: int, batch: int, depth: int) -> Any:
    def one(key: Any) -> Any:
        k_input, k_probe, k_weights = random.split(key, 3)
        v = random.normal(k_probe, (batch, width))

        def draw(k: Any) -> Any:
            return random.normal(k, (width, width)) * (GAIN / math.sqrt(width))

        def forward(x: Any, k: Any) -> Any:
            y = jnp.tanh(x @ draw(k).T)
            return y, (x, y, _norm(y))

        keys = random.split(k_weights, depth)
        _, (before, after, norms) = lax.scan(forward, random.normal(k_input, (batch, width)), keys)

        def backward(carry: Any, step: Any) -> Any:
            g, scale = carry
            k, x, y = step
            delta = g * (1 - y * y)
            g = delta @ draw(k)  # drawn again: storing them all is slower
            size = _norm(g)
            scale = scale + jnp.log(size)
            return (g / size, scale), (scale, _outer_squares(delta, x))

        _, (logs, squares) = lax.scan(backward, (v / _norm(v), 0.0), (keys, before, after), reverse=True)
        return logs, norms, squares

    return jax.jit(jax.vmap(one))


def mlp_job(width: int, batch: int, depth: int, realizations: int, seed: int) -> np.ndarray:
    """Draw and measure; ln of the gradient's norm at layers 0 … L - 1, (R, L)."""
    keys = random.split(random.key(seed), realizations)
    return np.asarray(jax.block_until_ready(_mlp(width, batch, depth)(keys))[0])


@jax.jit
def given_mlp(weights: Any, x: Any, v: Any) -> Any:
    """Given weights (L, n, n), inputs and directions (R, n): ln of gradient norms (R, L) and what else was asked for."""

    def one(x0: Any, v: Any) -> Any:
        def forward(x: Any, w: Any) -> Any:
            y = jnp.tanh(w @ x)
            return y, (x, y, _norm(y))

        _, (before, after, norms) = lax.scan(forward, x0, weights)

        def backward(carry: Any, step: Any) -> Any:
            g, scale = carry
            w, x, y = step
            delta = g * (1 - y * y)
            g = delta @ w
            size = _norm(g)
            scale = scale + jnp.log(size)
            return (g / size, scale), (scale, _norm(delta) * _norm(x))

        _, (logs, products) = lax.scan(backward, (v / _norm(v), 0.0), (weights, before, after), reverse=True)
        return logs, norms, products

    return jax.vmap(one)(x, v)


_STORED: dict[tuple[int, int], Any] = {}


def given_job(width: int, depth: int, realizations: int, seed: int) -> None:
    """`given_mlp` with weights that are drawn once per process, and new inputs and directions."""
    k_weights, k_input, k_probe = random.split(random.key(seed), 3)
    if (width, depth) not in _STORED:
        _STORED[width, depth] = random.normal(k_weights, (depth, width, width)) * (GAIN / math.sqrt(width))
    x, v = (random.normal(k, (realizations, width)) for k in (k_input, k_probe))
    jax.block_until_ready(given_mlp(_STORED[width, depth], x, v))


# --- recurrent: the pointwise part of each cell, (hidden part, input part, state) -> state; state[0] is h ----------------------------


def _rnn(hidden: Any, below: Any, state: Any) -> Any:
    return (jnp.tanh(hidden + below),)


def _lstm(hidden: Any, below: Any, state: Any) -> Any:
    i, f, g, o = jnp.split(hidden + below, 4, axis=-1)
    c = nn.sigmoid(f) * state[1] + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(c), c


def _gru(hidden: Any, below: Any, state: Any) -> Any:
    hr, hz, hn = jnp.split(hidden, 3, axis=-1)
    xr, xz, xn = jnp.split(below, 3, axis=-1)
    z = nn.sigmoid(hz + xz)
    n = jnp.tanh(xn + nn.sigmoid(hr + xr) * hn)
    return (n + z * (state[0] - n),)


CELLS = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}


@cache
def recurrent(kind: str) -> Any:
    """A jitted function of weights (R in front), x (R, T, B, N), v (R, B, H): ln of the norms of h_1 … h_T and dl/dh_0 … dl/dh_(T-1), (R, T)."""
    cell = CELLS[kind]

    def one(weights: Any, x: Any, v: Any) -> Any:
        w, bias = weights["weight_hh_l0"], weights["bias_hh_l0"]
        below = x @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
        start = tuple(jnp.zeros_like(v) for _ in range(2 if kind == "lstm" else 1))

        def forward(state: Any, below: Any) -> Any:
            hidden = state[0] @ w.T + bias
            new = cell(hidden, below, state)
            return new, (hidden, state, _norm(new[0]))

        _, (hidden, states, norms) = lax.scan(forward, start, below)

        def backward(carry: Any, step: Any) -> Any:
            gradient, scale = carry
            hidden, below, state = step
            _, pull = jax.vjp(lambda hidden, state: cell(hidden, below, state), hidden, state)
            d_hidden, d_state = pull(gradient)
            d_state = (d_state[0] + d_hidden @ w, *d_state[1:])
            size = _norm(d_state[0])
            scale = scale + jnp.log(size)
            return (tuple(d / size for d in d_state), scale), scale

        last = (v / _norm(v), *(jnp.zeros_like(v) for _ in start[1:]))
        _, logs = lax.scan(backward, (last, jnp.log(_norm(v))), (hidden, below, states), reverse=True)
        return jnp.log(norms), logs

    return jax.jit(jax.vmap(one))


@cache
def _drawn(kind: str, width: int, batch: int, steps: int, realizations: int) -> Any:
    rows, bound = GATES[kind] * width, 1 / math.sqrt(width)
    shapes = {"weight_ih_l0": (rows, width), "weight_hh_l0": (rows, width), "bias_ih_l0": (rows,), "bias_hh_l0": (rows,)}

    @jax.jit
    def draw(key: Any) -> Any:
        keys = random.split(key, 6)
        bounds = {"minval": -bound, "maxval": bound}
        weights = {
            name: random.uniform(k, (realizations, *shape), **bounds) for k, (name, shape) in zip(keys[:4], shapes.items(), strict=True)
        }
        x = random.normal(keys[4], (realizations, steps, batch, width))
        return weights, x, random.normal(keys[5], (realizations, batch, width))

    return draw


def recurrent_job(kind: str, width: int, batch: int, steps: int, realizations: int, seed: int) -> None:
    """`recurrent` on new weights, inputs and directions."""
    jax.block_until_ready(recurrent(kind)(*_drawn(kind, width, batch, steps, realizations)(random.key(seed))))
