"""``measure()``: from a network description to a labelled dataset of log gradient norms."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from fastgrad.errors import RangeWarning, not_allowed
from fastgrad.networks import GRU, LSTM, MLP, RNN, Network, Recurrent

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr

    from fastgrad.engine.seeds import Rng
    from fastgrad.engine.task import Task

__all__ = ["Progress", "measure", "warmup"]

LONG_NAMES = {
    "gradient_log_norm": "ln of the 2-norm of the loss's derivative by the layer's activations",
    "gradient_log_max": "ln of the largest entry of the loss's derivative by the layer's activations",
    "cell_gradient_log_norm": "ln of the 2-norm of the loss's derivative by the cell state c_t",
    "activation_log_norm": "ln of the 2-norm of the activations",
    "weight_gradient_log_norm": "ln of the Frobenius norm of the loss's derivative by the weights",
    "input_weight_gradient_log_norm": "ln of the Frobenius norm of one step's part of the derivative by W_ih",
    "bias_gradient_log_norm": "ln of the 2-norm of the loss's derivative by the biases",
    "input_bias_gradient_log_norm": "ln of the 2-norm of one step's part of the derivative by b_ih",
    "weight_gradient_total_log_norm": "ln of the Frobenius norm of the derivative by W_hh, all steps",
    "input_weight_gradient_total_log_norm": "ln of the Frobenius norm of the derivative by W_ih, all steps",
    "bias_gradient_total_log_norm": "ln of the 2-norm of the derivative by b_hh, all steps",
    "input_bias_gradient_total_log_norm": "ln of the 2-norm of the derivative by b_ih, all steps",
}


class Progress(NamedTuple):
    """What a ``progress`` callable gets: realizations finished, and all of them."""

    done: int
    total: int


class Measured(NamedTuple):
    """What `measure` found, before xarray labels it.

    variables : name -> (names of dimensions, array, attributes).  coords : name of a dimension -> (k,).  attrs : enough to run it again.
    """

    variables: dict[str, tuple[Any, ...]]
    coords: dict[str, Any]
    attrs: dict[str, Any]

    def dataset(self) -> xr.Dataset:
        """The same as an xarray Dataset."""
        import xarray as xr

        return xr.Dataset(self.variables, self.coords, self.attrs)


def measure(
    network: Network,
    *,
    realizations: int = 100,
    rng: Rng = None,
    inputs: Any = None,
    loss: Literal["probe", "sum"] = "probe",
    method: Literal["auto", "dense", "conditional"] = "auto",
    dtype: Any = "float32",
    record: Sequence[str] | str | None = None,
    every: int = 1,
    threads: int | None = None,
    executor: Executor | None = None,
    progress: bool | Callable[[Progress], object] = False,
    weights: Mapping[str, Any] | None = None,
    probes: int = 1,
    memory: float | None = None,
) -> xr.Dataset:
    """Measure how large gradients are at every layer or time step, over many random realizations of a network.

    The loss is ``<v, x_L>`` with the output x_L of the last layer (recurrent: h_T of the top layer). Norms are over all inputs of a batch
    and all units together.

    Parameters
    ----------
    network : MLP, RNN, LSTM or GRU
        The description.
    realizations : int
        Independent draws of weights, biases, inputs (unless given) and v.
    rng : int, sequence of int, SeedSequence, Generator, BitGenerator or None
        The seed (SPEC 7). The same seed gives the same bytes on one machine, whatever the threads or the executor; None takes a fresh one,
        which the dataset's attribute ``seed`` records.
    inputs : array, optional
        (batch, features) for an MLP, (steps, batch, features) for a recurrent network; the batch axis may be left out. None: one standard
        normal input per realization.
    loss : {"probe", "sum"}
        v uniform on the unit sphere, drawn per realization; or v = ones.
    method : {"auto", "dense", "conditional"}
        How realizations are sampled; "auto" chooses and says why in the attributes.
    dtype : {"float32", "float64"}
        Precision of the passes. Both see the same random network, up to rounding.
    record : list of str, optional
        Variables wanted; None: all that the network has.
    every : int
        Keep each ``every``-th layer or step, and both ends.
    threads : int, optional
        Worker threads; None: the cores this process may use, or ``FASTGRAD_NUM_THREADS``.
    executor : concurrent.futures.Executor, optional
        Runs the blocks instead of threads here: processes (start method spawn), loky, Dask, MPI.
    progress : bool or callable
        True: a bar on stderr for what takes longer than two seconds. A callable gets `Progress`.
    weights : dict of arrays, optional
        Given weights under PyTorch's names (``0.weight`` … of an ``nn.Sequential``; ``weight_ih_l0`` …): realizations then differ in inputs
        and v only. They may be read where they lie, so nobody may change them before the call returns.
    probes : int
        Independent directions v sent back through each realization, all through the same weights: gradients get a dimension ``probe``.
        More than one needs ``method="conditional"``.
    memory : float, optional
        Bytes that may be used; None: what is free.

    Returns
    -------
    xarray.Dataset
        Dimension ``realization``, and ``layer`` 0 … L (0: the input) or ``step`` 0 … T (0: the initial state); stacked recurrent nets have
        ``layer`` 1 … too. Natural logarithms, float64. An exact zero is -inf. Where the forward pass left the number range (variable
        ``left_range_at``), what depends on it is NaN.

    Raises
    ------
    ValueError, TypeError
        One sentence: the argument, what it got, what is allowed.
    TooLarge
        When the estimate of memory exceeds what can be had; nothing has been allocated by then.

    Warns
    -----
    RangeWarning
        When activations overflowed.

    Examples
    --------
    >>> import fastgrad as fg
    >>> ds = fg.measure(fg.MLP(10, 32, activation="relu", weights="he_normal"), realizations=20, rng=0)
    >>> ds.gradient_log_norm.dims
    ('realization', 'layer')
    """
    found = measured(
        network,
        realizations=realizations,
        rng=rng,
        inputs=inputs,
        loss=loss,
        method=method,
        dtype=dtype,
        record=record,
        every=every,
        threads=threads,
        executor=executor,
        progress=progress,
        weights=weights,
        probes=probes,
        memory=memory,
    )
    return found.dataset()


def measured(
    network: Network,
    *,
    realizations: int = 100,
    rng: Rng = None,
    inputs: Any = None,
    loss: Literal["probe", "sum"] = "probe",
    method: Literal["auto", "dense", "conditional"] = "auto",
    dtype: Any = "float32",
    record: Sequence[str] | str | None = None,
    every: int = 1,
    threads: int | None = None,
    executor: Executor | None = None,
    progress: bool | Callable[[Progress], object] = False,
    weights: Mapping[str, Any] | None = None,
    probes: int = 1,
    memory: float | None = None,
) -> Measured:
    """`measure`, with the same arguments and errors, for those who do without xarray: importing it costs a process half a second and 40 MB."""
    from fastgrad.engine.blocks import default_threads, run_task
    from fastgrad.engine.plan import fitted
    from fastgrad.engine.setup import check_addresses, make_task, whole

    realizations = whole(realizations, "realizations")
    threads = default_threads() if threads is None else whole(threads, "threads", most=4096)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(not_allowed("executor", executor, "a concurrent.futures.Executor or None"))
    if not isinstance(progress, bool | np.bool_) and not callable(progress):
        raise TypeError(not_allowed("progress", progress, "True, False or a function of one argument"))
    task, sequence = make_task(
        network, rng=rng, inputs=inputs, loss=loss, method=method, dtype=dtype, record=record, every=every, weights=weights, probes=probes
    )
    task = fitted(task, realizations, threads, memory)
    check_addresses(task)
    started = time.time()
    with _advance(progress, realizations) as advance:
        arrays, left = run_task(task, realizations, threads=threads, executor=executor, advance=advance)
    _warn_of_range(task, left)
    return _labelled(task, arrays, left, sequence, {"threads": threads, "loss": loss, "seconds": round(time.time() - started, 3)})


@contextmanager
def _advance(progress: Any, total: int) -> Iterator[Callable[[int], None] | None]:
    """A function that is told how many realizations have just been finished."""
    if callable(progress):
        done = 0

        def tell(n: int) -> None:
            nonlocal done
            done += n
            progress(Progress(done, total))

        yield tell
    elif progress:
        from tqdm.auto import tqdm

        with tqdm(total=total, delay=2, unit="net", unit_scale=total > 10_000) as bar:
            yield lambda n: bar.update(n) and None
    else:
        yield None


def _warn_of_range(task: Task, left: Any) -> None:
    count = int((left >= 0).sum())
    if not count:
        return
    unit = "layer" if isinstance(task.network, MLP) else "step"
    activation = getattr(task.network, "activation", task.network.kind.upper())
    wider = "use dtype='float64', " if task.dtype == "float32" else "use "
    warnings.warn(
        f"activation {activation!r} left the range of {task.dtype} in {count} of {left.size} realizations, first at {unit} "
        f"{int(left[left >= 0].min())}: what lies beyond is NaN; {wider}a smaller gain or a shorter network",
        RangeWarning,
        stacklevel=4,
    )


def _labelled(task: Task, arrays: dict[str, Any], left: Any, sequence: Any, facts: dict[str, Any]) -> Measured:
    network = task.network
    along = "layer" if isinstance(network, MLP) else "step"
    coords: dict[str, Any] = {"realization": np.arange(left.size), along: task.positions}
    if isinstance(network, Recurrent) and network.layers > 1:
        coords["layer"] = np.arange(1, network.layers + 1)
    if task.probes > 1:
        coords["probe"] = np.arange(task.probes)
    variables: dict[str, tuple[Any, ...]] = {}
    for name, array in arrays.items():
        dims = ["realization"]
        if along == "step" and "layer" in coords:
            dims.append("layer")
        if task.probes > 1 and name != "activation_log_norm":
            dims.append("probe")
        if not name.endswith("total_log_norm"):
            dims.append(along)
        variables[name] = (tuple(dims), array, {"long_name": LONG_NAMES[name], "units": "1"})
    meaning = f"first {along} at which the forward pass left the number range, or -1"
    variables["left_range_at"] = (("realization",), left, {"long_name": meaning, "units": "1"})
    return Measured(variables, coords, {**_provenance(task, sequence), **facts})


def _provenance(task: Task, sequence: Any) -> dict[str, Any]:
    """Enough to run it again, and to know what ran."""
    import llvmlite
    import numba

    import fastgrad
    from fastgrad.engine.native import HAVE_C
    from fastgrad.engine.random import STREAM
    from fastgrad.engine.seeds import seed_text

    return {
        "network": task.network.to_json(),
        "seed": seed_text(sequence),
        "stream": STREAM,
        "method": task.method,
        "method_reason": task.reason,
        "dtype": task.dtype,
        "every": task.every,
        "probes": task.probes,
        "given_inputs": int(task.inputs is not None),
        "given_weights": int(task.weights is not None),
        "fastgrad": fastgrad.__version__,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "c_extension": int(HAVE_C),
        "cpu": cpu_name(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def warmup(dtypes: Sequence[str] = ("float32",), activations: Sequence[str] = ("tanh", "relu")) -> None:
    """Compile the kernels of all kinds of networks now (once per version; later processes load them).

    Parameters
    ----------
    dtypes : sequence of {"float32", "float64"}
        Precisions to prepare.
    activations : sequence of str
        Activations to prepare; each takes a fraction of a second beyond the first.

    Raises
    ------
    ValueError
        When a name is not known.
    """
    for dtype in dtypes:
        for activation in activations:
            for network in (MLP(2, 4, activation=activation), RNN(2, 4, activation=activation)):
                measure(network, realizations=1, rng=0, dtype=dtype)
        for gated in (LSTM(2, 4), GRU(2, 4)):
            measure(gated, realizations=1, rng=0, dtype=dtype)
