"""How long does a user wait before the first number: importing, asking for help, the first result with and without compiled kernels?

Every figure is a fresh process, timed from outside, the median of a few; "first ever" runs with an empty kernel cache, once. Wall time is what
the user waits, on an otherwise idle machine; CPU time depends less on what else runs. Run ``python bench/startup.py``.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FASTGRAD = [sys.executable, "-m", "fastgrad"]
NETWORKS = {
    "mlp": ["--depth", "100", "--width", "64"],
    "rnn": ["--steps", "100", "--width", "64"],
    "lstm": ["--steps", "100", "--width", "64"],
    "gru": ["--steps", "100", "--width", "64"],
}


def seconds(command: Sequence[str], cache: str) -> tuple[float, float]:
    """Wall and CPU seconds of one process with the kernel cache in ``cache``."""
    environment = os.environ | {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def median(command: Sequence[str], cache: str, times: int = 3) -> tuple[float, float]:
    """Medians of `seconds` over a few processes, after one that warms the file cache."""
    seconds(command, cache)
    walls, cpus = zip(*(seconds(command, cache) for _ in range(times)), strict=True)
    return statistics.median(walls), statistics.median(cpus)


def row(name: str, figures: tuple[float, float], promise: float | None = None) -> None:
    limit = "" if promise is None else f"{promise:8.2f}"
    print(f"{name:40s}{figures[0]:8.2f}{figures[1]:8.2f}{limit}", flush=True)


def main() -> None:
    """Print the table."""
    print(f"{'seconds':40s}{'wall':>8s}{'CPU':>8s}{'promise':>8s}")
    with tempfile.TemporaryDirectory() as cache:
        base = median([sys.executable, "-c", "import numpy"], cache)
        loaded = median([sys.executable, "-c", "import numpy, fastgrad"], cache)
        row("import fastgrad, beyond NumPy", (loaded[0] - base[0], loaded[1] - base[1]), 0.2)
        row("fastgrad --help", median([*FASTGRAD, "--help"], cache), 0.5)
    for name, options in NETWORKS.items():
        command = [*FASTGRAD, "measure", name, *options]
        with tempfile.TemporaryDirectory() as cache:
            row(f"{name}, first ever", seconds(command, cache), 20.0)
            row(f"{name}, kernels cached", median(command, cache), 3.0)


if __name__ == "__main__":
    main()
