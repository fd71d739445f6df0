"""Is a version slower than another at any width? Time per step of every kind of network at widths from 1 to 512, on one core.

Run it with each version (PYTHONPATH chooses) and let the later run name the file of the earlier:

    python bench/widths.py --json before.json
    python bench/widths.py --against before.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from peers.timing import best_time

import fastgrad as fg

WIDTHS = [1, 3, 5, 8, 13, 16, 17, 25, 32, 33, 48, 50, 63, 64, 65, 96, 100, 127, 128, 129, 160, 192, 200, 255, 256, 257, 300, 384, 400, 500, 511, 512]
KINDS = ("mlp", "mlp batch 8", "rnn", "lstm", "gru")


def microseconds(kind: str, width: int, repeat: int) -> float:
    """A step or layer, from the difference of two runs."""
    length = 100 if width > 200 else 300
    options: dict[str, Any] = {"rng": 1, "threads": 1, "record": ["gradient_log_norm", "activation_log_norm"]}
    if kind.startswith("mlp"):
        network: Any = fg.MLP(length, width, weights=fg.Normal(1.3))
        options["method"] = "dense"
        if "batch" in kind:
            options["inputs"] = np.ones((8, width), dtype=np.float32) + np.arange(8, dtype=np.float32)[:, None]
    else:
        network = {"rnn": fg.RNN, "lstm": fg.LSTM, "gru": fg.GRU}[kind](length, width)
    few = max(1, min(20, 20000 // width**2))
    once = best_time(lambda: fg.measure(network, realizations=few, **options), repeat)
    more = best_time(lambda: fg.measure(network, realizations=4 * few, **options), repeat)
    return 1e6 * (more - once) / (3 * few * length)


def main() -> None:
    """Print all times, beside another version's if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", nargs="*", type=int, default=WIDTHS)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the times")
    parser.add_argument("--against", type=Path, metavar="FILE", help="times of another version")
    options = parser.parse_args()
    before = json.loads(options.against.read_text()) if options.against else {}
    times = {}
    for kind in KINDS:
        for width in options.widths:
            name = f"{kind} {width}"
            times[name] = microseconds(kind, width, options.repeat)
            ratio = f"  {before[name] / times[name]:6.2f}x" if name in before else ""
            print(f"{name:16} {times[name]:10.3f} us{ratio}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(times, indent=2) + "\n")


if __name__ == "__main__":
    main()
