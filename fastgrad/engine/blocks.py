"""Run the realizations of a task in blocks, on threads or on any executor, and put the results in their places.

A block is (task, first realization, count), and ``run_block`` a pure function of it: every realization is computed from its own address, so who
runs a block, when, and beside which others changes no byte.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastgrad.engine import conditional_problem, mlp_problem, recurrent_problem
from fastgrad.engine.parameter_gradients import TOTAL_VARIABLES
from fastgrad.engine.room import release
from fastgrad.engine.task import BlockResult, Task
from fastgrad.networks import MLP, Recurrent

BLOCK_SECONDS = 0.05  # long enough that handing it over costs nothing, short enough for Ctrl-C and a progress bar


class Engine(NamedTuple):
    """What the driver asks of a method.

    run : (task, first, count) -> BlockResult.  workspace_bytes, work : task -> bytes per worker, nanoseconds per realization.
    together : task -> how many realizations are fastest in one block, where that is more than one.
    """

    run: Callable[[Task, int, int], BlockResult]
    workspace_bytes: Callable[[Task], int]
    work: Callable[[Task], float]
    together: Callable[[Task], int] = lambda task: 1


def engine_of(task: Task) -> Engine:
    """The engine that runs a task."""
    if isinstance(task.network, Recurrent):
        return Engine(recurrent_problem.run_recurrent, recurrent_problem.workspace_bytes, recurrent_problem.work)
    if task.method == "conditional":
        sampler = conditional_problem
        return Engine(sampler.run_conditional_mlp, sampler.workspace_bytes, sampler.work, sampler.together)
    return Engine(mlp_problem.run_dense_mlp, mlp_problem.workspace_bytes, mlp_problem.work, mlp_problem.together)


def run_block(task: Task, first: int, count: int) -> BlockResult:
    """Run realizations first … first + count - 1 of a task, and keep nothing."""
    try:
        return _run_one_of_many(task, first, count)
    finally:
        release(task)


def _run_one_of_many(task: Task, first: int, count: int) -> BlockResult:
    """`run_block` that leaves its working arrays to the thread's next block (`fastgrad.engine.room`)."""
    return engine_of(task).run(task, first, count)


def default_threads() -> int:
    """Cores this process may use, or ``FASTGRAD_NUM_THREADS``."""
    chosen = os.environ.get("FASTGRAD_NUM_THREADS", "")
    if chosen.isdigit() and int(chosen) > 0:
        return int(chosen)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def blocks_of(task: Task, realizations: int, workers: int) -> Iterator[tuple[int, int]]:
    """(first, count) of the blocks to run: of BLOCK_SECONDS at most, or of as many as go together; as many for each worker as for the others.

    They are equal to within one realization, or one group of those that go together where each holds at least four.
    """
    engine = engine_of(task)
    together = engine.together(task)
    by_time = BLOCK_SECONDS / (engine.work(task) * 1e-9)
    most = max(1, together, int(min(by_time, 100_000)))
    number = min(realizations, workers * math.ceil(realizations / (workers * most)))
    unit = together if realizations >= 4 * together * number else 1
    units = math.ceil(realizations / unit)
    firsts = (min(realizations, unit * (units * i // number)) for i in range(number + 1))
    return ((first, following - first) for first, following in pairwise(firsts))


def _equal(realizations: int, count: int) -> Iterator[tuple[int, int]]:
    return ((first, min(count, realizations - first)) for first in range(0, realizations, count))


def result_shapes(task: Task) -> dict[str, tuple[int, ...]]:
    """Shape of each variable of one realization."""
    kept = task.kept
    if isinstance(task.network, MLP):
        shared = {name: task.probes == 1 or name == "activation_log_norm" for name in task.variables}
        return {name: (kept,) if shared[name] else (task.probes, kept) for name in task.variables}
    assert isinstance(task.network, Recurrent)
    stacked = (task.network.layers,) if task.network.layers > 1 else ()
    totals = TOTAL_VARIABLES
    return {name: stacked if name in totals else (*stacked, kept) for name in task.variables}


def result_bytes(task: Task, realizations: int) -> int:
    """Memory of the results."""
    return realizations * (8 + sum(8 * math.prod(shape) for shape in result_shapes(task).values()))


def run_task(
    task: Task,
    realizations: int,
    *,
    threads: int | None = None,
    executor: Executor | None = None,
    count: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]]:
    """Run all realizations of a task.

    Parameters
    ----------
    task
        What to run.
    realizations
        How many.
    threads
        Worker threads; None: `default_threads`. Ignored with an executor.
    executor
        Any ``concurrent.futures.Executor``: threads, spawned processes, loky, Dask's, MPI's.
    count
        Realizations in a block; None: at most about a twentieth of a second of work.
    advance
        Called with the number of realizations that have just been finished.

    Returns
    -------
    (dict of arrays, array)
        Variable name -> float64 array, realizations first, nats; and where each realization left the number range, or -1.
    """
    workers = threads or default_threads()
    blocks = _equal(realizations, count) if count else blocks_of(task, realizations, workers)
    start = next(blocks)
    if executor is None and start[1] == realizations:  # one block: what it gives is the result, and need not be held twice
        result = run_block(task, 0, realizations)
        if advance is not None:
            advance(realizations)
        return result.arrays, result.left
    blocks = chain([start], blocks)
    arrays = {name: np.empty((realizations, *shape)) for name, shape in result_shapes(task).items()}
    left = np.empty(realizations, dtype=np.int64)

    def keep(first: int, result: BlockResult) -> None:
        n = result.left.size
        for name, array in result.arrays.items():
            arrays[name][first : first + n] = array
        left[first : first + n] = result.left
        if advance is not None:
            advance(n)

    if executor is None and workers == 1:
        try:
            for first, n in blocks:
                keep(first, _run_one_of_many(task, first, n))
        finally:
            release(task)
    elif executor is None:
        try:
            with ThreadPoolExecutor(workers, thread_name_prefix="fastgrad") as pool:  # whose threads' arrays go with them
                _submit_all(pool, _run_one_of_many, task, blocks, 2 * workers, keep)
        finally:
            release(task)
    else:
        _submit_all(executor, run_block, task, blocks, 4 * max(workers, default_threads()), keep)
    return arrays, left


def _submit_all(
    executor: Executor,
    run: Callable[[Task, int, int], BlockResult],
    task: Task,
    blocks: Iterator[tuple[int, int]],
    in_flight: int,
    keep: Callable[[int, BlockResult], None],
) -> None:
    """Submit blocks, a bounded number at a time so that Ctrl-C and errors leave little behind, and keep what comes back."""
    pending: dict[Future[Any], int] = {}
    try:
        while True:
            for first, n in blocks:
                pending[executor.submit(run, task, first, n)] = first
                if len(pending) >= in_flight:
                    break
            if not pending:
                return
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                keep(pending.pop(future), future.result())
    finally:
        for future in pending:
            future.cancel()
