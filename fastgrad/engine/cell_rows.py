"""A cell's tuples of numbers against rows of numbers in memory.

Row k of a run of numbers starts ``k * gap`` behind the first. The states of a loop are stored through slots 0 and 1, its other outputs through slots
2 to 8: the slots of one loop must differ (``noalias.py``). Lowered by hand, for the cost of a function and because Numba builds only tuples whose
length stands in the source.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable

from fastgrad.engine.noalias import load_at, store_at


def load_rows(numbers: Any, gap: int, j: int, count: int) -> tuple[Any, ...]:
    """Number j of each of the first ``count`` rows."""
    return tuple(numbers[k * gap + j] for k in range(count))


def store_rows(numbers: Any, gap: int, j: int, values: tuple[Any, ...], slot: int) -> None:
    """Number j of each row, row k through slot ``slot`` + k."""
    for k, value in enumerate(values):
        numbers[k * gap + j] = value


def store_second(row: Any, j: int, values: tuple[Any, ...], slot: int) -> None:
    """row[j] = values[1], if there is one: with one state, its total derivative is the gradient that came in."""
    if len(values) > 1:
        row[j] = values[1]


def _tuple_of(array: Any, values: Any) -> Any:
    return types.UniTuple(array.dtype, len(values))


@type_callable(load_rows)
def _type_load_rows(context):
    def typer(numbers, gap, j, count):
        known = isinstance(numbers, types.Array) and numbers.layout == "C" and isinstance(count, types.IntegerLiteral)
        return types.UniTuple(numbers.dtype, count.literal_value)(numbers, types.intp, types.intp, count) if known else None

    return typer


@type_callable(store_rows)
def _type_store_rows(context):
    def typer(numbers, gap, j, values, slot):
        known = isinstance(numbers, types.Array) and numbers.layout == "C" and isinstance(slot, types.IntegerLiteral)
        return types.void(numbers, types.intp, types.intp, _tuple_of(numbers, values), slot) if known else None

    return typer


@type_callable(store_second)
def _type_store_second(context):
    def typer(row, j, values, slot):
        known = isinstance(row, types.Array) and row.layout == "C" and isinstance(slot, types.IntegerLiteral)
        return types.void(row, types.intp, _tuple_of(row, values), slot) if known else None

    return typer


def _pointers(context, builder, array_type, array, gap, j, count):
    data = context.make_array(array_type)(context, builder, array).data
    return [builder.gep(data, [builder.add(builder.mul(gap, context.get_constant(types.intp, k)), j)]) for k in range(count)]


@lower_builtin(load_rows, types.Array, types.Integer, types.Integer, types.IntegerLiteral)
def _lower_load_rows(context, builder, signature, args):
    numbers, gap, j, _ = args
    pointers = _pointers(context, builder, signature.args[0], numbers, gap, j, signature.return_type.count)
    return cgutils.pack_array(builder, [load_at(builder, pointer) for pointer in pointers])


@lower_builtin(store_rows, types.Array, types.Integer, types.Integer, types.BaseTuple, types.IntegerLiteral)
def _lower_store_rows(context, builder, signature, args):
    numbers, gap, j, packed, _ = args
    values = cgutils.unpack_tuple(builder, packed, signature.args[3].count)
    pointers = _pointers(context, builder, signature.args[0], numbers, gap, j, len(values))
    for k, (value, pointer) in enumerate(zip(values, pointers, strict=True)):
        store_at(builder, value, pointer, signature.args[4].literal_value + k)
    return context.get_dummy_value()


@lower_builtin(store_second, types.Array, types.Integer, types.BaseTuple, types.IntegerLiteral)
def _lower_store_second(context, builder, signature, args):
    values = cgutils.unpack_tuple(builder, args[2], signature.args[2].count)
    if len(values) > 1:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        store_at(builder, values[1], builder.gep(data, [args[1]]), signature.args[3].literal_value)
    return context.get_dummy_value()
