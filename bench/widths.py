"""Is this version slower than another at any width? Time per step of every kind of network at widths from 1 to 512, on one core.

The other version lies in a folder of its own, its extension built in place. Each version runs in a process of its own; they take turns, so that what
the machine does meanwhile hits both. A time is the least of all turns, less what a call with one realization takes.

    git worktree add ../before COMMIT && (cd ../before && python setup.py build_ext --inplace)
    python bench/widths.py --against ../before
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import fastgrad as fg

HERE = Path(__file__).resolve().parent.parent
WIDTHS = [1, 3, 5, 8, 13, 16, 17, 25, 32, 33, 48, 50, 63, 64, 65, 96, 100, 127, 128, 129, 160, 192, 200, 255, 256, 257, 300, 384, 400, 500, 511, 512]
KINDS = ("mlp", "mlp batch 8", "rnn", "lstm", "gru")
WEIGHTS_AT_ONCE = 100_000  # numbers of weights that the realizations of a call go through at each step: some hundredths of a second


def realizations(width: int) -> int:
    """How many make a call long enough to be timed."""
    return max(2, min(100, WEIGHTS_AT_ONCE // (width * width)))


def steps(width: int) -> int:
    """Steps or layers; fewer where one takes long."""
    return 100 if width > 200 else 300


@cache
def call(kind: str, width: int) -> Any:
    """The call with a number of realizations."""
    options: dict[str, Any] = {"rng": 1, "threads": 1, "record": ["gradient_log_norm", "activation_log_norm"]}
    if kind.startswith("mlp"):
        network: Any = fg.MLP(steps(width), width, weights=fg.Normal(1.3))
        options["method"] = "dense"
        if "batch" in kind:
            options["inputs"] = np.ones((8, width), dtype=np.float32) + np.arange(8, dtype=np.float32)[:, None]
    else:
        network = {"rnn": fg.RNN, "lstm": fg.LSTM, "gru": fg.GRU}[kind](steps(width), width)
    return lambda many: fg.measure(network, realizations=many, **options)


def seconds(kind: str, width: int) -> tuple[float, float]:
    """A call with one realization, and one with many more."""
    run, times = call(kind, width), []
    for many in (1, 1 + realizations(width)):
        start = time.perf_counter()
        run(many)
        times.append(time.perf_counter() - start)
    return times[0], times[1]


class Version:
    """A process that times calls of the fastgrad in a folder."""

    def __init__(self, folder: Path) -> None:
        command, environment = [sys.executable, __file__, "--serve"], os.environ | {"PYTHONPATH": str(folder)}
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, kind: str, width: int) -> tuple[float, float]:
        """`seconds` there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([kind, width]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("a version stopped; what it said is above")
        once, more = json.loads(answer)
        return once, more


def serve() -> None:
    """Answer each line of the input."""
    for line in sys.stdin:
        print(json.dumps(seconds(*json.loads(line))), flush=True)


def microseconds(versions: list[Version], kind: str, width: int, turns: int) -> list[float]:
    """Of a step, with each version."""
    for version in versions:  # compiles
        version.seconds(kind, width)
    least = np.full((len(versions), 2), np.inf)
    for _ in range(turns):
        for k, version in enumerate(versions):
            least[k] = np.minimum(least[k], version.seconds(kind, width))
    return [float(1e6 * (more - once) / (realizations(width) * steps(width))) for once, more in least]


def main() -> None:
    """Print all times, beside the other version's if there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--widths", nargs="*", type=int, default=WIDTHS)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another version")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    versions = [Version(folder) for folder in (HERE, options.against) if folder]
    for kind in options.kinds:
        for width in options.widths:
            now, *before = microseconds(versions, kind, width, options.turns)
            beside = "".join(f", before {time:9.3f} us: {time / now:5.2f}x" for time in before)
            print(f"{kind + ' ' + str(width):16} {now:9.3f} us{beside}", flush=True)


if __name__ == "__main__":
    main()
