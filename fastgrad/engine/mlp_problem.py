"""From an MLP's description to the arrays that its dense kernel takes, and what they cost."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from fastgrad.activations import ACTIVATIONS
from fastgrad.engine.dense_mlp import VARIABLES, Block, Layers, Phi, Work, group_size, mlp_kernel, work_arrays
from fastgrad.engine.draws import KINDS, NORMAL, UNIFORM, matrix_drawer, prepare
from fastgrad.engine.given_weights import MANY, addresses_of
from fastgrad.engine.pointwise import activation_address
from fastgrad.engine.room import prepared_once, shared_once
from fastgrad.engine.shared_norms import prepare_norms
from fastgrad.engine.task import BlockResult, Task
from fastgrad.networks import MLP
from fastgrad.weight_files import FittedMLP
from fastgrad.weights import draw

__all__ = ["VARIABLES", "run_dense_mlp", "together", "trace_mlp", "work", "workspace_bytes"]


def bias_law(network: MLP, fan_in: int) -> tuple[int, float]:
    """(kind, scale) of the biases of a layer; scale 0 for none."""
    if network.bias_std is not None:
        return NORMAL, network.bias_std
    if network.weights == "pytorch_default":
        return UNIFORM, 1.0 / fan_in**0.5
    return NORMAL, 0.0


def _offsets(sizes: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)


def layers_of(task: Task, shared: bool = False) -> Layers:
    """The network as the kernel sees it; ``shared``: many inputs go through given weights, which ``task`` keeps alive."""
    network = task.network
    assert isinstance(network, MLP)
    widths = np.array(network.widths, dtype=np.int64)
    fans = {pair: draw(network.weights, *pair) for pair in set(pairwise(network.widths))}
    bias_kind, _ = bias_law(network, 1)
    weight_kind = KINDS[next(iter(fans.values())).kind]
    weights = biases = np.empty(0, dtype=task.number)
    addresses = np.zeros(network.depth, dtype=np.int64)
    if task.weights is not None:
        assert isinstance(task.weights, FittedMLP)
        addresses, weights = addresses_of(task.weights.weights, task.number, shared)
        biases = np.concatenate(task.weights.biases).astype(task.number)
    return Layers(
        widths=widths,
        drawer=matrix_drawer(weight_kind, task.dtype),
        weight_kind=weight_kind,
        weight_scale=np.array([fans[pair].scale for pair in pairwise(network.widths)]),
        bias_kind=bias_kind,
        bias_scale=np.array([bias_law(network, below)[1] for below in network.widths[:-1]], dtype=np.float64),
        given=task.weights is not None,
        weight_addresses=np.concatenate(([0], addresses)),
        weights=weights,
        biases=biases,
        weight_offsets=_offsets(np.concatenate(([0], widths[1:] * widths[:-1]))),
        bias_offsets=_offsets(np.concatenate(([0], widths[1:]))),
        state_offsets=_offsets(widths),
        linear_output=network.output_activation == "linear",
    )


def _block(task: Task, first: int, count: int) -> Block:
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
        together=together(task),
    )


def together(task: Task) -> int:
    """Realizations that go through the layers together."""
    network = task.network
    assert isinstance(network, MLP)
    batch = 1 if task.inputs is None else task.inputs.shape[0]
    return 1 if task.weights is None else group_size(_sizes(network)[0], batch, task.itemsize)


def _phi(name: str, dtype: str) -> Phi:
    activation = ACTIVATIONS[name]
    left, right = activation.slopes_at_zero or (0.0, 0.0)
    through_zero = activation.slopes_at_zero is not None
    return Phi(activation_address(name, dtype), activation.homogeneous, through_zero, left, right)


def _run(task: Task, layers: Layers, block: Block, work: Work) -> BlockResult:
    network = task.network
    assert isinstance(network, MLP)
    out = np.full((len(task.variables), block.count, task.kept), np.nan)
    left = np.empty(block.count, dtype=np.int64)
    prepare(task.dtype)
    prepare_norms(task.dtype)
    mlp_kernel()(task.number(1), _phi(network.activation, task.dtype), layers, block, work, out, left)
    return BlockResult(dict(zip(task.variables, out, strict=True)), left)


class _SharedLayers:
    """The layers of one task in this process: as they are, and with given weights copied once that has become worth while."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._lock = threading.Lock()
        self._layers = layers_of(task)
        self._shared: Layers | None = None

    def for_inputs(self, count: int) -> Layers:
        """What to run when ``count`` inputs, those before it included, are known to take part."""
        if self._task.weights is None or count < MANY or self._layers.weights.size:  # the last: a copy already
            return self._layers
        with self._lock:
            if self._shared is None:
                self._shared = layers_of(self._task, shared=True)
            return self._shared


def run_dense_mlp(task: Task, first: int, count: int) -> BlockResult:
    """Run realizations first … first + count - 1."""
    block = _block(task, first, count)
    batch = block.inputs.shape[0]
    layers = shared_once(task, lambda: _SharedLayers(task)).for_inputs((first + count) * batch)
    work = prepared_once(task, lambda: work_arrays(layers, batch, block.together, task.keep))
    if layers.given:  # this block's may lie elsewhere than the first's
        work = work._replace(weight_addresses=layers.weight_addresses)
    return _run(task, layers, block, work)


def trace_mlp(task: Task, realization: int) -> dict[str, Any]:
    """The arrays of one realization (`fastgrad.engine.trace.trace`): what the kernel's working arrays hold after it."""
    task = replace(task, keep=True)
    layers = layers_of(task)
    block = _block(task, realization, 1)._replace(together=1)
    batch = block.inputs.shape[0]
    work = work_arrays(layers, batch, 1, keep_weights=True, keep_all=True)
    left = int(_run(task, layers, block, work).left[0])
    depth = layers.widths.size - 1
    reached = depth if left < 0 else left

    def rows(numbers: Any, layer: int, exponent: int) -> Any:
        n = int(layers.widths[layer])
        return np.ldexp(numbers[: batch * n].astype(np.float64), np.clip(exponent, -2200, 2200)).reshape(batch, n)

    def nothing(layer: int) -> Any:
        return np.full((batch, int(layers.widths[layer])), np.nan)

    every = range(depth + 1)
    states = [work.states[start * batch :] for start in layers.state_offsets]
    x = [rows(states[k], k, work.exponents[k, 0]) if k <= reached else nothing(k) for k in every]
    gradient = [nothing(k) if left >= 0 else rows(work.gradients[depth - k], k, work.gradient_exponents[k, 0]) for k in every]
    delta = [nothing(k) if left >= 0 else rows(work.deltas[k], k, work.gradient_exponents[k, 0]) for k in every[1:]]
    if task.weights is not None:
        assert isinstance(task.weights, FittedMLP)
        weights = [array.astype(np.float64) for array in task.weights.weights]
    else:
        spans = zip(pairwise(layers.weight_offsets[1:]), layers.widths[1:], strict=True)
        weights = [work.weights[a:b].astype(np.float64).reshape(n, -1) for (a, b), n in spans]
    return {
        "x": x,
        "gradient": gradient,
        "weight": weights,
        "bias": [work.bias[k, : layers.widths[k]].astype(np.float64) for k in every[1:]],
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


def workspace_bytes(task: Task) -> int:
    """What one worker needs besides its results."""
    network = task.network
    assert isinstance(network, MLP)
    units, weights, matrix = _sizes(network)
    batch = 1 if task.inputs is None else task.inputs.shape[0]
    width = network.width or max(network.widths)
    stored = 0 if task.weights is not None else weights if task.keep else matrix
    if task.weights is not None:
        stored = weights  # a copy where rows start inside cache lines; what an executor's process is sent
    # Haar matrices are made beside the weights.
    extra = matrix if task.weights is None and draw(network.weights, 1, 1).kind == "orthogonal" else 0
    places = together(task)
    numbers = stored + extra + places * batch * (2 * units + 4 * width) + (3 + batch) * width
    return numbers * task.itemsize + (5 + 2 * places) * 8 * (network.depth + 2)


def work(task: Task) -> float:
    """Rough nanoseconds for one realization on one core: only used to choose how many make a block."""
    network = task.network
    assert isinstance(network, MLP)
    units, weights, _ = _sizes(network)
    batch = 1 if task.inputs is None else task.inputs.shape[0]
    draws = 0.0 if task.weights is not None else (3.0 if task.keep else 5.0)
    return weights * (draws + 0.06 * batch) + 5.0 * units * batch
