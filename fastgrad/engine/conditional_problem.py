"""From an MLP's description to what the conditional sampler takes, where it applies, and what it costs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from fastgrad.activations import ACTIVATIONS
from fastgrad.engine.conditional_mlp import Block, Layers, conditional_kernel, work_arrays
from fastgrad.engine.conditional_pointwise import phi_address
from fastgrad.engine.dense_mlp import VARIABLES
from fastgrad.engine.draws import SLACK, prepare
from fastgrad.engine.task import BlockResult, Task
from fastgrad.networks import MLP, Recurrent
from fastgrad.weights import draw

__all__ = ["obstacle", "run_conditional_mlp", "stored_bytes", "work", "workspace_bytes"]


def obstacle(task: Task) -> str | None:
    """Why the conditional sampler cannot run a task: the end of a sentence, or None where it can."""
    if isinstance(task.network, Recurrent):
        return "recurrent weights are used at every step, so they must exist"
    if task.weights is not None:
        return "the weights are given, so they must be multiplied"
    kind = draw(task.network.weights, 1, 1).kind
    if kind == "constant":
        return "constant weights are not random"
    if not is_single(task) and kind != "uniform":
        return "batches, several probes and Haar-orthogonal weights are not sampled this way yet"
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
    most = columns(task)[1]
    least = network.width or min(network.widths)
    if 2 * most > least and most > 1:
        return f"a batch of {most} in layers as narrow as {least} leaves nothing to save"
    return None


def is_single(task: Task) -> bool:
    """Whether the fast case applies: one input, one probe, Gaussian weights."""
    assert isinstance(task.network, MLP)
    return columns(task)[1] == 1 and draw(task.network.weights, 1, 1).kind == "normal"


def _layers(task: Task) -> Layers:
    network = task.network
    assert isinstance(network, MLP)
    if network.width is not None:
        widths = np.full(network.depth + 1, network.width, dtype=np.int64)
        scales = [draw(network.weights, network.width, network.width).scale]
    else:
        widths = np.array(network.widths, dtype=np.int64)
        scales = [draw(network.weights, *pair).scale for pair in pairwise(network.widths)]
    activation = ACTIVATIONS[network.activation]
    left, right = activation.slopes_at_zero or (0.0, 0.0)
    return Layers(
        widths=widths,
        weight_std=np.array(scales),
        bias_std=float(network.bias_std or 0.0),
        linear_output=network.output_activation == "linear",
        phi=phi_address(network.activation, task.dtype),
        homogeneous=activation.homogeneous,
        through_zero=activation.slopes_at_zero is not None,
        left_slope=left,
        right_slope=right,
    )


def run_conditional_mlp(task: Task, first: int, count: int) -> BlockResult:
    """Run realizations first … first + count - 1."""
    layers = _layers(task)
    number = task.number
    inputs = np.empty(0, number) if task.inputs is None else task.inputs[0].astype(number)
    block = Block(first, count, task.key_words, inputs, task.unit_probe, task.slots(), task.columns(VARIABLES))
    out = np.full((len(task.variables), count, task.kept), np.nan)
    left = np.empty(count, dtype=np.int64)
    work = work_arrays(layers, number, task.keep)
    prepare(task.dtype)
    conditional_kernel()(number(1), layers, block, work, out, left)
    return BlockResult(dict(zip(task.variables, out, strict=True)), left)


def _width(network: MLP) -> int:
    return network.width or max(network.widths)


def stored_bytes(task: Task) -> int:
    """What keeping all pre-activations between the passes takes."""
    network = task.network
    assert isinstance(network, MLP)
    return (network.depth + 1) * (_width(network) + SLACK + 15) * np.dtype(task.number).itemsize


def workspace_bytes(task: Task) -> int:
    """What one worker needs besides its results."""
    network = task.network
    assert isinstance(network, MLP)
    row = (_width(network) + SLACK + 15) * np.dtype(task.number).itemsize
    stored = stored_bytes(task) if task.keep else 2 * row
    return stored + 7 * row + (network.depth + 1) * (8 * 6 + 1) + 16 * network.depth


def work(task: Task) -> float:
    """Rough nanoseconds for one realization on one core: only used to choose how many make a block."""
    network = task.network
    assert isinstance(network, MLP)
    units = network.depth * network.width if network.width is not None else sum(network.widths)
    return 10.0 * units + 100.0 * network.depth
