"""What the blocks of one task that run in one thread share: its description as the kernel takes it, and the arrays it works in.

A block works in arrays of many megabytes. Taken anew for each, they are handed over by the operating system page by page, zeroed: a microsecond
for 4 kB, which at large batches was half of the run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from fastgrad.engine.task import Task

T = TypeVar("T")


class _Room(threading.local):
    """The last task that a thread has run, and what was prepared for it."""

    task: Task | None = None
    prepared: object = None


class _Shared:
    """The same, of all threads."""

    task: Task | None = None
    prepared: object = None


_room = _Room()
_shared = _Shared()
_lock = threading.RLock()


def prepared_once(task: Task, prepare: Callable[[], T]) -> T:
    """What ``prepare()`` returned in this thread for this very task; one task is remembered, until the next or `release`."""
    if _room.task is not task:
        _room.task = _room.prepared = None  # first, so that both are never held
        _room.prepared = prepare()
        _room.task = task
    return _room.prepared  # type: ignore[return-value]


def shared_once(task: Task, prepare: Callable[[], T]) -> T:
    """`prepared_once` for what all threads of a process read and none writes: a network's given weights, say."""
    with _lock:
        if _shared.task is not task:
            _shared.prepared = prepare()
            _shared.task = task
        return _shared.prepared  # type: ignore[return-value]


def release(task: Task) -> None:
    """Forget a task: what this thread has prepared for it, and what is shared."""
    with _lock:
        if _shared.task is task:
            _shared.task = _shared.prepared = None
    if _room.task is task:
        _room.task = _room.prepared = None
