"""A deep tanh MLP in PyTorch: no autograd, batched products over realizations, backward by hand.

Letters: L layers, R realizations, B inputs, n units. Norms: states, gradients, and the weights' gradients from Gram matrices.
"""

from __future__ import annotations

import math

import numpy as np
import torch

GAIN = 1.3


def drawn(width: int, batch: int, depth: int, threads: int, realizations: int, seed: int) -> np.ndarray:
    """Draw weights, inputs and directions and measure; ln of gradient norms (R, L + 1)."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        x = torch.randn(realizations, width, batch, generator=generator)
        v = torch.randn(realizations, width, batch, generator=generator)
        v /= torch.linalg.vector_norm(v, dim=(1, 2), keepdim=True)

        def draw() -> torch.Tensor:
            return torch.randn(realizations, width, width, generator=generator).mul_(GAIN / math.sqrt(width))

        states, weights, norms = [x], [], []
        for _ in range(depth):
            weights.append(draw())
            x = torch.tanh_(torch.bmm(weights[-1], x))
            states.append(x)
            norms.append(torch.linalg.vector_norm(x, dim=(1, 2)))
        sizes = []
        g = v
        for layer in range(depth - 1, -1, -1):
            delta = torch.ops.aten.tanh_backward(g, states[layer + 1])
            norms.append(_outer_squares(delta, states[layer]))
            g = torch.bmm(weights[layer].transpose(1, 2), delta)
            size = torch.linalg.vector_norm(g, dim=(1, 2), keepdim=True)
            sizes.append(size)
            g /= size
        torch.stack(norms).log()
        return _logs(sizes)


def _outer_squares(delta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Squared norm of delta x^T, (R,)."""
    if delta.shape[2] == 1:
        return delta.square().sum((1, 2)) * x.square().sum((1, 2))
    return (torch.bmm(delta.transpose(1, 2), delta) * torch.bmm(x.transpose(1, 2), x)).sum((1, 2))


def _logs(sizes: list[torch.Tensor]) -> np.ndarray:
    """From each layer's factor, the last layer's first, to ln of the norms (R, L + 1)."""
    logs = torch.stack(sizes).flatten(1).log_().cumsum(0)
    return torch.cat((torch.zeros(1, logs.shape[1]), logs)).flip(0).T.numpy()


def given(weights: torch.Tensor, x: torch.Tensor, v: torch.Tensor, threads: int) -> np.ndarray:
    """Given weights (L, n, n): all realizations share them, so a layer is one product of all inputs x (R, n); ln of gradient norms (R, L + 1)."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        states, norms = [x], []
        for w in weights:
            x = torch.tanh_(torch.mm(x, w.T))
            states.append(x)
            norms.append(torch.linalg.vector_norm(x, dim=1))
        g = v / torch.linalg.vector_norm(v, dim=1, keepdim=True)
        sizes = []
        for layer in range(len(weights) - 1, -1, -1):
            delta = torch.ops.aten.tanh_backward(g, states[layer + 1])
            norms.append(torch.linalg.vector_norm(delta, dim=1) * torch.linalg.vector_norm(states[layer], dim=1))
            g = torch.mm(delta, weights[layer])
            size = torch.linalg.vector_norm(g, dim=1, keepdim=True)
            sizes.append(size)
            g /= size
        torch.stack(norms).log()
        return _logs(sizes)


_STORED: dict[tuple[int, int], torch.Tensor] = {}


def given_job(width: int, depth: int, threads: int, realizations: int, seed: int) -> np.ndarray:
    """`given` with weights that are drawn once per process, and new inputs and directions."""
    generator = torch.Generator().manual_seed(seed)
    if (width, depth) not in _STORED:
        _STORED[width, depth] = torch.randn(depth, width, width, generator=generator).mul_(GAIN / math.sqrt(width))
    x, v = torch.randn(2, realizations, width, generator=generator)
    return given(_STORED[width, depth], x, v, threads)
