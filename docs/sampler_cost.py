"""Draws docs/sampler_cost.png: what the conditional sampler costs against width, depth and realizations, and what just drawing its normals costs.

Each point is the least time of a few runs on one thread, both kinds in turns. Take other work off the machine first.
"""

from __future__ import annotations

import time
from pathlib import Path

import numba
import numpy as np
from matplotlib.figure import Figure

import fastgrad as fg
from fastgrad.engine import draws
from fastgrad.engine.aligned import aligned_empty, whole_lines
from fastgrad.engine.random import Role
from fastgrad.jit import KERNEL_OPTIONS
from fastgrad.plots import style

OUT = Path(__file__).with_name("sampler_cost.png")
REPEAT = 7


def least_in_rounds(functions):
    """Least seconds of each function over a few rounds of all: a machine's speed drifts. The first round is not counted."""
    times = np.empty((REPEAT + 1, len(functions)))
    for row in times:
        for position, function in enumerate(functions):
            start = time.perf_counter()
            function()
            row[position] = time.perf_counter() - start
    return times[1:].min(axis=0)


def whole(depth, width, realizations):
    """Runs all realizations of a tanh network, of which nothing but both ends is kept."""
    network = fg.MLP(depth, width, weights=fg.Normal(1.3))
    options = {"realizations": realizations, "rng": 0, "method": "conditional", "every": depth, "threads": 1}
    return lambda: fg.measure(network, **options)


def drawing(depth, width, realizations):
    """Draws 2 n normals for each layer and realization, and does nothing else."""
    draws.prepare("float32")
    key = (np.uint32(1), np.uint32(2))

    @numba.njit(_nrt=False, **KERNEL_OPTIONS)
    def draw(out, count, n, layers):
        for layer in range(2 * layers):
            draws.draw_normals(out, count, n, layer, Role.PREACTIVATION, 0, key)

    out = aligned_empty((4, whole_lines(width)), np.float32)
    return lambda: [draw(out, 4, width, depth) for _ in range(-(-realizations // 4))]


def panel(ax, x, y, drawn, label):
    """Measured points, the line through the last one with slope 1, and the time to draw alone."""
    ax.loglog(x, y, "o", color="black", label="measured")
    ax.loglog(x, y[-1] * np.array(x) / x[-1], "-", color="0.6", lw=1, label="slope 1")
    ax.loglog(x, drawn, "--", color="0.3", lw=1, label="drawing the normals alone")
    ax.set_xlabel(label)
    ax.grid(True, which="both", alpha=0.3)


def table(name, x, y, drawn):
    """One line a point, for the text."""
    print(f"{name:>14s}{'seconds':>12s}{'drawing':>12s}{'ratio':>8s}")
    for position, seconds, alone in zip(x, y, drawn, strict=True):
        print(f"{position:14,d}{seconds:12.4g}{alone:12.4g}{seconds / alone:8.2f}")


def main():
    """Measure and draw."""
    widths = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
    depths = [100, 300, 1000, 3000, 10_000, 30_000]
    counts = [10, 30, 100, 300, 1000, 3000, 10_000]
    rows = {
        "width": (widths, [(1000, n, 60) for n in widths], "width (1,000 layers, 60 realizations)"),
        "depth": (depths, [(depth, 256, 12) for depth in depths], "depth (width 256, 12 realizations)"),
        "realizations": (counts, [(1000, 64, count) for count in counts], "realizations (1,000 layers of width 64)"),
    }
    with style():
        figure = Figure(figsize=(10.5, 3.6))
        for ax, (name, (x, sizes, label)) in zip(figure.subplots(1, 3), rows.items(), strict=True):
            y, drawn = least_in_rounds([way(*size) for way in (whole, drawing) for size in sizes]).reshape(2, -1)
            panel(ax, x, y, drawn, label)
            table(name, x, y, drawn)
        figure.axes[0].set_ylabel("seconds on one core")
        figure.axes[0].legend(loc="lower right")
        figure.savefig(OUT, dpi=110)


if __name__ == "__main__":
    main()
