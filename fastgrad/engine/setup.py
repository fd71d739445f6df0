"""Checked arguments in, a `Task` out: everything that can be wrong with a request is found here, before anything is allocated."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgrad.engine import conditional_problem, mlp_problem, recurrent_problem
from fastgrad.engine.random import MAX_PANEL_COUNTERS, MAX_REALIZATIONS
from fastgrad.engine.seeds import key_of, seed_sequence
from fastgrad.engine.task import DTYPES, Task
from fastgrad.errors import TooLarge, not_allowed, shown, unknown
from fastgrad.input_files import check_inputs
from fastgrad.networks import MLP, Network, Recurrent
from fastgrad.weight_files import fit_state_dict

METHODS = ("auto", "dense", "conditional")
LOSSES = ("probe", "sum")


def whole(value: Any, argument: str, least: int = 1, most: int = MAX_REALIZATIONS) -> int:
    """An integer within bounds; numpy integers count, booleans do not."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(not_allowed(argument, value, f"an integer of at least {least}")) from None
    if not least <= number <= most:
        bounds = f"at least {least}" if number < least else f"at most {most}"
        raise ValueError(not_allowed(argument, value, f"an integer of {bounds}"))
    return number


def one_of(value: Any, argument: str, allowed: Iterable[str]) -> str:
    """One of some names."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(unknown(argument, value, allowed))
    return value


def dtype_name(dtype: Any) -> str:
    """``"float32"`` or ``"float64"`` from a name, a NumPy type or a dtype."""
    if isinstance(dtype, str):
        return one_of(dtype, "dtype", DTYPES)
    try:
        name = np.dtype(dtype).name if dtype is not None else ""
    except TypeError:
        name = ""
    if name not in DTYPES:
        raise ValueError(unknown("dtype", name or shown(dtype), DTYPES))
    return name


def network_variables(network: Network) -> tuple[str, ...]:
    """The variables that can be recorded for this network."""
    if isinstance(network, Recurrent):
        return recurrent_problem.variables(network)
    return mlp_problem.VARIABLES


def wanted_variables(network: Network, record: Any) -> tuple[str, ...]:
    """The variables to keep, in the engine's order."""
    known = network_variables(network)
    if record is None:
        return known
    names = [record] if isinstance(record, str) else record
    try:
        names = list(names)
    except TypeError:
        names = None
    if names is None:
        raise TypeError(not_allowed("record", record, "None (all variables) or a list of names"))
    chosen = [one_of(name, "record", known) for name in names]
    if not chosen:
        raise ValueError(not_allowed("record", record, f"None or a list of at least one of {', '.join(known)}"))
    return tuple(name for name in known if name in chosen)


def _in_range(inputs: NDArray[np.float64] | None, dtype: str) -> NDArray[Any] | None:
    """The inputs in the run's precision, refused if they do not fit into it."""
    if inputs is None:
        return None
    top = float(np.abs(inputs).max(initial=0.0))
    if top > float(np.finfo(DTYPES[dtype]).max):
        raise ValueError(f"inputs reach {top:.3g}, beyond the range of dtype={dtype!r}: use dtype='float64' or scale them down")
    return inputs.astype(DTYPES[dtype])


def make_task(
    network: Any,
    *,
    rng: Any,
    inputs: Any = None,
    loss: Any = "probe",
    method: Any = "auto",
    dtype: Any = "float32",
    record: Any = None,
    every: Any = 1,
    weights: Mapping[str, Any] | None = None,
    probes: Any = 1,
) -> tuple[Task, np.random.SeedSequence]:
    """Check everything that does not depend on the machine, and describe the work; also the seed it stands for."""
    if not isinstance(network, MLP | Recurrent):
        raise TypeError(not_allowed("network", network, "an MLP, RNN, LSTM or GRU"))
    one_of(method, "method", METHODS)
    unit_probe = one_of(loss, "loss", LOSSES) == "probe"
    if whole(probes, "probes", most=2**16) > 1 and not unit_probe:
        raise ValueError(f"probes={probes} cannot go with loss='sum', whose v is always the same: use loss='probe' or probes=1")
    sequence = seed_sequence(rng)
    name = dtype_name(dtype)
    task = Task(
        network=network,
        method="dense",
        dtype=name,
        key=key_of(sequence),
        unit_probe=unit_probe,
        variables=wanted_variables(network, record),
        every=whole(every, "every"),
        inputs=None if inputs is None else _in_range(check_inputs(network, inputs), name),
        weights=None if weights is None else fit_state_dict(network, weights, dtype=DTYPES[name]),
        probes=operator.index(probes),
    )
    return _with_method(task, method), sequence


def check_addresses(task: Task) -> None:
    """Refuse tensors whose numbers have no address each: only where the memory for them could be had does this come up.

    Raises
    ------
    TooLarge
        When a tensor has more than 4 * MAX_PANEL_COUNTERS numbers.
    """
    network = task.network
    sizes = {"width": network.width or 1} if isinstance(network, MLP) else {"steps": network.steps * network.input_width}
    if isinstance(network, Recurrent):
        sizes["width"] = network.width * max(network.width, network.input_width)
    elif task.method == "dense" and network.width is not None:
        sizes["width"] = network.width**2
    for argument, numbers in sizes.items():
        if numbers > 4 * MAX_PANEL_COUNTERS:
            raise TooLarge(
                f"{argument}={getattr(network, argument)} asks for a tensor of {numbers:.3g} random numbers; "
                f"one tensor can have {4 * MAX_PANEL_COUNTERS:.3g}: try a smaller {argument}"
            )


def _with_method(task: Task, method: str) -> Task:
    """The task with the method asked for, or with the one that suits it, and why."""
    hindrance = conditional_problem.obstacle(task)
    if method == "conditional":
        if hindrance is not None:
            raise ValueError(f"method='conditional' cannot run this: {hindrance}; use method='dense' or 'auto'")
        return replace(task, method="conditional", reason="it was asked for")
    if method == "dense" and task.probes > 1:
        raise ValueError(not_allowed("probes", task.probes, "1 with method='dense'; several probes need method='conditional'"))
    if method == "dense":
        return replace(task, reason="it was asked for")
    cost = None if hindrance else conditional_problem.drawback(task)
    if hindrance is None and cost is None:
        return replace(task, method="conditional", reason="Gaussian and Haar weights can be sampled exactly without forming them")
    if task.probes > 1 and hindrance is None:
        return replace(task, method="conditional", reason="several probes need it")
    if task.probes > 1:
        raise ValueError(not_allowed("probes", task.probes, f"1 here, for {hindrance}"))
    return replace(task, reason=hindrance or cost or "")
