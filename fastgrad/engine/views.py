"""The same numbers as a vector or as a matrix, without ``reshape`` or slices: Numba compiles up to a second of checks and messages into those.

Nothing is checked; arrays must be contiguous. ``as_matrix`` and ``vector_at`` take a C pointer too, in compiled code,
``matrix_by_address`` an integer: of such memory nobody but its owner knows when it goes. These functions are not
compiled: each call becomes a handful of instructions in its caller.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import lower_builtin, type_callable


def as_vector(array):
    """All numbers of a contiguous array, in one row."""
    return np.reshape(array, -1)


def as_matrix(vector, rows, columns):
    """The first rows * columns numbers of a contiguous array as a matrix."""
    return vector.reshape(-1)[: rows * columns].reshape(rows, columns)


def vector_at(array, start, n):
    """n numbers of a contiguous array, from number ``start``."""
    return array.reshape(-1)[start : start + n]


def matrix_at(array, start, rows, columns):
    """rows * columns numbers of a contiguous array, from number ``start``, as a matrix."""
    return array.reshape(-1)[start : start + rows * columns].reshape(rows, columns)


def matrix_by_address(like, address, rows, columns):
    """The contiguous matrix at an address, of numbers as in the array ``like``, for compiled code alone: somebody else keeps it alive."""
    raise NotImplementedError("plain Python has arrays, not addresses")


def plane_at(array, index):
    """One of the matrices of a contiguous array with three dimensions."""
    return array[index]


def columns_at(matrix, first, n):
    """n columns of a contiguous matrix, from column ``first``."""
    return matrix[:, first : first + n]


def rows_turned(matrix, turned):
    """A matrix, or with its rows in the opposite order if ``turned``."""
    return matrix[::-1] if turned else matrix


def columns_turned(matrix, turned):
    """A matrix, or with its columns in the opposite order if ``turned``."""
    return matrix[:, ::-1] if turned else matrix


def transposed(matrix):
    """A contiguous matrix with rows and columns exchanged; nothing is copied."""
    return matrix.T


def _signature(source, ndim, sizes):
    if not isinstance(source, types.Array | types.CPointer):
        return None
    readonly = isinstance(source, types.Array) and not source.mutable
    return types.Array(source.dtype, ndim, "C", readonly=readonly)(source, *[types.intp] * sizes)


@type_callable(as_vector)
def _type_as_vector(context):
    return lambda array: _signature(array, 1, 0)


@type_callable(as_matrix)
def _type_as_matrix(context):
    return lambda vector, rows, columns: _signature(vector, 2, 2)


@type_callable(vector_at)
def _type_vector_at(context):
    return lambda array, start, n: _signature(array, 1, 2)


@type_callable(matrix_at)
def _type_matrix_at(context):
    return lambda array, start, rows, columns: _signature(array, 2, 3)


@type_callable(matrix_by_address)
def _type_matrix_by_address(context):
    return lambda like, address, rows, columns: _signature(like, 2, 3)


@type_callable(plane_at)
def _type_plane_at(context):
    return lambda array, index: _signature(array, 2, 1)


@type_callable(transposed)
def _type_transposed(context):
    return lambda matrix: types.Array(matrix.dtype, 2, "A", readonly=not matrix.mutable)(matrix)


@type_callable(columns_at)
def _type_columns_at(context):
    def typer(matrix, first, n):
        return types.Array(matrix.dtype, 2, "A", readonly=not matrix.mutable)(matrix, types.intp, types.intp)

    return typer


@type_callable(rows_turned)
@type_callable(columns_turned)
def _type_turned(context):
    return lambda matrix, turned: types.Array(matrix.dtype, 2, "A", readonly=not matrix.mutable)(matrix, types.boolean)


def _view(context, builder, signature, source, start, shape):
    """An array structure over the memory of ``source``, an array or a pointer, from number ``start`` (None: 0) with another shape."""
    data, meminfo, parent = source, None, None
    if isinstance(signature.args[0], types.Array):
        old = context.make_array(signature.args[0])(context, builder, source)
        data, meminfo, parent = old.data, old.meminfo, old.parent
    new = context.make_array(signature.return_type)(context, builder)
    itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(signature.return_type.dtype)))
    strides = [itemsize]
    for extent in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], extent))
    size = shape[0]
    for extent in shape[1:]:
        size = builder.mul(size, extent)
    new.data = data if start is None else builder.gep(data, [start])
    new.itemsize, new.nitems = itemsize, size
    new.meminfo = cgutils.get_null_value(new.meminfo.type) if meminfo is None else meminfo
    new.parent = cgutils.get_null_value(new.parent.type) if parent is None else parent
    new.shape = cgutils.pack_array(builder, shape)
    new.strides = cgutils.pack_array(builder, strides)
    return impl_ret_borrowed(context, builder, signature.return_type, new._getvalue())


@lower_builtin(as_vector, types.Array)
def _lower_as_vector(context, builder, signature, args):
    old = context.make_array(signature.args[0])(context, builder, args[0])
    return _view(context, builder, signature, args[0], None, [old.nitems])


@lower_builtin(as_matrix, types.Array, types.Integer, types.Integer)
@lower_builtin(as_matrix, types.CPointer, types.Integer, types.Integer)
def _lower_as_matrix(context, builder, signature, args):
    return _view(context, builder, signature, args[0], None, list(args[1:]))


@lower_builtin(vector_at, types.Array, types.Integer, types.Integer)
@lower_builtin(vector_at, types.CPointer, types.Integer, types.Integer)
@lower_builtin(matrix_at, types.Array, types.Integer, types.Integer, types.Integer)
def _lower_at(context, builder, signature, args):
    return _view(context, builder, signature, args[0], args[1], list(args[2:]))


@lower_builtin(matrix_by_address, types.Array, types.Integer, types.Integer, types.Integer)
def _lower_by_address(context, builder, signature, args):
    like, address, rows, columns = args
    numbers = context.make_array(signature.args[0])(context, builder, like).data.type
    from_pointer = signature.return_type(types.CPointer(signature.args[0].dtype), types.intp, types.intp)
    return _view(context, builder, from_pointer, builder.inttoptr(address, numbers), None, [rows, columns])


@lower_builtin(plane_at, types.Array, types.Integer)
def _lower_plane_at(context, builder, signature, args):
    _, rows, columns = cgutils.unpack_tuple(builder, context.make_array(signature.args[0])(context, builder, args[0]).shape, 3)
    start = builder.mul(args[1], builder.mul(rows, columns))
    return _view(context, builder, signature, args[0], start, [rows, columns])


@lower_builtin(columns_at, types.Array, types.Integer, types.Integer)
def _lower_columns_at(context, builder, signature, args):
    old = context.make_array(signature.args[0])(context, builder, args[0])
    new = context.make_array(signature.return_type)(context, builder)
    rows = builder.extract_value(old.shape, 0)
    new.data = builder.gep(old.data, [args[1]])
    new.meminfo, new.parent, new.itemsize, new.strides = old.meminfo, old.parent, old.itemsize, old.strides
    new.shape, new.nitems = cgutils.pack_array(builder, [rows, args[2]]), builder.mul(rows, args[2])
    return impl_ret_borrowed(context, builder, signature.return_type, new._getvalue())


def _turned(context, builder, signature, args, axis):
    old = context.make_array(signature.args[0])(context, builder, args[0])
    new = context.make_array(signature.return_type)(context, builder)
    shape, strides = (cgutils.unpack_tuple(builder, extents, 2) for extents in (old.shape, old.strides))
    last = builder.mul(builder.sub(shape[axis], context.get_constant(types.intp, 1)), strides[axis])
    offset = builder.select(args[1], last, context.get_constant(types.intp, 0))
    strides[axis] = builder.select(args[1], builder.neg(strides[axis]), strides[axis])
    new.data = cgutils.pointer_add(builder, old.data, offset)
    new.meminfo, new.parent, new.itemsize, new.nitems, new.shape = old.meminfo, old.parent, old.itemsize, old.nitems, old.shape
    new.strides = cgutils.pack_array(builder, strides)
    return impl_ret_borrowed(context, builder, signature.return_type, new._getvalue())


@lower_builtin(rows_turned, types.Array, types.Boolean)
def _lower_rows_turned(context, builder, signature, args):
    return _turned(context, builder, signature, args, 0)


@lower_builtin(columns_turned, types.Array, types.Boolean)
def _lower_columns_turned(context, builder, signature, args):
    return _turned(context, builder, signature, args, 1)


@lower_builtin(transposed, types.Array)
def _lower_transposed(context, builder, signature, args):
    old = context.make_array(signature.args[0])(context, builder, args[0])
    new = context.make_array(signature.return_type)(context, builder)
    new.data, new.meminfo, new.parent, new.itemsize, new.nitems = old.data, old.meminfo, old.parent, old.itemsize, old.nitems
    new.shape = cgutils.pack_array(builder, cgutils.unpack_tuple(builder, old.shape, 2)[::-1])
    new.strides = cgutils.pack_array(builder, cgutils.unpack_tuple(builder, old.strides, 2)[::-1])
    return impl_ret_borrowed(context, builder, signature.return_type, new._getvalue())
