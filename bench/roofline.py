"""What fraction of the machine's limits does each row of ``versus_peers.py`` reach?

Measured first, on one core: the peak of multiply-adds (the products' own tile on operands in the nearest caches), the rates at which weights are
read from the second-level cache, from beyond it and from memory, and the rate at which weights are drawn. Of each row the work is then counted:
multiply-adds of the two products (recurrent: three), bytes of weights that each pass reads again, numbers drawn. A row's limit is the time to draw
plus the larger of the times to multiply and to read. Printed are the time per step on one core, the limit, what binds, and the fraction reached.

    python bench/roofline.py [--rows lstm64 ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from peers.timing import best_time
from versus_peers import GAIN, MLP_RECORD, NETWORKS, ROWS, STEP_RECORD, STEPS, Row

import fastgrad as fg
from fastgrad.engine.aligned import aligned_empty
from fastgrad.engine.draws import KINDS, matrix_drawer, prepare
from fastgrad.engine.draws import draw_matrix as draw
from fastgrad.engine.native import multiply_transposed
from fastgrad.jit import KERNEL_OPTIONS

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
SECOND_LEVEL = 768 * 1024  # bytes of weights that stay in a second-level cache of 1 MiB beside what else passes through


@numba.njit(**KERNEL_OPTIONS)
def _products(calls, P, X, out):
    for _ in range(calls):
        multiply_transposed(P, X, out, False)


@numba.njit(**KERNEL_OPTIONS)
def _panels(calls, out, n, kind, scale, drawer):
    for k in range(calls):
        draw(out, n, n, kind, scale, (np.uint32(0), np.uint32(k), np.uint32(1)), (np.uint32(1), np.uint32(2)), drawer)


def _zeros(*shape: int) -> Any:
    array = aligned_empty(shape, np.float32)
    array[...] = 0
    return array


def _seconds(calls: int, *arguments: Any) -> float:
    return best_time(lambda: _products(calls, *arguments), 40) / calls


def limits() -> dict[str, float]:
    """Multiply-adds, bytes and numbers a second of one core."""
    found = {"multiply-adds": 128 * 64 * 96 / _seconds(50, _zeros(64, 96), _zeros(128, 64), _zeros(128, 96))}
    for name, rows, calls in (("second-level cache", 256, 50), ("third-level cache", 4096, 5), ("memory", 262144, 1)):
        found[name] = rows * 256 * 4 / _seconds(calls, _zeros(rows, 256), _zeros(1, rows), _zeros(1, 256))
    prepare("float32")
    out = _zeros(256 * 256 + 4096)
    for kind in ("normal", "uniform"):
        arguments = (10, out, 256, KINDS[kind], np.float32(1), matrix_drawer(KINDS[kind], "float32"))
        found[f"{kind}s drawn"] = 256 * 256 * 10 / best_time(partial(_panels, *arguments), 20)
    return found


def bounds(row: Row, rates: dict[str, float]) -> dict[str, float]:
    """Seconds per step on one core that each limit allows."""
    n, batch = row.width, row.batch
    if row.kind != "mlp":
        weights = GATES[row.kind] * n * n
        level = "second-level cache" if 4 * weights <= SECOND_LEVEL else "third-level cache"
        return {
            "multiply-adds": 3 * weights * batch / rates["multiply-adds"],
            level: 2 * 4 * weights / rates[level] if 4 * weights > 32 * 1024 else 0.0,
            "uniforms drawn": 2 * weights / STEPS / rates["uniforms drawn"],
            "normals drawn": (n if batch == 1 else 0) / rates["normals drawn"],
        }
    products = {"multiply-adds": 2 * n * n * batch / rates["multiply-adds"]}
    if row.method == "given":
        return products | {"memory": 2 * 4 * n * n / 64 / rates["memory"]}
    return products | {"normals drawn": n * n / rates["normals drawn"], "memory": 4 * n * n / rates["memory"]}


def seconds(row: Row) -> float:
    """What a step takes fastgrad on one core: the difference between two runs, so that the start of a run does not count."""
    few = max(1, row.ours // 8)
    rng = np.random.default_rng(0)
    options: dict[str, Any] = {"rng": 1, "threads": 1}
    if row.kind == "mlp":
        network: Any = fg.MLP(STEPS, row.width, weights=fg.Normal(GAIN))
        options |= {"record": MLP_RECORD}
        if row.method == "given":
            scale = np.float32(GAIN / row.width**0.5)
            options["weights"] = {f"{k}.weight": rng.standard_normal((row.width, row.width), dtype=np.float32) * scale for k in range(STEPS)}
            few = 64
        else:
            options["method"] = "dense"
            few = 2
        shape: tuple[int, ...] = (row.batch, row.width)
    else:
        network = NETWORKS[row.kind](STEPS, row.width)
        options |= {"record": STEP_RECORD}
        shape = (STEPS, row.batch, row.width)
    if row.batch > 1:
        options["inputs"] = rng.standard_normal(shape, dtype=np.float32)
    once = best_time(lambda: fg.measure(network, realizations=few, **options), 3)
    thrice = best_time(lambda: fg.measure(network, realizations=3 * few, **options), 3)
    return (thrice - once) / (2 * few) / STEPS


def main() -> None:
    """Print the limits and the table."""
    names = [name for name, row in ROWS.items() if row.method != "conditional"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=names, choices=names)
    parser.add_argument("--json", type=Path, metavar="FILE", help="save what was found")
    options = parser.parse_args()
    rates = limits()
    units = {"multiply-adds": "G/s", "normals drawn": "G/s", "uniforms drawn": "G/s"}
    print("One core: " + ", ".join(f"{name} {rate / 1e9:.3g} {units.get(name, 'GB/s')}" for name, rate in rates.items()))
    results = {}
    for name in options.rows:
        row = ROWS[name]
        allowed = bounds(row, rates)
        binding = max(allowed, key=lambda limit: allowed[limit])
        total = sum(value for limit, value in allowed.items() if "drawn" in limit) + max(v for limit, v in allowed.items() if "drawn" not in limit)
        taken = seconds(row)
        results[name] = {"microseconds": 1e6 * taken, "limit": 1e6 * total, "binding": binding, "fraction": total / taken}
        print(f"{row.title:38} {1e6 * taken:9.2f} us, limit {1e6 * total:8.2f} us ({binding}): {100 * total / taken:3.0f} %", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"rates": rates, "rows": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
