"""How much faster is fastgrad than PyTorch and JAX at measuring gradients of deep networks?

Every row is one job, done by all in the same run, in float32, on the same cores: norms of every layer's (step's) state and of the loss's
derivative by it, for an MLP those of the weight gradients too, over many networks. Answers are compared first, with the same weights (or, where
weights are drawn, in distribution); then all are timed. Times are the least of several repetitions, two seconds of them at least, per layer or
step and realization, everything amortized, compilation excluded.

Peers are written in their best form (``peers/``). PyTorch: the fused ``nn.RNN``, ``nn.LSTM``, ``nn.GRU`` with autograd, which give the derivative
by the initial state alone, so that the peer does less than the job; and products batched over realizations with derivatives by hand, which do
it. Each with two threads and as two processes of one thread. JAX: ``vmap`` over realizations of a jitted ``scan``, in one process and in two. The
ratio is to the fastest.

    python bench/versus_peers.py [--rows lstm64 mlp256 ...] [--peers WORDS] [--no-jax] [--repeat 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from peers.timing import TwoProcesses, best_time

import fastgrad as fg

STEPS, GAIN = 1000, 1.3
NETWORKS = {"rnn": fg.RNN, "lstm": fg.LSTM, "gru": fg.GRU}
MLP_RECORD = ["activation_log_norm", "gradient_log_norm", "weight_gradient_log_norm"]
STEP_RECORD = ["activation_log_norm", "gradient_log_norm"]

Jobs = dict[str, tuple[Callable[[], object], int]]  # name -> (call, realizations that it runs)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    method : of the MLP rows, ``given`` for given weights.  batch : inputs or sequences.  ours, theirs : realizations a call.  target : the
    ratio aimed at.
    """

    kind: str
    width: int
    batch: int = 1
    ours: int = 100
    theirs: int = 32
    target: float = 1.0
    method: str = ""

    @property
    def title(self) -> str:
        """What is measured."""
        inputs = "one sequence" if self.kind != "mlp" else "one input"
        inputs = inputs if self.batch == 1 else f"batch {self.batch}"
        tanh = " tanh" if self.kind in {"rnn", "mlp"} else ""
        return f"{self.kind.upper()}{tanh} {self.width}, {inputs}{', ' + self.method if self.method else ''}"


ROWS = {
    "rnn64": Row("rnn", 64, ours=400, theirs=64, target=5),
    "rnn128": Row("rnn", 128, ours=200, theirs=32, target=5),
    "lstm64": Row("lstm", 64, ours=200, theirs=32, target=4),
    "lstm128": Row("lstm", 128, ours=60, theirs=16, target=2.5),
    "lstm256": Row("lstm", 256, ours=16, theirs=8, target=2),
    "gru64": Row("gru", 64, ours=200, theirs=32, target=8),
    "gru128": Row("gru", 128, ours=80, theirs=16, target=5),
    "lstm128_batch32": Row("lstm", 128, batch=32, ours=16, theirs=2, target=3),
    "gru128_batch32": Row("gru", 128, batch=32, ours=16, theirs=2, target=3),
    "mlp256_dense": Row("mlp", 256, ours=16, theirs=4, target=8, method="dense"),
    "mlp256_dense_batch64": Row("mlp", 256, batch=64, ours=16, theirs=4, target=4, method="dense"),
    "mlp256_given": Row("mlp", 256, ours=1024, theirs=256, target=5, method="given"),
    "mlp64": Row("mlp", 64, ours=2000, theirs=32, target=250, method="conditional"),
    "mlp256": Row("mlp", 256, ours=500, theirs=4, target=1000, method="conditional"),
    "mlp1024": Row("mlp", 1024, ours=100, theirs=2, target=4000, method="conditional"),
}


# --- the jobs ----------------------------------------------------------------------------------------------------------------------


def our_recurrent(row: Row, realizations: int) -> Callable[[], object]:
    """fastgrad's call."""
    network = NETWORKS[row.kind](STEPS, row.width)
    inputs = None if row.batch == 1 else np.random.default_rng(0).standard_normal((STEPS, row.batch, row.width), dtype=np.float32)
    return lambda: fg.measure(network, inputs=inputs, realizations=realizations, rng=1, record=STEP_RECORD, threads=2)


def peer_recurrent(row: Row, pool: TwoProcesses, with_jax: bool) -> Jobs:
    """The peers' calls."""
    from peers import torch_recurrent

    what = (row.kind, row.width, row.batch, STEPS)
    jobs: Jobs = {}
    few = 4 if row.batch == 1 else 2  # the fused modules take networks one by one
    for asks in (False, True):
        name = f"torch fused{' with weight gradients' if asks else ''}"
        jobs[f"{name}, 2 threads"] = partial(torch_recurrent.fused, *what, asks, 2, 1, 1), 1
        jobs[f"{name}, 2 processes"] = pool.halves(partial(torch_recurrent.fused, *what, asks, 1), few), few
    for at_once in {max(1, row.theirs // 4), row.theirs}:
        name = f"torch batched over {at_once}"
        jobs[f"{name}, 2 threads"] = partial(torch_recurrent.batched_job, *what, at_once, 2, row.theirs, 1), row.theirs
        jobs[f"{name}, 2 processes"] = pool.halves(partial(torch_recurrent.batched_job, *what, at_once, 1), 2 * at_once), 2 * at_once
    if with_jax:
        from peers import jax_nets

        jobs |= _both(pool, "jax", partial(jax_nets.recurrent_job, *what), row.theirs)
    return jobs


def _both(pool: TwoProcesses, name: str, job: Callable[[int, int], object], realizations: int) -> Jobs:
    return {name: (partial(job, realizations, 1), realizations), f"{name}, 2 processes": (pool.halves(job, realizations), realizations)}


def our_mlp(row: Row, realizations: int, depth: int = STEPS, seed: int = 1) -> Callable[[], Any]:
    """fastgrad's call."""
    network = fg.MLP(depth, row.width, weights=fg.Normal(GAIN))
    inputs = None if row.batch == 1 else np.random.default_rng(0).standard_normal((row.batch, row.width), dtype=np.float32)
    options: dict[str, Any] = {"method": row.method}
    if row.method == "given":
        rng = np.random.default_rng(0)
        scale = np.float32(GAIN / math.sqrt(row.width))
        options = {"weights": {f"{k}.weight": rng.standard_normal((row.width, row.width), dtype=np.float32) * scale for k in range(depth)}}
    return lambda: fg.measure(network, inputs=inputs, realizations=realizations, rng=seed, record=MLP_RECORD, threads=2, **options)


def peer_mlp(row: Row, pool: TwoProcesses, with_jax: bool) -> Jobs:
    """The peers' calls."""
    from peers import torch_mlp

    n = row.theirs
    if row.method == "given":
        what: tuple[int, ...] = (row.width, STEPS)
        torch_job: Callable[..., object] = torch_mlp.given_job
    else:
        what = (row.width, row.batch, STEPS)
        torch_job = torch_mlp.drawn
    jobs: Jobs = {"torch, 2 threads": (partial(torch_job, *what, 2, n, 1), n)}
    jobs["torch, 2 processes"] = pool.halves(partial(torch_job, *what, 1), n), n
    if with_jax:
        from peers import jax_nets

        jobs |= _both(pool, "jax", partial(jax_nets.given_job if row.method == "given" else jax_nets.mlp_job, *what), n)
    return jobs


# --- answers first -----------------------------------------------------------------------------------------------------------------


def check_recurrent(kind: str, with_jax: bool) -> None:
    """The same weights, inputs and loss: the same norms at every step."""
    import torch
    from peers import torch_recurrent

    n, steps, batch, width = 3, 25, 2, 20
    generator = torch.Generator().manual_seed(1)
    weights = torch_recurrent.draw(kind, width, n, generator)
    x = torch.randn(steps, n, batch, width, generator=generator)
    v = torch.ones(n, batch, width)
    answers = [torch_recurrent.batched(kind, weights, x, v)]
    if with_jax:
        from peers import jax_nets

        arrays = {name: value.numpy() for name, value in weights.items()}
        states, logs = jax_nets.recurrent(kind)(arrays, x.permute(1, 0, 2, 3).numpy(), v.numpy())
        last = np.full((n, 1), math.log(v[0].norm()))
        answers.append((np.concatenate((np.full((n, 1), -np.inf), states), 1), np.concatenate((logs, last), 1)))
    for k in range(n):
        mine = {name: value[k].numpy() for name, value in weights.items()}
        ours = fg.measure(NETWORKS[kind](steps, width), weights=mine, inputs=x[:, k].numpy(), loss="sum", realizations=1, rng=0, record=STEP_RECORD)
        module = torch_recurrent.MODULES[kind](width, width)
        module.load_state_dict({name: value[k] for name, value in weights.items()})
        fused = torch_recurrent.fused_gradient(module, x[:, k], v[k], width).norm().log()
        np.testing.assert_allclose(ours.gradient_log_norm[0, 0], fused, atol=1e-4)
        for states, gradients in answers:
            np.testing.assert_allclose(ours.activation_log_norm[0], states[k], atol=1e-4)
            np.testing.assert_allclose(ours.gradient_log_norm[0], gradients[k], atol=1e-4)


def check_given_mlp(with_jax: bool) -> None:
    """The same weights, inputs and loss: the same norms at every layer."""
    import torch
    from peers import torch_mlp

    n, depth, width = 3, 30, 24
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(depth, width, width, generator=generator) * (GAIN / math.sqrt(width))
    x, v = torch.randn(n, width, generator=generator), torch.ones(n, width)
    answers = [torch_mlp.given(weights, x, v, 2)]
    if with_jax:
        from peers import jax_nets

        logs = np.asarray(jax_nets.given_mlp(weights.numpy(), x.numpy(), v.numpy())[0])
        answers.append(np.concatenate((logs, np.zeros((n, 1))), 1))
    state = {f"{k}.weight": w.numpy() for k, w in enumerate(weights)}
    for k in range(n):
        ours = fg.measure(fg.MLP(depth, width), weights=state, inputs=x[k].numpy(), loss="sum", realizations=1, rng=0, record=MLP_RECORD)
        for logs in answers:
            np.testing.assert_allclose(ours.gradient_log_norm[0] - 0.5 * math.log(width), logs[k], atol=1e-4)


def check_drawn_mlp(row: Row, with_jax: bool) -> None:
    """Other random numbers, the same law: means within six standard errors."""
    from peers import torch_mlp

    depth = 20
    mine = our_mlp(row, 64, depth)().gradient_log_norm.values[:, 0]
    others = [np.concatenate([torch_mlp.drawn(row.width, row.batch, depth, 2, 16, seed)[:, 0] for seed in range(4)])]
    if with_jax:
        from peers import jax_nets

        others.append(np.concatenate([jax_nets.mlp_job(row.width, row.batch, depth, 16, seed)[:, 0] for seed in range(4)]))
    for other in others:
        spread = math.hypot(mine.std() / 8, other.std() / 8)
        assert abs(mine.mean() - other.mean()) < 6 * spread, (mine.mean(), other.mean(), spread)


# --- the table ---------------------------------------------------------------------------------------------------------------------


def measured(row: Row, pool: TwoProcesses, words: str, with_jax: bool, repeat: int) -> dict[str, Any]:
    """Answers compared, then all timed: microseconds per step and realization."""
    scale = 1e6 / STEPS
    if row.kind == "mlp":
        check_given_mlp(with_jax) if row.method == "given" else check_drawn_mlp(row, with_jax)
        ours, jobs = our_mlp(row, row.ours), peer_mlp(row, pool, with_jax)
    else:
        check_recurrent(row.kind, with_jax)
        ours, jobs = our_recurrent(row, row.ours), peer_recurrent(row, pool, with_jax)
    if not any(words in name for name in jobs):
        raise SystemExit(f"--peers {words!r}: no peer of this row has that in its name; they are {', '.join(map(repr, jobs))}")
    mine = best_time(ours, repeat) / row.ours * scale
    peers = {name: best_time(job, repeat) / n * scale for name, (job, n) in jobs.items() if words in name}
    mine = min(mine, best_time(ours, repeat) / row.ours * scale)  # once more, so that a busy spell in between hits both
    best = min(peers, key=lambda name: peers[name])
    return {"row": row.title, "fastgrad": mine, "peers": peers, "best peer": best, "ratio": peers[best] / mine, "target": row.target}


def main() -> None:
    """Print the table, and save it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--peers", default="", metavar="WORDS", help="only peers whose names contain this, e.g. '2 processes'")
    parser.add_argument("--no-jax", action="store_true")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="save all times")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, float32, {STEPS} layers or steps; microseconds per layer or step and realization")
    results = {}
    with TwoProcesses() as pool:
        for name in options.rows:
            result = results[name] = measured(ROWS[name], pool, options.peers, not options.no_jax, options.repeat)
            print(f"{result['row']:38} fastgrad {result['fastgrad']:9.3f}  {result['ratio']:7.2f}x the best peer (aim {result['target']:g}x)")
            for peer, value in sorted(result["peers"].items(), key=lambda item: item[1]):
                print(f"{'':38} {value:18.3f}  {peer}", flush=True)
    if options.json:
        facts = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine(), "python": sys.version.split()[0], "steps": STEPS}
        options.json.write_text(json.dumps({"machine": facts, "microseconds": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
