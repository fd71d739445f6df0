"""From an MLP's description to the arrays that its dense kernel takes, and what they cost."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from fastgrad.activations import ACTIVATIONS
from fastgrad.engine.dense_mlp import VARIABLES, Block, Layers, Phi, Trace, mlp_kernel, work_arrays
from fastgrad.engine.draws import KINDS, NORMAL, UNIFORM, prepare
from fastgrad.engine.pointwise import activation_address
from fastgrad.engine.task import BlockResult, Task
from fastgrad.networks import MLP
from fastgrad.weight_files import FittedMLP
from fastgrad.weights import draw

__all__ = ["VARIABLES", "run_dense_mlp", "trace_mlp", "weight_bytes", "work", "workspace_bytes"]


def bias_law(network: MLP, fan_in: int) -> tuple[int, float]:
    """(kind, scale) of the biases of a layer; scale 0 for none."""
    if network.bias_std is not None:
        return NORMAL, network.bias_std
    if network.weights == "pytorch_default":
        return UNIFORM, 1.0 / fan_in**0.5
    return NORMAL, 0.0


def _offsets(sizes: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)


def layers_of(task: Task) -> Layers:
    """The network as the kernel sees it."""
    network = task.network
    assert isinstance(network, MLP)
    widths = np.array(network.widths, dtype=np.int64)
    fans = {pair: draw(network.weights, *pair) for pair in set(pairwise(network.widths))}
    bias_kind, _ = bias_law(network, 1)
    weights = biases = np.empty(0, dtype=task.number)
    if task.weights is not None:
        assert isinstance(task.weights, FittedMLP)
        weights = np.concatenate([w.ravel() for w in task.weights.weights]).astype(task.number)
        biases = np.concatenate(task.weights.biases).astype(task.number)
    return Layers(
        widths=widths,
        weight_kind=KINDS[next(iter(fans.values())).kind],
        weight_scale=np.array([fans[pair].scale for pair in pairwise(network.widths)]),
        bias_kind=bias_kind,
        bias_scale=np.array([bias_law(network, below)[1] for below in network.widths[:-1]], dtype=np.float64),
        weights=weights,
        biases=biases,
        weight_offsets=_offsets(np.concatenate(([0], widths[1:] * widths[:-1]))),
        bias_offsets=_offsets(np.concatenate(([0], widths[1:]))),
        state_offsets=_offsets(widths),
        linear_output=network.output_activation == "linear",
    )


def _block(task: Task, layers: Layers, first: int, count: int) -> Block:
    drawn = np.empty((1, 0), dtype=task.number)
    return Block(
        first=first,
        count=count,
        key=task.key_words,
        inputs=drawn if task.inputs is None else task.inputs.astype(task.number),
        unit_probe=task.unit_probe,
        keep_weights=task.keep,
        slots=task.slots(),
        columns=task.columns(VARIABLES),
    )


def _phi(name: str, dtype: str) -> Phi:
    activation = ACTIVATIONS[name]
    left, right = activation.slopes_at_zero or (0.0, 0.0)
    through_zero = activation.slopes_at_zero is not None
    return Phi(activation_address(name, dtype), activation.homogeneous, through_zero, left, right)


def _run(task: Task, layers: Layers, first: int, count: int, trace: Trace) -> BlockResult:
    network = task.network
    assert isinstance(network, MLP)
    out = np.full((len(task.variables), count, task.kept), np.nan)
    left = np.empty(count, dtype=np.int64)
    block = _block(task, layers, first, count)
    work = work_arrays(layers, block.inputs.shape[0], task.keep)
    prepare(task.dtype)
    mlp_kernel()(task.number(1), _phi(network.activation, task.dtype), layers, block, work, out, left, trace)
    return BlockResult(dict(zip(task.variables, out, strict=True)), left)


def run_dense_mlp(task: Task, first: int, count: int) -> BlockResult:
    """Run realizations first … first + count - 1."""
    nothing = np.empty(0)
    no_trace = Trace(nothing, nothing, nothing, nothing, nothing, np.empty(0, dtype=np.int64))
    return _run(task, layers_of(task), first, count, no_trace)


def trace_mlp(task: Task, realization: int) -> dict[str, Any]:
    """The arrays of one realization (`fastgrad.engine.trace.trace`)."""
    layers = layers_of(task)
    batch = 1 if task.inputs is None else task.inputs.shape[0]
    total = int(layers.state_offsets[-1]) * batch
    trace = Trace(
        states=np.full(total, np.nan),
        gradients=np.full(total, np.nan),
        deltas=np.full(total, np.nan),
        weights=np.empty(int(layers.weight_offsets[-1])),
        biases=np.empty(int(layers.bias_offsets[-1])),
        exponents=np.zeros(layers.widths.size, dtype=np.int64),
    )
    _run(task, layers, realization, 1, trace)

    def rows(flat: Any, layer: int) -> Any:
        start, n = int(layers.state_offsets[layer]) * batch, int(layers.widths[layer])
        return flat[start : start + batch * n].reshape(batch, n)

    depth = layers.widths.size - 1
    factors = np.ldexp(1.0, np.clip(trace.exponents, -1100, 1100))
    x = [rows(trace.states, layer) for layer in range(depth + 1)]
    gradient = [rows(trace.gradients, layer) * factors[layer] for layer in range(depth + 1)]
    delta = [rows(trace.deltas, layer) * factors[layer] for layer in range(1, depth + 1)]
    spans = pairwise(layers.weight_offsets[1:])
    return {
        "x": x,
        "gradient": gradient,
        "weight": [trace.weights[a:b].reshape(n, -1) for (a, b), n in zip(spans, layers.widths[1:], strict=True)],
        "bias": [trace.biases[a:b] for a, b in pairwise(layers.bias_offsets[1:])],
        "weight_gradient": [d.T @ before for d, before in zip(delta, x, strict=False)],
        "bias_gradient": [d.sum(axis=0) for d in delta],
        "v": gradient[depth],
    }


# Costs, from the description alone: a network of a billion layers must be refused without making its widths.


def _sizes(network: MLP) -> tuple[int, int, int]:
    """(all units, all weights, largest matrix)."""
    if network.width is not None:
        n, depth = network.width, network.depth
        return n * (depth + 1), n * n * depth, n * n
    products = [below * width for below, width in pairwise(network.widths)]
    return sum(network.widths), sum(products), max(products)


def weight_bytes(task: Task) -> int:
    """What keeping all weights of one realization between the passes costs."""
    network = task.network
    assert isinstance(network, MLP)
    return 0 if task.weights is not None else _sizes(network)[1] * task.itemsize


def workspace_bytes(task: Task) -> int:
    """What one worker needs besides its results."""
    network = task.network
    assert isinstance(network, MLP)
    units, weights, matrix = _sizes(network)
    batch = 1 if task.inputs is None else task.inputs.shape[0]
    width = network.width or max(network.widths)
    stored = 0 if task.weights is not None else weights if task.keep else matrix
    if task.weights is not None:
        stored = weights  # each block converts the given weights to its precision
    # Haar matrices are made beside the weights.
    extra = matrix if task.weights is None and draw(network.weights, 1, 1).kind == "orthogonal" else 0
    numbers = stored + extra + batch * (2 * units + 4 * width) + 3 * width
    return numbers * task.itemsize + 7 * 8 * (network.depth + 2)


def work(task: Task) -> float:
    """Rough nanoseconds for one realization on one core: only used to choose how many make a block."""
    network = task.network
    assert isinstance(network, MLP)
    units, weights, _ = _sizes(network)
    batch = 1 if task.inputs is None else task.inputs.shape[0]
    draws = 0.0 if task.weights is not None else (3.0 if task.keep else 5.0)
    return weights * (draws + 0.2 * batch) + 20.0 * units * batch
