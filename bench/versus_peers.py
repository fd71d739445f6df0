"""How much faster is fastgrad than PyTorch and JAX at measuring gradients of deep networks?

All do the same job in the same run and the same precision (float32): draw the weights of R independent networks, run one input forward, send one
random unit vector back, and form the norms of every layer's activations, gradients and weight gradients. The peers are written in their best
form: PyTorch without autograd's bookkeeping (batched products over realizations, manual backward, two processes or two threads, whichever is
faster), JAX as ``vmap`` over realizations of a jitted ``scan``. Compilation is excluded for all; times are per layer and realization, everything
amortized; the best of several repetitions. Results are checked to agree in distribution before anything is timed.

    python bench/versus_peers.py [--rows mlp64 mlp256 mlp1024] [--no-jax] [--repeat 5]
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

import fastgrad as fg

DEPTH, GAIN = 1000, 1.3


def torch_mlp(width: int, realizations: int, seed: int, threads: int, depth: int = DEPTH) -> np.ndarray:
    """ln of the norm of the gradient at the input, one per realization."""
    import torch

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        x = torch.randn(realizations, width, 1, generator=generator)
        weights, states, norms = [], [x], []
        for _ in range(depth):
            w = torch.randn(realizations, width, width, generator=generator).mul_(GAIN / math.sqrt(width))
            x = torch.tanh_(torch.bmm(w, x))
            weights.append(w)
            states.append(x)
            norms.append(x.square().sum((1, 2)))
        g = torch.randn(realizations, width, 1, generator=generator)
        g /= g.square().sum((1, 2), keepdim=True).sqrt_()
        scale = torch.zeros(realizations)
        for layer in range(depth - 1, -1, -1):
            x = states[layer + 1]
            delta = g * (1 - x * x)
            g = torch.bmm(weights[layer].transpose(1, 2), delta)
            size = g.square().sum((1, 2), keepdim=True).sqrt_()
            norms.append(delta.square().sum((1, 2)) * states[layer].square().sum((1, 2)))
            g /= size
            scale += size.flatten().log()
            norms.append(scale.clone())
    return scale.numpy()


def jax_mlp(width: int, depth: int = DEPTH) -> Callable[[int, int], np.ndarray]:
    """A jitted function of (realizations, seed) that does the same."""
    import jax
    import jax.numpy as jnp

    def one(key):
        k_input, k_probe, k_weights = jax.random.split(key, 3)
        x0 = jax.random.normal(k_input, (width,))
        v = jax.random.normal(k_probe, (width,))
        v = v / jnp.linalg.norm(v)
        keys = jax.random.split(k_weights, depth)

        def forward(x, k):
            w = jax.random.normal(k, (width, width)) * (GAIN / math.sqrt(width))
            y = jnp.tanh(w @ x)
            return y, (x, y, jnp.sum(y * y))

        _, (before, after, norms) = jax.lax.scan(forward, x0, keys)

        def backward(carry, step):
            g, scale = carry
            k, x, y = step
            w = jax.random.normal(k, (width, width)) * (GAIN / math.sqrt(width))  # drawn again: storing them all is slower
            delta = g * (1 - y * y)
            g = delta @ w
            size = jnp.linalg.norm(g)
            scale = scale + jnp.log(size)
            return (g / size, scale), (scale, jnp.sum(delta * delta) * jnp.sum(x * x))

        (_, scale), rows = jax.lax.scan(backward, (v, 0.0), (keys, before, after), reverse=True)
        return scale, norms, rows

    batched = jax.jit(jax.vmap(one))

    def run(realizations: int, seed: int) -> np.ndarray:
        keys = jax.random.split(jax.random.key(seed), realizations)
        return np.asarray(jax.block_until_ready(batched(keys))[0])

    return run


def fastgrad_mlp(width: int, realizations: int, seed: int, depth: int = DEPTH, method: str = "conditional") -> np.ndarray:
    """The same by fastgrad, all variables recorded."""
    network = fg.MLP(depth, width, weights=fg.Normal(GAIN))
    data = fg.measure(network, realizations=realizations, rng=seed, method=method, threads=2)
    return data.gradient_log_norm.values[:, 0]


def best_time(function: Callable[[], object], repeat: int) -> float:
    """Least seconds of several calls, after one that is not counted."""
    function()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def two_processes(pool: ProcessPoolExecutor, job: Callable[..., object], realizations: int) -> None:
    """The job in halves."""
    list(pool.map(job, [realizations // 2] * 2, [1, 2]))


def _torch_half(width: int, realizations: int, seed: int) -> float:
    return float(torch_mlp(width, realizations, seed, 1).sum())


def row(width: int, theirs: int, ours: int, repeat: int, with_jax: bool) -> None:
    """Print one line of the table."""
    per_layer = 1e6 / DEPTH
    sample = fastgrad_mlp(width, 64, 1, depth=20)
    other = np.concatenate([torch_mlp(width, 16, seed, 2, depth=20) for seed in range(4)])
    spread = math.hypot(sample.std() / 8, other.std() / 8)
    assert abs(sample.mean() - other.mean()) < 6 * spread, (sample.mean(), other.mean(), spread)
    mine = best_time(lambda: fastgrad_mlp(width, ours, 1), repeat) / ours * per_layer
    times = {"torch, 2 threads": best_time(lambda: torch_mlp(width, theirs, 1, 2), min(repeat, 3)) / theirs * per_layer}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        half = partial(_torch_half, width)
        times["torch, 2 processes"] = best_time(lambda: two_processes(pool, half, theirs), min(repeat, 3)) / theirs * per_layer
    if with_jax:
        run = jax_mlp(width)
        times["jax"] = best_time(lambda: run(theirs, 1), min(repeat, 3)) / theirs * per_layer
    peers = ", ".join(f"{name} {value:.4g}" for name, value in times.items())
    fastest = min(times, key=lambda name: times[name])
    print(f"MLP tanh width {width:5d}, one input: fastgrad {mine:.4g} us per layer; {peers}; {times[fastest] / mine:,.0f}x the {fastest}", flush=True)


ROWS = {"mlp64": (64, 32, 2000), "mlp256": (256, 4, 500), "mlp1024": (1024, 2, 100)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--no-jax", action="store_true")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, float32, {DEPTH} layers")
    for name in options.rows:
        row(*ROWS[name], options.repeat, not options.no_jax)


if __name__ == "__main__":
    main()
