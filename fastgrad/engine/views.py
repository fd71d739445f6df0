"""The same numbers as a vector or as a matrix, without ``reshape``: Numba compiles most of a second of error messages into each of those.

Nothing is checked; arrays must be contiguous.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload


def as_vector(array):
    """All numbers of a contiguous array, in one row."""
    return np.reshape(array, -1)


def as_matrix(vector, rows, columns):
    """The first rows * columns numbers of a contiguous vector as a matrix."""
    return vector[: rows * columns].reshape(rows, columns)


def _view(context, builder, source_type, source, target_type, shape):
    """An array structure over the memory of ``source`` with another shape."""
    old = context.make_array(source_type)(context, builder, source)
    new = context.make_array(target_type)(context, builder)
    itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(target_type.dtype)))
    strides = [itemsize]
    for extent in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], extent))
    size = shape[0]
    for extent in shape[1:]:
        size = builder.mul(size, extent)
    new.data, new.meminfo, new.parent, new.itemsize, new.nitems = old.data, old.meminfo, old.parent, itemsize, size
    new.shape = cgutils.pack_array(builder, shape)
    new.strides = cgutils.pack_array(builder, strides)
    if context.enable_nrt:
        context.nrt.incref(builder, target_type, new._getvalue())
    return new._getvalue()


@intrinsic
def _as_vector(typingctx, array):
    target = types.Array(array.dtype, 1, "C", readonly=not array.mutable)

    def codegen(context, builder, signature, args):
        view = context.make_array(signature.args[0])(context, builder, args[0])
        return _view(context, builder, signature.args[0], args[0], target, [view.nitems])

    return target(array), codegen


@intrinsic
def _as_matrix(typingctx, vector, rows, columns):
    target = types.Array(vector.dtype, 2, "C", readonly=not vector.mutable)

    def codegen(context, builder, signature, args):
        return _view(context, builder, signature.args[0], args[0], target, [args[1], args[2]])

    return target(vector, types.intp, types.intp), codegen


@overload(as_vector, inline="always")
def _choose_as_vector(array):
    return lambda array: _as_vector(array)


@overload(as_matrix, inline="always")
def _choose_as_matrix(vector, rows, columns):
    return lambda vector, rows, columns: _as_matrix(vector, rows, columns)
