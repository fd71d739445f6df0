"""From what users pass as ``rng`` to the key of the random numbers and to text that gives the same key again (SPEC 7)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from fastgrad.errors import shown

Rng: TypeAlias = "np.random.Generator | np.random.BitGenerator | np.random.SeedSequence | int | Sequence[int] | Mapping[str, Any] | None"

_POOL = 4  # words that SeedSequence mixes entropy into unless told otherwise


def seed_sequence(rng: Any) -> np.random.SeedSequence:
    """The SeedSequence that ``rng`` stands for.

    An int or a sequence of ints is entropy, a SeedSequence is itself, None is fresh entropy from the system. A Generator or BitGenerator is
    drawn from once, so that its next use gives something else. A mapping holds arguments of SeedSequence, as `seed_text` writes them for
    a spawned one.

    Raises
    ------
    ValueError, TypeError
        One sentence, when it is none of these.
    """
    allowed = "a non-negative int, a sequence of them, a SeedSequence, a Generator, a BitGenerator or None"
    if isinstance(rng, np.random.SeedSequence):
        return rng
    if isinstance(rng, np.random.BitGenerator):
        rng = np.random.Generator(rng)
    if isinstance(rng, np.random.Generator):
        return np.random.SeedSequence([int(word) for word in rng.integers(0, 2**32, size=4)])
    if isinstance(rng, bool | np.bool_ | str | bytes | float):
        raise TypeError(f"rng={shown(rng)} is not allowed: rng must be {allowed}")
    if isinstance(rng, np.integer):
        rng = int(rng)
    try:
        if isinstance(rng, Mapping):
            return np.random.SeedSequence(**rng)
        return np.random.SeedSequence(rng)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"rng={shown(rng)} is not allowed: rng must be {allowed}") from None


def key_of(sequence: np.random.SeedSequence) -> tuple[int, int]:
    """Two 32-bit words: the key of Philox4x32."""
    first, second = sequence.generate_state(2, np.uint32)
    return int(first), int(second)


def seed_text(sequence: np.random.SeedSequence) -> str:
    """JSON that ``fastgrad.measure(rng=json.loads(text))`` turns into the same numbers."""
    entropy = _plain(sequence.entropy)
    more: dict[str, Any] = {}
    if sequence.spawn_key:
        more["spawn_key"] = [int(word) for word in sequence.spawn_key]
    if sequence.pool_size != _POOL:
        more["pool_size"] = int(sequence.pool_size)
    return json.dumps({"entropy": entropy, **more} if more else entropy)


def _plain(entropy: Any) -> Any:
    return int(entropy) if isinstance(entropy, int | np.integer) else [int(word) for word in np.atleast_1d(entropy)]
