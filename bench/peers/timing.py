"""Least times, and halves of a job on two processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context


def best_time(function: Callable[[], object], repeat: int, at_least: float = 2.0) -> float:
    """Least seconds of ``repeat`` calls or more, for ``at_least`` seconds, after one that is not counted: neighbours come and go within a second."""
    function()
    calls, spent, least = 0, 0.0, float("inf")
    while calls < repeat or spent < at_least:
        start = time.perf_counter()
        function()
        took = time.perf_counter() - start
        calls, spent, least = calls + 1, spent + took, min(least, took)
    return least


class TwoProcesses:
    """A pool of two fresh interpreters, one core each, for jobs ``job(realizations, seed)`` of module level."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"))

    def __enter__(self) -> TwoProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def halves(self, job: Callable[[int, int], object], realizations: int) -> Callable[[], object]:
        """A call that runs the job in halves, one in each process."""
        half = max(1, realizations // 2)
        return lambda: list(self._pool.map(_quietly, [job] * 2, [half] * 2, [1, 2]))


def _quietly(job: Callable[[int, int], object], realizations: int, seed: int) -> None:
    """The job without its result, whose way back would be part of the time."""
    job(realizations, seed)
