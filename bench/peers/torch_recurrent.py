"""Recurrent nets in PyTorch, two ways.

`fused` is what a user reaches for: ``nn.RNN``, ``nn.LSTM`` or ``nn.GRU`` and autograd, one network after another, since each realization has its own
weights. The fused modules do not give the derivative by each step's state, only by the initial one: what is timed is forward and backward alone, and
the job is not done. `batched` does it: one product over all realizations at each step, derivatives by hand, their coefficients formed for all steps
at once.

Letters: T steps, R realizations, B sequences, H units (and input features), G gates.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
MODULES = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def fused_gradient(module: Any, x: torch.Tensor, v: torch.Tensor, width: int) -> torch.Tensor:
    """Derivative of <v, h_T> by the initial state, (B, H); x (T, B, N)."""
    h = torch.zeros(1, x.shape[1], width, requires_grad=True)
    out, _ = module(x, (h, torch.zeros_like(h)) if isinstance(module, nn.LSTM) else h)
    (gradient,) = torch.autograd.grad((out[-1] * v).sum(), h)
    return gradient[0]


def fused(kind: str, width: int, batch: int, steps: int, asks_weights: bool, threads: int, realizations: int, seed: int) -> None:
    """Forward and backward of R networks, each with new weights; ``asks_weights``: leave requires_grad of the weights on, as modules come."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    for _ in range(realizations):
        module = MODULES[kind](width, width).requires_grad_(asks_weights)
        fused_gradient(module, torch.randn(steps, batch, width), torch.randn(batch, width), width)


def draw(kind: str, width: int, realizations: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Weights of R networks under PyTorch's names, from PyTorch's law."""
    rows, bound = GATES[kind] * width, 1 / math.sqrt(width)
    shapes = {"weight_ih_l0": (rows, width), "weight_hh_l0": (rows, width), "bias_ih_l0": (rows,), "bias_hh_l0": (rows,)}
    return {name: torch.empty(realizations, *shape).uniform_(-bound, bound, generator=generator) for name, shape in shapes.items()}


def batched_job(kind: str, width: int, batch: int, steps: int, at_once: int, threads: int, realizations: int, seed: int) -> None:
    """`batched` on new weights, inputs and directions, ``at_once`` realizations at a time."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, realizations, at_once):
        n = min(at_once, realizations - start)
        x = torch.randn(steps, n, batch, width, generator=generator)
        v = torch.randn(n, batch, width, generator=generator)
        batched(kind, draw(kind, width, n, generator), x, v)


def batched(kind: str, weights: dict[str, torch.Tensor], x: torch.Tensor, v: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """ln of the norms of h_t and of d<v, h_T>/dh_t, each (R, T + 1); x (T, R, B, N), weights with R in front."""
    with torch.inference_mode():
        w, w_t = weights["weight_hh_l0"], weights["weight_hh_l0"].mT.contiguous()
        bias, recurrent_bias = weights["bias_ih_l0"], weights["bias_hh_l0"]
        steps, n, batch, features = x.shape
        inputs = x.permute(1, 0, 2, 3).reshape(n, steps * batch, features)
        below = torch.baddbmm(bias[:, None], inputs, weights["weight_ih_l0"].mT)
        below = below.view(n, steps, batch, -1).transpose(0, 1)
        if kind == "gru":
            return _gru(w, w_t, below.contiguous(), recurrent_bias[:, None], v)
        below = (below + recurrent_bias[:, None]).contiguous()
        return (_lstm if kind == "lstm" else _rnn)(w, w_t, below, v)


def _norm(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(x, dim=(-2, -1))


def _result(states: torch.Tensor, v: torch.Tensor, sizes: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms from states (T + 1, R, B, H) and from each step's factor of the gradient, the last step's first."""
    logs = torch.cat((_norm(v)[None], torch.stack(sizes).flatten(1))).log_().cumsum(0).flip(0)
    return _norm(states).log_().T.numpy(), logs.T.numpy()


def _rnn(w: Any, w_t: Any, below: Any, v: Any) -> tuple[np.ndarray, np.ndarray]:
    states = torch.zeros(below.shape[0] + 1, *v.shape)
    for t, pre in enumerate(below):
        torch.tanh(torch.baddbmm(pre, states[t], w_t), out=states[t + 1])
    slopes = 1 - states[1:].square()
    g, sizes = v / _norm(v)[:, None, None], []
    for t in range(len(slopes) - 1, -1, -1):
        g = torch.bmm(g * slopes[t], w)
        sizes.append(_norm(g))
        g /= sizes[-1][:, None, None]
    return _result(states, v, sizes)


def _lstm(w: Any, w_t: Any, below: Any, v: Any) -> tuple[np.ndarray, np.ndarray]:
    width = v.shape[-1]
    h = torch.zeros(below.shape[0] + 1, *v.shape)
    c = torch.zeros_like(h)
    gates = below  # overwritten step by step
    for t in range(len(below)):
        now = torch.baddbmm(below[t], h[t], w_t, out=gates[t])
        now[..., : 2 * width].sigmoid_()
        now[..., 2 * width : 3 * width].tanh_()
        now[..., 3 * width :].sigmoid_()
        i, f, g, o = now.split(width, -1)
        torch.addcmul(i * g, f, c[t], out=c[t + 1])
        torch.mul(o, torch.tanh(c[t + 1]), out=h[t + 1])
    i, f, g, o = gates.split(width, -1)
    top = torch.tanh(c[1:])
    through = o * (1 - top.square())
    of_cell = torch.cat((g * i * (1 - i), c[:-1] * f * (1 - f), i * (1 - g.square())), -1)
    of_output = top * o * (1 - o)
    g_h, sizes = v / _norm(v)[:, None, None], []
    g_c = torch.zeros_like(g_h)
    d_pre = torch.empty_like(gates[0])
    by_gate = d_pre.view(*v.shape[:-1], 4, width)[..., :3, :]
    for t in range(len(below) - 1, -1, -1):
        d_c = torch.addcmul(g_c, g_h, through[t])
        torch.mul(d_c[..., None, :], of_cell[t].view(by_gate.shape), out=by_gate)
        torch.mul(g_h, of_output[t], out=d_pre[..., 3 * width :])
        g_h = torch.bmm(d_pre, w)
        size = _norm(g_h)[:, None, None]
        g_c = d_c.mul_(f[t]).div_(size)
        g_h /= size
        sizes.append(size)
    return _result(h, v, sizes)


def _gru(w: Any, w_t: Any, below: Any, recurrent_bias: Any, v: Any) -> tuple[np.ndarray, np.ndarray]:
    width = v.shape[-1]
    h = torch.zeros(below.shape[0] + 1, *v.shape)
    hidden = torch.empty_like(below)
    gates = below  # overwritten step by step
    for t in range(len(below)):
        recurrent = torch.baddbmm(recurrent_bias, h[t], w_t, out=hidden[t])
        rz = below[t, ..., : 2 * width].add_(recurrent[..., : 2 * width]).sigmoid_()
        r, z = rz.split(width, -1)
        n = below[t, ..., 2 * width :].addcmul_(r, recurrent[..., 2 * width :]).tanh_()
        torch.lerp(n, h[t], z, out=h[t + 1])
    r, z, n = gates.split(width, -1)
    candidate = (1 - z) * (1 - n.square())
    local = torch.cat((candidate * hidden[..., 2 * width :] * r * (1 - r), (h[:-1] - n) * z * (1 - z), candidate * r), -1)
    g, sizes = v / _norm(v)[:, None, None], []
    for t in range(len(below) - 1, -1, -1):
        d_pre = (g[..., None, :] * local[t].view(*v.shape[:-1], 3, width)).flatten(-2)
        g = torch.baddbmm(g * z[t], d_pre, w)
        sizes.append(_norm(g))
        g /= sizes[-1][:, None, None]
    return _result(h, v, sizes)
