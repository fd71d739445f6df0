"""From an MLP's description to what the conditional sampler takes, where it applies, and what it costs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgrad.activations import ACTIVATIONS
from fastgrad.engine import conditional_batch, mlp_problem
from fastgrad.engine.aligned import whole_lines
from fastgrad.engine.conditional_mlp import SCALAR_BYTES, Block, Layers, Work, conditional_kernel, work_arrays
from fastgrad.engine.dense_mlp import VARIABLES
from fastgrad.engine.draws import SLACK, prepare
from fastgrad.engine.layer_sums import SUMS
from fastgrad.engine.pointwise import activation_address, activation_sums_address
from fastgrad.engine.recorded_logs import LOGS, ROWS
from fastgrad.engine.room import prepared_once, shared_once
from fastgrad.engine.task import BlockResult, Task
from fastgrad.networks import MLP, Recurrent
from fastgrad.weights import draw

GROUP_NUMBERS = 1024  # in a layer of a group: measured at widths 64 and 256; fewer leave pipelines idle, more leave the first-level cache
GROUP_NUMBERS_KEPT = 512  # the same where layers are kept: what is kept passes through the caches too
GROUP_SCALARS = 2**25  # bytes that all layers' scalars of a group may take

__all__ = ["drawback", "obstacle", "run_conditional_mlp", "work", "workspace_bytes"]


def obstacle(task: Task) -> str | None:
    """Why the conditional sampler cannot run a task: the end of a sentence, or None where it can."""
    if isinstance(task.network, Recurrent):
        return "recurrent weights are used at every step, so they must exist"
    if task.weights is not None:
        return "the weights are given, so they must be multiplied"
    kind = draw(task.network.weights, 1, 1).kind
    if kind == "constant":
        return "constant weights are not random"
    if kind == "uniform":
        return "uniform weights are not rotation invariant: only Gaussian and Haar-orthogonal laws can be sampled without weights"
    return None


def columns(task: Task) -> tuple[int, int]:
    """(inputs B, vectors sent back: B for each probe)."""
    batch = 1 if task.inputs is None else task.inputs.shape[0]
    return batch, batch * task.probes


def drawback(task: Task) -> str | None:
    """Why the dense engine is faster although the sampler applies: the end of a sentence, or None."""
    network = task.network
    assert isinstance(network, MLP)
    if is_single(task) or work(task) <= _dense_work(task):
        return None
    batch, sent = columns(task)
    vectors = f"a batch of {batch}" if task.probes == 1 else f"{sent} vectors sent back"
    return f"layers this narrow are sampled faster with their weights, for {vectors}"


def _dense_work(task: Task) -> float:
    """Rough nanoseconds that the dense engine takes for one realization, to be compared with `work`."""
    network = task.network
    assert isinstance(network, MLP)
    # Measured at widths 4 … 1024 and batches 1 … 64, in one run with the factors of `work`.
    time = 2.0 * mlp_problem.work(task) + 6000.0 * network.depth
    if draw(network.weights, 1, 1).kind == "orthogonal":
        if network.width is not None:
            return time + 0.5 * network.depth * float(network.width) ** 3
        time += sum(0.5 * n * m * min(n, m) for n, m in pairwise(network.widths))
    return time


def is_single(task: Task) -> bool:
    """Whether the fast case applies: one input, one probe, Gaussian weights."""
    assert isinstance(task.network, MLP)
    return columns(task)[1] == 1 and draw(task.network.weights, 1, 1).kind == "normal"


def _widths_and_scales(task: Task) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(L + 1,) widths; scale of the weights of each layer, or of all."""
    network = task.network
    assert isinstance(network, MLP)
    if network.width is not None:
        widths = np.full(network.depth + 1, network.width, dtype=np.int64)
        return widths, np.array([draw(network.weights, network.width, network.width).scale])
    scales = [draw(network.weights, *pair).scale for pair in pairwise(network.widths)]
    return np.array(network.widths, dtype=np.int64), np.array(scales)


def _shared_by_layers(task: Task) -> dict[str, Any]:
    """The fields of `Layers` that both kernels have."""
    network = task.network
    assert isinstance(network, MLP)
    activation = ACTIVATIONS[network.activation]
    left, right = activation.slopes_at_zero or (0.0, 0.0)
    return {
        "bias_std": float(network.bias_std or 0.0),
        "linear_output": network.output_activation == "linear",
        "homogeneous": activation.homogeneous,
        "through_zero": activation.slopes_at_zero is not None,
        "left_slope": left,
        "right_slope": right,
    }


def run_conditional_mlp(task: Task, first: int, count: int) -> BlockResult:
    """Run realizations first … first + count - 1."""
    prepare(task.dtype)
    return _run_single(task, first, count) if is_single(task) else _run_batch(task, first, count)


def _layers(task: Task) -> Layers:
    network = task.network
    assert isinstance(network, MLP)
    widths, scales = _widths_and_scales(task)
    return Layers(
        widths=widths,
        weight_std=scales,
        phi=activation_address(network.activation, task.dtype),
        phi_sums=activation_sums_address(network.activation, task.dtype),
        **_shared_by_layers(task),
    )


def _run_single(task: Task, first: int, count: int) -> BlockResult:
    network, number = task.network, task.number
    assert isinstance(network, MLP)

    def prepare() -> tuple[Layers, Work]:
        layers = shared_once(task, lambda: _layers(task))
        return layers, work_arrays(layers, number, _keeps_layers(task), group(task))

    layers, work = prepared_once(task, prepare)
    inputs = np.empty(0, number) if task.inputs is None else task.inputs[0].astype(number)
    block = Block(first, count, task.key_words, inputs, task.unit_probe, task.slots(), task.columns(VARIABLES))
    out = np.full((len(task.variables), count, task.kept), np.nan)
    left = np.empty(count, dtype=np.int64)
    conditional_kernel()(layers, block, work, out, left)
    return BlockResult(dict(zip(task.variables, out, strict=True)), left)


def _run_batch(task: Task, first: int, count: int) -> BlockResult:
    network, number = task.network, task.number
    assert isinstance(network, MLP)
    widths, scales = _widths_and_scales(task)
    layers = conditional_batch.Layers(
        widths=widths,
        haar=draw(network.weights, 1, 1).kind == "orthogonal",
        weight_scale=scales,
        phi=activation_address(network.activation, task.dtype),
        **_shared_by_layers(task),
    )
    inputs = np.empty((1, 0), number) if task.inputs is None else task.inputs.astype(number)
    block = conditional_batch.Block(
        first, count, task.key_words, inputs, task.probes, task.unit_probe, task.slots(), task.columns(VARIABLES)
    )
    out = np.full((len(task.variables), count, task.probes, task.kept), np.nan)
    left = np.empty(count, dtype=np.int64)
    work = conditional_batch.work_arrays(layers, inputs.shape[0], task.probes, number, task.keep)
    conditional_batch.batch_kernel()(number(1), layers, block, work, out, left)
    # All probes run through the same activations.
    shared = {name: task.probes == 1 or name == "activation_log_norm" for name in task.variables}
    arrays = {name: values[:, 0] if shared[name] else values for name, values in zip(task.variables, out, strict=True)}
    return BlockResult(arrays, left)


# Costs, from the description alone: a network of a billion layers must be refused without making its widths.


def _width(network: MLP) -> int:
    return network.width or max(network.widths)


def _scalar_bytes(task: Task) -> int:
    """Bytes that a layer of one realization takes between the passes."""
    return SCALAR_BYTES + SUMS * task.itemsize


def _keeps_layers(task: Task) -> bool:
    """Whether the layers' rows stay between the passes: only the largest entries ask for them."""
    # Keeping costs a third more at every layer, evaluating again nearly all of it once more at those looked at (everything recorded, width 64).
    return task.keep and "gradient_log_max" in task.variables and task.every <= 2


def group(task: Task) -> int:
    """Realizations that go through a layer together: enough that a loop is longer than the processor's pipelines."""
    network = task.network
    assert isinstance(network, MLP)
    numbers = GROUP_NUMBERS_KEPT if _keeps_layers(task) else GROUP_NUMBERS
    by_width, by_depth = numbers // whole_lines(_width(network)), GROUP_SCALARS // (_scalar_bytes(task) * (network.depth + 1))
    return max(1, min(16, by_width, by_depth))


def together(task: Task) -> int:
    """Realizations that are fastest in one block."""
    return group(task) if is_single(task) else 1


def workspace_bytes(task: Task) -> int:
    """What one worker needs besides its results."""
    network = task.network
    assert isinstance(network, MLP)
    itemsize = task.itemsize
    length = network.depth + 1
    if is_single(task):
        stored, row = 2 * length if _keeps_layers(task) else 2, whole_lines(_width(network))
        return group(task) * ((stored + 7) * row * itemsize + length * _scalar_bytes(task)) + 24 * length + 8 * ROWS * LOGS
    batch, sent = columns(task)
    row = _width(network) + SLACK + 15
    stored = length if task.keep else 1
    numbers = (stored * batch + 4 * batch + 3) * row * itemsize
    doubles = 2 * (batch + sent) * row + (length + 1) * batch * batch + batch * sent + min(sent, row) * sent
    return numbers + 8 * doubles + length * (8 * 6 + 1)


def work(task: Task) -> float:
    """Rough nanoseconds for one realization on one core: used to choose the method, and how many make a block."""
    network = task.network
    assert isinstance(network, MLP)
    units = network.depth * network.width if network.width is not None else sum(network.widths)
    if is_single(task):
        return 3.5 * units + 80.0 * network.depth
    batch, sent = columns(task)
    return units * (batch + sent) * (25.0 + 3.0 * (batch + sent)) + 5000.0 * network.depth
