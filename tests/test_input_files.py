"""Inputs: the files they come in, hostile ones included, and whether they fit."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastgrad.errors import MissingFile, TooLarge, UnreadableFile
from fastgrad.input_files import check_inputs, read_inputs
from fastgrad.networks import GRU, LSTM, MLP, RNN, Network
from fastgrad.npy_files import read_npz

DIGITS = np.random.default_rng(0).normal(size=(3, 5))


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def forged(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


def header(descr: str, shape: str) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"


def refused(read: Callable[[Any], object], path: Path, error: type[Exception] = ValueError) -> str:
    """Return the sentence, having checked that it is one and that little memory was taken on the way."""
    tracemalloc.start()
    try:
        with pytest.raises(error) as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    sentence = str(caught.value)
    assert sentence
    assert "\n" not in sentence
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return sentence


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int16, ">f8", np.uint8]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
    ),
    st.sampled_from("CF"),
)
def test_an_npy_file_is_read_as_numpy_reads_it(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, order: Any
) -> None:
    path = tmp_path_factory.mktemp("npy") / "inputs.npy"
    np.save(path, np.asarray(array, order=order))
    read = read_inputs(path)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, np.load(path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_archive_of_one_array_is_read(tmp_path: Path, save: Callable[..., None]) -> None:
    path = tmp_path / "inputs.npz"
    save(path, digits=DIGITS)
    np.testing.assert_array_equal(read_inputs(str(path)), DIGITS)


def test_an_npz_archive_of_two_arrays_is_refused_with_their_names(tmp_path: Path) -> None:
    path = tmp_path / "inputs.npz"
    np.savez(path, images=DIGITS, labels=DIGITS)
    assert "holds 2 arrays ('images', 'labels'), expected exactly one" in refused(read_inputs, path)
    np.savez(path)
    assert "holds 0 arrays (none)" in refused(read_inputs, path)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (forged(header("<f8", "(65536, 65536)")), "34,359,738,368 bytes, and 0 bytes follow"),
        (forged(header("<f8", "(2**40,)")), "corrupt"),
        (forged(header("<f8", f"({10**30},)")), "0 bytes follow"),
        (forged(header("<f8", "(-1, -8)"), b"\0" * 64), "claims the shape (-1, -8)"),
        (forged(header("<f8", "(8,)"), b"\0" * 63), "64 bytes, and 63 bytes follow"),
        (forged(header("<f8", "(8,)"), b"\0" * 65), "64 bytes, and 65 bytes follow"),
        (forged(header("|O", "(1,)"), b"\0" * 8), "Python objects"),
        (forged(header("<U4", "(1,)"), b"\0" * 16), "expected numbers"),
        (forged(header("<M8[s]", "(1,)"), b"\0" * 8), "expected numbers"),
        (forged("{'descr': __import__('os').abort(), 'fortran_order': False, 'shape': ()}"), "corrupt"),
        (forged("[" * 100), "corrupt"),
        (forged(header("<f8", "(1,)"), b"\0" * 8, b"\x09\x00"), ".npy version 9.0, expected 1.0 or 2.0"),
        (b"", "corrupt"),
        (b"PK\x03\x04", "corrupt"),
        (npy_bytes(DIGITS)[:40], "corrupt"),
    ],
)
def test_a_forged_or_damaged_npy_file_is_refused_before_memory_is_taken(
    tmp_path: Path, content: bytes, part: str
) -> None:
    path = tmp_path / "inputs.npy"
    path.write_bytes(content)
    sentence = refused(read_inputs, path)
    assert part in sentence
    assert sentence.startswith(f"{path} cannot be read: ")
    archive = tmp_path / "inputs.npz"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("digits.npy", content)
    assert part in (sentence := refused(read_inputs, archive))
    assert "in 'digits'" in sentence


@pytest.mark.parametrize("where", [0, 5, 30, 60, 100, 200, -30, -5])
def test_a_damaged_archive_gets_a_sentence_or_is_read_rightly(tmp_path: Path, where: int) -> None:
    path = tmp_path / "inputs.npz"
    np.savez_compressed(path, digits=DIGITS)
    content = bytearray(path.read_bytes())
    for damaged in (content[:where], content[:where] + bytes([content[where] ^ 0xFF]) + content[where:][1:]):
        path.write_bytes(damaged)
        sentence = f"{path}: nothing is wrong"
        try:
            np.testing.assert_array_equal(read_inputs(path), DIGITS)
        except ValueError as error:
            sentence = str(error)
        assert sentence.startswith(str(path))
        assert "\n" not in sentence


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    piece = b"\0" * 2**20
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("x.npy", "w", force_zip64=True) as member,
    ):
        member.write(forged(header("|u1", f"({200 * 2**20},)")))
        for _ in range(200):
            member.write(piece)
    assert path.stat().st_size < 300_000
    sentence = refused(read_npz, path)
    assert "unfold" in sentence
    assert "save it uncompressed" in sentence


def test_an_archive_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "inputs.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", forged(header("<f8", "(8,)"), b"\0" * 64))
        file.filelist[0].file_size = 128 + 80  # what the directory of the archive will say
    assert "in 'x'" in refused(read_npz, path)


def test_archives_hold_nothing_but_arrays_and_no_name_twice(tmp_path: Path) -> None:
    path = tmp_path / "inputs.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("notes.txt", "hello")
    assert "'notes.txt' is not an array" in refused(read_inputs, path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", npy_bytes(DIGITS))
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("x.npy", npy_bytes(DIGITS))
    assert "holds 'x' twice" in refused(read_inputs, path)


def test_what_exceeds_the_free_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "inputs.npy"
    with path.open("wb") as file:  # a sparse file: its bytes are there, and cost nothing
        file.write(forged(header("|u1", f"({2**43},)")))
        file.truncate(file.tell() + 2**43)
    assert "8,192.0 GiB" in refused(read_inputs, path, TooLarge)


def test_a_missing_file_is_named_with_its_nearest_neighbour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # long paths are shortened in sentences
    np.save("digits.npy", DIGITS)
    path = Path("digit.npy")
    sentence = refused(read_inputs, path, MissingFile)
    assert sentence == f"inputs={str(path)!r} does not exist; did you mean 'digits.npy'?"
    refused(read_inputs, tmp_path / "nowhere" / "x.npy", FileNotFoundError)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    assert "is not a file" in refused(read_inputs, tmp_path, UnreadableFile)
    assert "must be a path" in refused(read_inputs, 3)  # type: ignore[arg-type]
    assert "inputs=" in refused(read_inputs, "a\0b.npy")  # type: ignore[arg-type]
    assert "inputs=" in refused(read_inputs, "x" * 5000)  # type: ignore[arg-type]


def test_another_kind_of_file_is_refused_with_the_kinds_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "inputs.cvs").write_bytes(b"")
    sentence = refused(read_inputs, tmp_path / "inputs.cvs")
    assert "must be one of .npy, .npz, .csv; did you mean '.csv'?" in sentence


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("a,b\n1,2\n3,4", [[1, 2], [3, 4]]),
        ('# source\n\n"a","b"\n1, 2\r\n\n3,4e-3\n', [[1, 2], [3, 0.004]]),
        ("\ufeffyear;number\n1700;5\n", [[1700, 5]]),
        ("1\t2\n", [[1, 2]]),
        ("value\n1\n2\n3\n", [[1], [2], [3]]),
        ("-1.5,+2\n", [[-1.5, 2]]),
    ],
)
def test_csv_files(tmp_path: Path, text: str, expected: list[list[float]]) -> None:
    path = tmp_path / "inputs.CSV"
    path.write_text(text, encoding="utf-8")
    np.testing.assert_array_equal(read_inputs(path), expected)
    assert read_inputs(path).dtype == np.float64


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a,b\n1,2\n3,four\n", ", line 3, column 2: 'four' is not a number"),
        ("a,b\nc,d\n", ", line 2, column 1: 'c' is not a number"),
        ("a,2\n", ", line 1, column 1: 'a' is not a number"),
        ("1,2\n3\n", ", line 2: 1 columns, expected 2 as above"),
        ("a,b,c\n1,2\n", ", line 2: 2 columns, expected 3 as above"),
        ("1,2\n3,\n", ", line 2, column 2: '' is not a number"),
        ("1_000,2\n3,4\n", ", line 1, column 1: '1_000' is not a number"),
        ("1,2\n3,nan\n", ", line 2, column 2: 'nan' is not finite"),
        ("1,2\n3,-inf\n", ", line 2, column 2: '-inf' is not finite"),
        ("1,2\n3,1e999\n", ", line 2, column 2: '1e999' is not finite"),
        ("", "holds no numbers"),
        ("a,b\n", "holds no numbers"),
        ('1,"2\n', "cannot be read: "),
        ("1," + "9" * 200_000 + "\n", "cannot be read: "),
    ],
)
def test_a_csv_file_with_something_else_is_refused_with_the_line(
    tmp_path: Path, text: str, part: str
) -> None:
    path = tmp_path / "inputs.csv"
    path.write_text(text, encoding="utf-8")
    sentence = refused(read_inputs, path)
    assert part in sentence
    assert sentence.startswith(str(path))


def test_a_csv_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "inputs.csv"
    path.write_bytes("größe\n1\n".encode("latin-1"))
    assert "not UTF-8" in refused(read_inputs, path)


MLP_3, RNN_7_3 = MLP(2, 3), RNN(7, 5, input_width=3)


@pytest.mark.parametrize(
    ("network", "shape", "result"),
    [
        (MLP_3, (4, 3), (4, 3)),
        (MLP_3, (3,), (1, 3)),
        (MLP(widths=(2, 9)), (1, 2), (1, 2)),
        (RNN_7_3, (7, 4, 3), (7, 4, 3)),
        (LSTM(7, 3), (7, 3), (7, 1, 3)),
        (GRU(1, 1), (1, 1), (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8, ">f4"])
def test_inputs_that_fit_come_back_with_a_batch_axis(
    network: Network, shape: tuple[int, ...], result: tuple[int, ...], dtype: Any
) -> None:
    inputs = np.asfortranarray(np.arange(np.prod(shape)).reshape(shape).astype(dtype))
    checked = check_inputs(network, inputs)
    assert checked.shape == result
    assert checked.dtype == np.float64
    assert checked.dtype.isnative
    assert checked.flags.c_contiguous
    np.testing.assert_array_equal(checked.ravel(), inputs.ravel(order="C"))


def test_inputs_may_be_lists_and_tensors() -> None:
    torch = pytest.importorskip("torch")
    expected = [[1.0, 2.0, 3.0]]
    assert check_inputs(MLP_3, [1, 2, 3]).tolist() == expected
    assert check_inputs(MLP_3, torch.tensor(expected, requires_grad=True)).tolist() == expected


@pytest.mark.parametrize(
    ("network", "inputs", "part"),
    [
        (
            MLP_3,
            np.zeros((3, 5)),
            "inputs has shape (3, 5), expected (batch, 3) or (3,) for MLP(depth=2, width=3)",
        ),
        (MLP_3, np.zeros((3, 5)), "did you mean inputs.T?"),
        (MLP(2, 12), np.zeros((9, 3, 4)), "did you mean inputs.reshape(len(inputs), -1)?"),
        (MLP_3, np.zeros((0, 3)), "it is empty"),
        (MLP_3, 1.0, "inputs has shape ()"),
        (
            RNN_7_3,
            np.zeros((7, 4)),
            "inputs has shape (7, 4), expected (7, batch, 3) or (7, 3) for RNN(steps=7",
        ),
        (RNN_7_3, np.zeros((4, 7, 3)), "did you mean inputs.swapaxes(0, 1)?"),
        (RNN_7_3, np.zeros((3, 7)), "did you mean inputs.T?"),
        (RNN_7_3, np.zeros((9, 3)), "did you mean inputs[:7]?"),
        (RNN_7_3, np.zeros((5, 2, 3)), "did you mean steps=5?"),
        (RNN_7_3, np.zeros((7, 0, 3)), "it is empty"),
        (RNN(7, 1), np.zeros(7), "did you mean inputs[:, None]?"),
        (MLP_3, np.array([1, np.nan, 3]), "inputs[1] is nan: every input must be finite (1 is not)"),
        (MLP_3, np.array([[1, 2, 3], [0, -np.inf, np.inf]]), "inputs[1, 1] is -inf"),
        (RNN_7_3, np.full((7, 3), np.nan), "inputs[0, 0] is nan: every input must be finite (21 are not)"),
        (MLP_3, np.zeros(3, complex), "inputs has dtype complex128, expected real numbers"),
        (MLP_3, np.zeros(3, bool), "inputs.astype(float)"),
        (MLP_3, np.zeros(3, object), "dtype object"),
        (MLP_3, ["a", "b", "c"], "inputs has dtype <U1"),
        (MLP_3, [[1, 2, 3], [1, 2]], "is not an array of numbers"),
        (MLP_3, None, "inputs has dtype object"),
        (MLP_3, np.ma.array([1, 2, 3], mask=[0, 1, 0]), "masked"),
        (MLP_3, np.full(3, np.longdouble("1e4000")), "must be finite"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_both_shapes(
    network: Network, inputs: Any, part: str
) -> None:
    with pytest.raises(ValueError, match=r"^inputs") as caught:
        check_inputs(network, inputs)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_checking_inputs_does_not_change_them() -> None:
    inputs = np.arange(6, dtype=np.float32).reshape(2, 3)
    check_inputs(MLP_3, inputs)[:] = -1
    assert inputs.tolist() == [[0, 1, 2], [3, 4, 5]]
