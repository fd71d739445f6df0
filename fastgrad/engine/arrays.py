"""Copies and fills as plain loops: a slice assignment costs Numba most of a second to compile, each.

Lowered by hand, like the views of ``views.py``: as functions they would be compiled for each combination of types. Shapes are not checked.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable

from fastgrad.engine.native import transpose_symbol, transposes_in_c
from fastgrad.engine.pointers import array_data, call_symbol


def copy(source: Any, target: Any) -> None:
    """target[:] = source for vectors; the formats may differ."""
    target[:] = source


def copy_rows(source: Any, target: Any) -> None:
    """target[:, :] = the first columns of source, for matrices with any strides; the formats may differ."""
    target[:, :] = source[: target.shape[0], : target.shape[1]]


def fill(target: Any, value: Any) -> None:
    """target[:] = value for a vector."""
    target[:] = value


def transpose(matrix: Any, out: Any) -> None:
    """out[j, i] = matrix[i, j]; out's rows may be longer."""
    out[:, : matrix.shape[0]] = matrix.T


def _two_arrays(ndim):
    def type_them(context):
        def typer(source, target):
            fit = all(isinstance(array, types.Array) and array.ndim == ndim for array in (source, target))
            return types.void(source, target) if fit else None

        return typer

    return type_them


type_callable(copy)(_two_arrays(1))
type_callable(copy_rows)(_two_arrays(2))
type_callable(transpose)(_two_arrays(2))


@type_callable(fill)
def _type_fill(context):
    return lambda target, value: types.void(target, target.dtype) if isinstance(target, types.Array) and target.ndim == 1 else None


def _item(context, builder, array_type, array, indices):
    """Pointer to one entry of an array."""
    view = context.make_array(array_type)(context, builder, array)
    shape, strides = (cgutils.unpack_tuple(builder, extents, array_type.ndim) for extents in (view.shape, view.strides))
    return cgutils.get_item_pointer2(context, builder, view.data, shape, strides, array_type.layout, indices, wraparound=False)


def _copy_entries(context, builder, signature, args):
    """The loops of a copy over the shape of the target."""
    (source_type, target_type), (source, target) = signature.args, args
    shape = context.make_array(target_type)(context, builder, target).shape
    with ExitStack() as loops:
        extents = cgutils.unpack_tuple(builder, shape, target_type.ndim)
        indices = [loops.enter_context(cgutils.for_range(builder, extent)).index for extent in extents]
        value = builder.load(_item(context, builder, source_type, source, indices))
        value = context.cast(builder, value, source_type.dtype, target_type.dtype)
        builder.store(value, _item(context, builder, target_type, target, indices))
    return context.get_dummy_value()


@lower_builtin(copy, types.Array, types.Array)
@lower_builtin(copy_rows, types.Array, types.Array)
def _lower_copy(context, builder, signature, args):
    return _copy_entries(context, builder, signature, args)


_STRIP = 16  # rows read side by side: a line of each stays in the nearest cache until its last number has been copied


@lower_builtin(transpose, types.Array, types.Array)
def _lower_transpose(context, builder, signature, args):
    (source_type, target_type), (source, target) = signature.args, args
    (rows, columns), (_, row_length) = (
        cgutils.unpack_tuple(builder, context.make_array(kind)(context, builder, array).shape, 2)
        for kind, array in zip(signature.args, args, strict=True)
    )
    if transposes_in_c(source_type, target_type):
        data = [array_data(context, builder, kind, array) for kind, array in zip(signature.args, args, strict=True)]
        return call_symbol(context, builder, transpose_symbol(source_type), [rows, columns, data[0], columns, data[1], row_length])
    zero, one, strip = (context.get_constant(types.intp, number) for number in (0, 1, _STRIP))
    with cgutils.for_range_slice(builder, zero, rows, strip, rows.type) as (first, _):
        end = builder.add(first, strip)
        end = builder.select(builder.icmp_signed("<", end, rows), end, rows)
        with cgutils.for_range(builder, columns) as column, cgutils.for_range_slice(builder, first, end, one, rows.type) as (row, _):
            value = builder.load(_item(context, builder, source_type, source, [row, column.index]))
            value = context.cast(builder, value, source_type.dtype, target_type.dtype)
            builder.store(value, _item(context, builder, target_type, target, [column.index, row]))
    return context.get_dummy_value()


@lower_builtin(fill, types.Array, types.Any)
def _lower_fill(context, builder, signature, args):
    array_type, array = signature.args[0], args[0]
    size = context.make_array(array_type)(context, builder, array).nitems
    with cgutils.for_range(builder, size) as loop:
        builder.store(args[1], _item(context, builder, array_type, array, [loop.index]))
    return context.get_dummy_value()
