"""Weights of a trained model, under PyTorch's names: reading them from a file, and fitting them to a
network."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastgrad.errors import MissingPackage, TooLarge, nearest, not_allowed, shown
from fastgrad.networks import MLP, Network, Recurrent
from fastgrad.npy_files import check_memory, existing_file, read_npz, wrong_suffix

__all__ = ["Fitted", "FittedMLP", "FittedRecurrent", "fit_state_dict", "read_state_dict"]

_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
Array: TypeAlias = NDArray[Any]
# What NumPy has a dtype for; integers are read too, so that a sentence can name them.
_INTEGERS = [f"{kind}{bits}" for kind in "IU" for bits in (8, 16, 32, 64)]
_SAFETENSORS_DTYPES = frozenset(["F16", "F32", "F64", "BOOL", *_INTEGERS])
_LINEAR = re.compile(r"(0|[1-9][0-9]{0,8})\.weight")
Shapes: TypeAlias = dict[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class FittedMLP:
    """Weights that fit an MLP of widths (n_0, ..., n_L).

    Attributes
    ----------
    weights
        L matrices of shape (n_l, n_{l-1}).
    biases
        L vectors of shape (n_l,), zero where the model has none.
    """

    weights: list[Array]
    biases: list[Array]


@dataclass(frozen=True, eq=False)
class FittedRecurrent:
    """Weights that fit a recurrent network of G gates and width H; each list has one entry for each stacked
    layer.

    Attributes
    ----------
    weight_ih
        Input matrices of shape (G H, input width of the layer).
    weight_hh
        Recurrent matrices of shape (G H, H).
    bias_ih, bias_hh
        Vectors of shape (G H,), zero where the model has none.
    """

    weight_ih: list[Array]
    weight_hh: list[Array]
    bias_ih: list[Array]
    bias_hh: list[Array]


Fitted: TypeAlias = FittedMLP | FittedRecurrent


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Read named arrays from a .npz or .safetensors file.

    Parameters
    ----------
    path
        A .npz archive (``numpy.savez(path, **arrays)``), or a .safetensors file, whose bfloat16 arrays become
        float32. No pickled objects are ever read.

    Returns
    -------
    dict
        The arrays under their names, as stored.

    Raises
    ------
    ValueError
        One sentence: the file is missing (also a FileNotFoundError), unreadable, corrupt or of another kind.
        Sizes are checked before memory is taken.
    TooLarge
        When the arrays do not fit into the memory that is free.
    MissingPackage
        When a .safetensors file is given and the package safetensors is not installed (an ImportError).
    """
    found = existing_file(path, "weights")
    match found.suffix.lower():
        case ".npz":
            return read_npz(found)
        case ".safetensors":
            return _read_safetensors(found)
        case ".pt" | ".pth" | ".bin" | ".ckpt":
            remedy = "save it with safetensors.torch.save_file(model.state_dict(), path)"
            hint = f"; {found.suffix} is a pickle, which can run any code: {remedy}"
        case _:
            hint = ""
    raise ValueError(wrong_suffix(found, "weights", (".npz", ".safetensors")) + hint)


def fit_state_dict(network: Network, weights: Mapping[str, Any], *, dtype: DTypeLike = np.float64) -> Fitted:
    """Check that named weights fit a network and bring them into the engine's form.

    Parameters
    ----------
    network
        The network that will receive them.
    weights
        Arrays under PyTorch's names: for an MLP those of an ``nn.Sequential``, ``0.weight``, ``0.bias``,
        ``2.weight``, ..., with any increasing numbers; for a recurrent network ``weight_ih_l0``,
        ``weight_hh_l0``, ``bias_ih_l0``, ``bias_hh_l0``, ``weight_ih_l1``, .... Biases may be absent. NumPy
        arrays, or anything that becomes one (a PyTorch tensor on the CPU), of dtype float16, float32 or
        float64.
    dtype
        Float32 or float64: what the arrays are converted to.

    Returns
    -------
    FittedMLP or FittedRecurrent
        C-contiguous arrays of `dtype`; these may share memory with the ones given, which are not changed.

    Raises
    ------
    ValueError
        One sentence: the first name that differs, with its shape and the one expected, or the first array
        that is not finite or not of floats.
    """
    if not isinstance(weights, Mapping):
        raise ValueError(not_allowed("weights", weights, "a dict of names and arrays"))
    odd = next((key for key in weights if not isinstance(key, str)), None)
    if odd is not None:
        raise ValueError(f"weights has the key {shown(odd)}: every key must be a str")
    expected = _expected(network, list(weights))
    _check_names(network, weights, expected)
    arrays = {key: _as_floats(key, weights[key]) for key in expected if key in weights}
    for key, value in arrays.items():
        if value.shape != expected[key]:
            raise ValueError(_wrong_shape(network, key, value.shape, expected[key]))
    ready = {
        key: _ready(key, arrays[key], dtype) if key in arrays else np.zeros(shape, dtype)
        for key, shape in expected.items()
    }
    return _grouped(network, ready)


def _expected(network: Network, names: list[str]) -> Shapes:
    if isinstance(network, MLP):
        return _expected_mlp(network, names)
    assert isinstance(network, Recurrent)
    return _expected_recurrent(network, names)


def _expected_mlp(network: MLP, names: list[str]) -> Shapes:
    """Return the shapes of an MLP under the layer numbers that the weights use."""
    numbers = sorted({int(key.split(".")[0]) for key in names if _LINEAR.fullmatch(key)})
    if len(numbers) < network.depth:
        # One that is missing is enough to refuse: the next one where an activation stands between the layers.
        numbers.append(numbers[-1] + 2 if numbers else 0)
    shapes: Shapes = {}
    for l, number in enumerate(numbers[: network.depth]):
        below, width = (network.width,) * 2 if network.width is not None else network.widths[l : l + 2]
        shapes[f"{number}.weight"] = (width, below)
        shapes[f"{number}.bias"] = (width,)
    return shapes


def _expected_recurrent(network: Recurrent, names: list[str]) -> Shapes:
    """Return the shapes of a recurrent network, up to the first layer that must be missing."""
    shapes: Shapes = {}
    rows = network.gates * network.width
    for l in range(min(network.layers, len(names) + 1)):
        below = network.width if l else network.input_width
        for part, shape in zip(_PARTS, [(rows, below), (rows, network.width), (rows,), (rows,)], strict=True):
            shapes[f"{part}_l{l}"] = shape
    return shapes


def _check_names(network: Network, weights: Mapping[str, Any], expected: Shapes) -> None:
    missing = next((key for key in expected if key not in weights and "weight" in key), None)
    unexpected = [key for key in weights if key not in expected]
    if missing is None and not unexpected:
        return
    raise ValueError(
        _unsupported(weights)
        or _prefixed(network, weights)
        or (_missing(network, weights, missing, expected, unexpected) if missing else None)
        or _unexpected(network, weights, unexpected[0], expected)
    )


def _unsupported(weights: Mapping[str, Any]) -> str | None:
    """Name what PyTorch's recurrent modules can and fastgrad cannot."""
    for key in weights:
        if re.search(r"_l\d+_reverse$", key):
            return f"weights has {key!r}: bidirectional networks are not supported"
        if re.search(r"(^|\.)weight_hr_l\d+$", key):
            return f"weights has {key!r}: LSTMs with projections (proj_size) are not supported"
        if key.endswith(("running_mean", "running_var")):
            return f"weights has {key!r}: normalization layers are not supported, only linear ones"
    return None


def _prefixed(network: Network, weights: Mapping[str, Any]) -> str | None:
    """Suggest to strip a prefix such as ``rnn.`` when the names fit without it."""
    first = r"[0-9]+\.weight" if isinstance(network, MLP) else r"weight_ih_l0"
    for key in weights:
        found = re.fullmatch(rf"(.+\.)({first})", key)
        if found and found[2] not in weights:
            prefix, name = found.groups()
            begins = f"k.startswith({prefix!r})"
            strip = f"{{k[{len(prefix)}:]: v for k, v in weights.items() if {begins}}}"
            return f"weights has {key!r} where {name!r} is expected; strip the prefix {prefix!r} with {strip}"
    return None


def _missing(
    network: Network, weights: Mapping[str, Any], missing: str, expected: Shapes, unexpected: list[str]
) -> str:
    shape = expected[missing]
    sentence = f"weights has no {missing!r}, expected with shape {shape} for {shown(network, 120)}"
    match = nearest(missing, unexpected, cutoff=0.75)
    if match:
        return f"{sentence}; did you mean {match!r}, of shape {_shape(weights[match])}?"
    if unexpected:
        return f"{sentence}; it has {unexpected[0]!r} of shape {_shape(weights[unexpected[0]])} instead"
    return f"{sentence}; it has {', '.join(map(repr, list(weights)[:8])) or 'nothing'}"


def _unexpected(network: Network, weights: Mapping[str, Any], key: str, expected: Shapes) -> str:
    match = nearest(key, [name for name in expected if name not in weights], cutoff=0.75)
    hint = f"; did you mean {match!r}, of shape {expected[match]}?" if match else ""
    owner = shown(network, 120)
    return f"weights has {key!r} of shape {_shape(weights[key])}, which {owner} does not have{hint}"


def _wrong_shape(network: Network, key: str, got: tuple[int, ...], expected: tuple[int, ...]) -> str:
    sentence = f"weights[{key!r}] has shape {got}, expected {expected} for {shown(network, 120)}"
    if got == expected[::-1]:
        return f"{sentence}; did you mean its transpose?"
    if isinstance(network, MLP) and key.endswith(".weight") and len(got) != 2:
        return f"{sentence}; only linear layers are supported"
    if isinstance(network, Recurrent) and got and got[0] != expected[0]:
        of = {1: "RNN", 3: "GRU", 4: "LSTM"}.get(got[0] // network.width)
        if of and got[0] % network.width == 0:
            return f"{sentence}; {got[0]} rows are those of {of}"
    return sentence


def _shape(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return shown(tuple(shape)) if shape is not None else f"<{type(value).__name__}>"


def _as_floats(key: str, value: Any) -> Array:
    if not hasattr(value, "__array__"):
        raise ValueError(f"weights[{key!r}]={shown(value)} is not allowed: it must be an array of floats")
    try:
        array = np.asarray(value.detach() if hasattr(value, "detach") else value)
    except Exception as error:  # a foreign __array__ may raise anything: a tensor on a GPU, a bfloat16 tensor
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"weights[{key!r}] cannot become an array: {reason}; try .float().cpu()") from None
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise ValueError(f"weights[{key!r}] has dtype {array.dtype}, expected float16, float32 or float64")
    return array


def _ready(key: str, array: Array, dtype: DTypeLike) -> Array:
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))
        place, value = ", ".join(map(str, bad[0])), array[tuple(bad[0])]
        rest = f"every weight must be finite ({len(bad):,} {'is' if len(bad) == 1 else 'are'} not)"
        raise ValueError(f"weights[{key!r}][{place}] is {value}: {rest}")
    with np.errstate(over="ignore"):  # reported in the next lines
        ready = np.ascontiguousarray(array, dtype=dtype)
    if ready.dtype.itemsize < array.dtype.itemsize and not np.isfinite(ready).all():
        largest = np.abs(array).max()
        beyond = f"beyond the range of {ready.dtype}; use dtype='float64'"
        raise ValueError(f"weights[{key!r}] reaches {largest:g}, {beyond}")
    return ready


def _grouped(network: Network, ready: dict[str, Array]) -> Fitted:
    if isinstance(network, MLP):
        return FittedMLP(
            weights=[array for key, array in ready.items() if key.endswith("weight")],
            biases=[array for key, array in ready.items() if key.endswith("bias")],
        )
    return FittedRecurrent(
        **{part: [array for key, array in ready.items() if key.startswith(part)] for part in _PARTS}
    )


def _read_safetensors(path: Path) -> dict[str, Array]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise MissingPackage(
            f"{path} cannot be read: the package safetensors is missing; pip install 'fastgrad[safetensors]'"
        ) from None
    arrays: dict[str, Array] = {}
    strange = None
    try:
        # safe_open maps the file and has compared every size in its header with the bytes before it returns.
        with safe_open(path, framework="numpy") as file:
            check_memory(path.stat().st_size)
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                dtype = file.get_slice(name).get_dtype()
                if dtype == "BF16":
                    arrays[name] = _bfloat16(path, name)
                elif dtype in _SAFETENSORS_DTYPES:
                    arrays[name] = file.get_tensor(name)
                else:
                    strange = strange or f"{name!r} has dtype {dtype}, expected F16, BF16, F32 or F64"
    except MemoryError as error:
        reason = str(error) if isinstance(error, TooLarge) else "it does not fit into memory"
        raise TooLarge(f"{path} cannot be read: {reason}") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read: it is corrupt: {str(error).splitlines()[0]}") from None
    if strange:
        raise ValueError(f"{path} cannot be read: {strange}")
    return arrays


def _bfloat16(path: Path, name: str) -> NDArray[np.float32]:
    """Read a bfloat16 array, which NumPy lacks: the upper half of a float32. Its header was checked."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
        begin, end = entry["data_offsets"]
        file.seek(8 + length + begin)
        upper = np.frombuffer(file.read(end - begin), dtype="<u2")
    return (upper.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])
