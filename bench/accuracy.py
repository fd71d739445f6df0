"""How far are the elementary functions from the exact values, over every float32 there is?

Prints the rows of the table in docs/accuracy.md: the largest error in ULP of each result (as ``tests/ulp.py`` defines it) and where it is.
Float32 results over every ``STEP``-th of the 2^32 bit patterns; float64 results at ``POINTS`` arguments against mpmath. A step of 1 takes an
hour or two on one core: NumPy and SciPy compute the exact values.
Run: python bench/accuracy.py [STEP [POINTS [FUNCTION ...]]]      (default: 31 3000, all functions; FUNCTION: start of a name)
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import ulp

CHUNK = 2**20  # arguments at a time


def every_pattern(case, step):
    """Largest float32 error of each result."""
    loop = ulp.compiled(case, np.float32)
    worst = [(0.0, None)] * len(case.results)
    for start in range(0, ulp.WORDS, CHUNK * step):
        found = ulp.sweep(case, loop, start, min(start + CHUNK * step, ulp.WORDS), step)
        worst = [max(pair, key=lambda one: one[0]) for pair in zip(worst, found, strict=True)]
    return worst


def main(step=31, points=3000, *names):
    for case in ulp.CASES:
        if names and not case.name.startswith(names):
            continue
        began = time.perf_counter()
        single = every_pattern(case, int(step))
        double = ulp.double_errors(case, ulp.compiled(case, np.float64), ulp.double_arguments(case, int(points)))
        for result, (error, at), (wide, there) in zip(case.results, single, double, strict=True):
            print(f"| {result} | {error:.3f} | {at} | {wide:.3f} | {there} |", flush=True)
        print(f"{case.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
