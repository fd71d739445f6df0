"""From a recurrent network's description to the arrays that its kernel takes, and what they cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastgrad.activations import ACTIVATIONS
from fastgrad.engine.aligned import aligned_empty, aligned_zeros
from fastgrad.engine.draws import KINDS, NORMAL, SLACK, UNIFORM, matrix_drawer, prepare
from fastgrad.engine.parameter_gradients import STEP_VARIABLES, SUM_CHUNK, TOTAL_VARIABLES
from fastgrad.engine.pointwise import cell_addresses, cell_of
from fastgrad.engine.recurrent_weights import Weights
from fastgrad.engine.room import prepared_once
from fastgrad.engine.shared_norms import prepare_norms
from fastgrad.engine.steps import step_addresses
from fastgrad.engine.task import BlockResult, Task
from fastgrad.engine.through_time import CellInfo
from fastgrad.engine.unrolled import Block, Work, steps_at_once, unrolled_kernel, work_arrays
from fastgrad.networks import LSTM, RNN, Recurrent
from fastgrad.weight_files import FittedRecurrent
from fastgrad.weights import draw

__all__ = ["run_recurrent", "trace_recurrent", "variables", "work", "workspace_bytes"]


def variables(network: Recurrent) -> tuple[str, ...]:
    """The variables of this kind of network."""
    steps = STEP_VARIABLES if network.kind == "lstm" else tuple(n for n in STEP_VARIABLES if not n.startswith("cell"))
    return steps + TOTAL_VARIABLES


def _bias_law(network: Recurrent) -> tuple[int, float, bool]:
    """(kind, scale, whether b_hh is drawn too); scale 0 for none."""
    if network.bias_std is not None:
        return NORMAL, network.bias_std, False
    if network.weights == "pytorch_default":
        return UNIFORM, 1.0 / network.width**0.5, True
    return NORMAL, 0.0, False


def _weights(task: Task) -> Weights:
    network = task.network
    assert isinstance(network, Recurrent)
    gates, width, stacked = network.gates, network.width, network.layers
    shape = (stacked, gates * width, width)
    recurrent = aligned_zeros(shape, task.number, SLACK)
    input_first = aligned_zeros((gates * width, network.input_width), task.number, SLACK)
    input_rest = aligned_zeros((stacked - 1, *shape[1:]), task.number, SLACK)
    biases = aligned_zeros((stacked, gates * width), task.number, SLACK)
    input_biases = aligned_zeros(biases.shape, task.number, SLACK)
    if task.weights is not None:
        assert isinstance(task.weights, FittedRecurrent)
        recurrent[:] = np.stack(task.weights.weight_hh)
        input_first[:] = task.weights.weight_ih[0]
        for layer in range(1, stacked):
            input_rest[layer - 1] = task.weights.weight_ih[layer]
        biases[:] = np.stack(task.weights.bias_hh)
        input_biases[:] = np.stack(task.weights.bias_ih)
    law = draw(network.weights, width, width)
    # nn.RNN, nn.LSTM and nn.GRU draw everything from U(+-1/sqrt(width)), whatever the fan_in.
    default = network.input_weights == "pytorch_default"
    input_laws = [draw(network.input_weights, width if default else n, width) for n in network.input_widths]
    bias_kind, bias_scale, both = _bias_law(network)
    forget = network.forget_bias if isinstance(network, LSTM) else None
    return Weights(
        given=task.weights is not None,
        recurrent_drawer=matrix_drawer(KINDS[law.kind], task.dtype),
        input_drawer=matrix_drawer(KINDS[input_laws[0].kind], task.dtype),
        recurrent_kind=KINDS[law.kind],
        recurrent_scale=law.scale,
        input_kind=KINDS[input_laws[0].kind],
        input_scales=np.array([each.scale for each in input_laws]),
        bias_kind=bias_kind,
        bias_scale=bias_scale,
        both_biases=both,
        forget_bias=np.nan if forget is None else float(forget),
        recurrent=recurrent,
        input_first=input_first,
        input_rest=input_rest,
        biases=biases,
        input_biases=input_biases,
    )


def _inputs(task: Task) -> Any:
    """(T, B, N), given or room for those of one realization."""
    network = task.network
    assert isinstance(network, Recurrent)
    if task.inputs is None:
        return aligned_empty((network.steps, 1, network.input_width), task.number, SLACK)
    inputs = np.ascontiguousarray(task.inputs, dtype=task.number)
    return inputs if inputs.flags.writeable else inputs.copy()  # a read-only array is another type to Numba


def _block(task: Task, inputs: Any, first: int, count: int) -> Block:
    return Block(
        first=first,
        count=count,
        key=task.key_words,
        inputs=inputs,
        given_inputs=task.inputs is not None,
        unit_probe=task.unit_probe,
        slots=task.slots(),
        columns=task.columns(STEP_VARIABLES),
        total_columns=task.columns(TOTAL_VARIABLES),
    )


def _cell(network: Recurrent, dtype: str) -> CellInfo:
    activation = network.activation if isinstance(network, RNN) else None
    cell = cell_of(network.kind, activation)
    if cell.recurrent_rows != tuple(range(network.gates)):
        raise ValueError(f"cell {cell.name!r}: recurrent_rows must be the first rows of pre, got {cell.recurrent_rows}")
    code, steps = cell_addresses(network.kind, activation, dtype), step_addresses(dtype)
    return CellInfo(
        forward=code.forward,
        backward=code.backward,
        forward_steps=steps.forward,
        backward_steps=steps.backward,
        gates=network.gates,
        n_pre=cell.n_pre,
        n_states=cell.n_states,
        n_local=cell.n_local,
        input_rows=np.array(cell.input_rows, dtype=np.int64),
        rows_apart=cell.input_rows != cell.recurrent_rows,
        homogeneous=activation is not None and ACTIVATIONS[activation].homogeneous,
    )


def _run(task: Task, cell: CellInfo, weights: Weights, work: Work, block: Block) -> BlockResult:
    network = task.network
    assert isinstance(network, Recurrent)
    step_names = [name for name in task.variables if name in STEP_VARIABLES]
    total_names = [name for name in task.variables if name in TOTAL_VARIABLES]
    out = np.full((len(step_names), block.count, network.layers, task.kept), np.nan)
    totals = np.full((len(total_names), block.count, network.layers), np.nan)
    left = np.empty(block.count, dtype=np.int64)
    prepare(task.dtype)
    prepare_norms(task.dtype, of_rows=True)
    unrolled_kernel()(task.number(1), cell, weights, block, work, out, totals, left)
    arrays = dict(zip(step_names, out, strict=True)) | dict(zip(total_names, totals, strict=True))
    if network.layers == 1:
        arrays = {name: array[:, 0] for name, array in arrays.items()}
    return BlockResult(arrays, left)


def run_recurrent(task: Task, first: int, count: int) -> BlockResult:
    """Run realizations first … first + count - 1."""
    network = task.network
    assert isinstance(network, Recurrent)

    def prepare() -> tuple[CellInfo, Weights, Work, Any]:
        cell, weights, inputs = _cell(network, task.dtype), _weights(task), _inputs(task)
        keep_d_pre = network.layers > 1 or bool((task.columns(TOTAL_VARIABLES) >= 0).any())
        return cell, weights, work_arrays(weights, inputs, cell, keep_d_pre), inputs

    cell, weights, work, inputs = prepared_once(task, prepare)
    return _run(task, cell, weights, work, _block(task, inputs, first, count))


def trace_recurrent(task: Task, realization: int) -> dict[str, Any]:
    """The arrays of one realization (`fastgrad.engine.trace.trace`): what the kernel's working arrays hold after it."""
    network = task.network
    assert isinstance(network, Recurrent)
    cell, weights, block = _cell(network, task.dtype), _weights(task), _block(task, _inputs(task), realization, 1)
    work = work_arrays(weights, block.inputs, cell, keep_d_pre=True, keep_all=True)
    left = int(_run(task, cell, weights, work, block).left[0])
    result: dict[str, Any] = {
        "inputs": block.inputs.astype(np.float64),
        "state_dict": _named(network, weights.recurrent, weights.input_first, weights.input_rest, weights.biases, weights.input_biases),
    }
    states = _scaled(np.moveaxis(work.states, 1, 0), work.exponents)  # (S, K, T + 1, B, H)
    gradients = _scaled(work.gradients[:, :, 0], work.gradient_exponents)
    cell_gradients = np.concatenate((work.gradients[:, :1, -1], work.totals[:, 1:]), axis=1)
    if left >= 0:
        states, gradients = np.full_like(states, np.nan), np.full_like(gradients, np.nan)
        cell_gradients = gradients
    result |= {"h": states[0], "gradient_h": gradients, "v": gradients[-1, -1]}
    if cell.n_states == 2:
        result |= {"c": states[1], "gradient_c": _scaled(cell_gradients, work.gradient_exponents)}
    d_pre = _scaled(work.d_pre, work.gradient_exponents[:, 1:]) * (1.0 if left < 0 else np.nan)
    result["gradient"] = _total_gradients(network, cell, d_pre, states[0], result["inputs"])
    return result


def _scaled(arrays: Any, exponents: Any) -> Any:
    """arrays (…, K, T, …) * 2**exponents (K, T) in float64; the exponent of a zero vector means nothing."""
    spread = np.clip(exponents, -2200, 2200)
    return np.ldexp(arrays.astype(np.float64), spread.reshape(*spread.shape, 1, 1))


def _named(network: Recurrent, recurrent: Any, input_first: Any, input_rest: Any, biases: Any, input_biases: Any) -> dict[str, Any]:
    """PyTorch's names for arrays shaped as in `Weights`."""
    arrays = {}
    for layer in range(network.layers):
        below = input_first if layer == 0 else input_rest[layer - 1]
        arrays[f"weight_ih_l{layer}"] = np.array(below, dtype=np.float64)
        arrays[f"weight_hh_l{layer}"] = np.array(recurrent[layer], dtype=np.float64)
        arrays[f"bias_ih_l{layer}"] = np.array(input_biases[layer], dtype=np.float64)
        arrays[f"bias_hh_l{layer}"] = np.array(biases[layer], dtype=np.float64)
    return arrays


def _total_gradients(network: Recurrent, cell: CellInfo, d_pre: Any, h: Any, inputs: Any) -> dict[str, Any]:
    """The loss's derivatives by all weights from d_pre (K, T, B, P H), h (K, T + 1, B, H) and inputs (T, B, N)."""
    width = network.width
    input_columns = np.concatenate([np.arange(row * width, (row + 1) * width) for row in cell.input_rows])
    recurrent, below, biases, input_biases = [], [], [], []
    for layer in range(network.layers):
        for_hidden, for_input = d_pre[layer, :, :, : cell.gates * width], d_pre[layer][:, :, input_columns]
        x = inputs if layer == 0 else h[layer - 1, 1:]
        recurrent.append(np.einsum("tbi,tbj->ij", for_hidden, h[layer, :-1]))
        below.append(np.einsum("tbi,tbj->ij", for_input, x))
        biases.append(for_hidden.sum(axis=(0, 1)))
        input_biases.append(for_input.sum(axis=(0, 1)))
    return _named(network, recurrent, below[0], below[1:], biases, input_biases)


def workspace_bytes(task: Task) -> int:
    """What one worker needs besides its results."""
    network = task.network
    assert isinstance(network, Recurrent)
    cell = cell_of(network.kind, "tanh")
    batch = 1 if task.inputs is None else task.inputs.shape[1]
    units = batch * network.width
    steps, stacked, rows = network.steps, network.layers, network.gates * network.width
    weights = 2 * (rows + 16) * (network.input_width + network.width) + (2 * stacked + 1) * rows * (network.width + 16)
    per_step = stacked * (cell.n_states + cell.n_local) * units + cell.n_pre * units + 2 * units
    inputs = steps * batch * network.input_width
    together = steps_at_once(batch, steps) + 1
    chunks = together * (cell.n_pre + cell.n_states + 1) * units + SUM_CHUNK * batch * rows
    products = rows * max(network.width, network.input_width)
    numbers = weights + steps * per_step + inputs + chunks + products + 20 * rows
    return numbers * task.itemsize + 8 * steps * (stacked + 6)


def work(task: Task) -> float:
    """Rough nanoseconds for one realization on one core: only used to choose how many make a block."""
    network = task.network
    assert isinstance(network, Recurrent)
    batch = 1 if task.inputs is None else task.inputs.shape[1]
    rows = network.gates * network.width
    columns = network.input_width + (2 * network.layers - 1) * network.width
    per_step = batch * rows * (0.05 * columns + 4.0 * network.layers) + 300.0 * network.layers
    draws = 0.0 if task.weights is not None else 3.0 * rows * columns
    return network.steps * per_step + draws
