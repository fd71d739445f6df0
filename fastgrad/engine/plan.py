"""What a request will take, before any of it is allocated; and a refusal with numbers and a smaller suggestion where that cannot be had."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from fastgrad.engine.blocks import engine_of, result_bytes
from fastgrad.engine.task import Task
from fastgrad.errors import TooLarge, not_allowed

KEEP_AT_MOST = 2**30  # per worker: beyond, writing weights and reading them back costs what drawing them again does
KEEP_NORMALS_AT_MOST = 16 * 2**20  # the same for the layers that the conditional sampler keeps, whose other arrays stay in cache
BASE = 64 * 2**20  # interpreter, libraries, compiled kernels: what measuring takes before the first array


@dataclass(frozen=True)
class Estimate:
    """Bytes that a measurement will hold at its largest.

    Attributes
    ----------
    results : int
        The returned dataset.
    workspace : int
        What one worker needs.
    workers : int
    """

    results: int
    workspace: int
    workers: int

    @property
    def total(self) -> int:
        """Everything, bytes."""
        return self.results + self.workers * self.workspace + BASE


def available_bytes() -> int:
    """Memory that this process may still take: the machine's, or its control group's where that is less."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
        return free if limit == "max" else max(0, min(free, int(limit) - int(used)))
    except (OSError, ValueError):
        return free


def estimate(task: Task, realizations: int, workers: int) -> Estimate:
    """What running the task takes."""
    # Blocks hand over copies of their results: a few are in flight.
    results = result_bytes(task, realizations) + min(realizations, 1000) * result_bytes(task, 1)
    return Estimate(results, engine_of(task).workspace_bytes(task), min(workers, realizations))


def fitted(task: Task, realizations: int, workers: int, memory: Any = None) -> Task:
    """The task in the form that fits: holding weights between the passes where there is room, drawing them twice where not.

    Parameters
    ----------
    task, realizations, workers
        The work.
    memory : int, optional
        Bytes it may take; None: what is available now.

    Raises
    ------
    TooLarge
        When no form fits: one sentence with the estimate, the limit and a smaller request.
    """
    limit = _limit(memory)
    keeping = replace(task, keep=True)
    whole = estimate(keeping, realizations, workers)
    most = KEEP_AT_MOST if task.method == "dense" else min(limit, KEEP_NORMALS_AT_MOST) if memory is None else limit
    if whole.workspace <= most and whole.total <= 0.8 * limit:
        return keeping
    task = replace(task, keep=False)
    needed = estimate(task, realizations, workers)
    if needed.total > limit:
        raise TooLarge(_refusal(task, realizations, needed, limit))
    return task


def _limit(memory: Any) -> int:
    if memory is None:
        return available_bytes()
    if isinstance(memory, bool) or not isinstance(memory, int | float) or not 0 < memory < float("inf"):
        raise ValueError(not_allowed("memory", memory, "a number of bytes, e.g. 2e9, or None for what is free"))
    return int(memory)


def _refusal(task: Task, realizations: int, needed: Estimate, limit: int) -> str:
    parts = f"{size(needed.results)} for the results and {size(needed.workspace)} for each of {needed.workers} workers"
    return f"this measurement needs about {size(needed.total)} ({parts}), but {size(limit)} can be had; {_smaller(task, realizations, limit)}"


def _smaller(task: Task, realizations: int, limit: int) -> str:
    """A request that fits, or what to reduce."""
    room = 0.9 * limit - BASE
    alone = estimate(task, 1, 1)
    if alone.workspace > room / 2:
        words = "a smaller width, depth or batch" if task.length == getattr(task.network, "depth", None) else "fewer steps or a smaller width"
        threads = "" if alone.workspace > room else "threads=1, "
        return f"try {threads}{words}"
    per_realization = result_bytes(task, 1)
    fits = int((room - _set_aside(alone, limit)) / (per_realization * 1.01))
    if fits >= max(1, realizations // 100):
        return f"try realizations={fits:_}"
    every = max(2, -(-realizations * per_realization // max(1, int(room / 2))))
    if every <= task.length:
        first = task.variables[0]
        return f"try every={every}, or record=[{first!r}] with fewer realizations"
    return f"try realizations={max(1, fits):_} and every={task.length}"


def _set_aside(alone: Estimate, limit: int) -> int:
    """Bytes of workspace to set aside: one worker's, or a tenth of the memory."""
    return max(alone.workspace, limit // 10)


def size(count: float) -> str:
    """Bytes for people: three digits and a unit."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB", "EB"):
        if count < 999.5 or unit == "EB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
