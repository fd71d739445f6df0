"""Loads and stores which tell LLVM that the arrays of a pointwise loop do not overlap.

A pointwise loop over many arrays is vectorised only behind run-time overlap checks, one for each pair; with the ten arrays of an LSTM their
cost exceeds the loop's at usual widths, and LLVM then silently runs the scalar version (measured: 18 times slower). ``load`` and
``store`` attach LLVM's ``alias.scope`` and ``noalias`` metadata instead: no checks, always vector code. The promise they make is the
caller's to keep: **what a function stores to through slot k it touches through slot k alone**, in all of its loops; functions that are compiled
into one another keep their promises apart.

In plain Python they are ``array[index]`` and ``array[index] = value``.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable

SLOTS = 12  # distinct output arrays that one loop may have


def load(array: Any, index: int) -> Any:
    """``array[index]`` of a 1-D array that the surrounding loop only reads."""
    return array[index]


def store(array: Any, index: int, value: Any, slot: int) -> None:
    """``array[index] = value`` for a 1-D array that only this slot touches in the surrounding loop."""
    array[index] = value


def _scopes(builder: Any) -> tuple[Any, list[Any]]:
    """(scope of all reads, scopes of the slots) of the function that is being built, as metadata of its module; equal nodes are shared by LLVM."""
    module = builder.module
    domain = module.add_metadata([f"fastgrad {builder.function.name}"])
    reads = module.add_metadata(["fastgrad reads", domain])
    return reads, [module.add_metadata([f"fastgrad slot {k}", domain]) for k in range(SLOTS)]


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    view = context.make_array(array_type)(context, builder, array)
    offset = builder.mul(index, cgutils.unpack_tuple(builder, view.strides, 1)[0]) if array_type.layout != "C" else None
    if offset is None:
        return builder.gep(view.data, [index])
    return cgutils.pointer_add(builder, view.data, offset)


@type_callable(load)
def _type_load(context):
    return lambda array, index: array.dtype(array, types.intp) if isinstance(array, types.Array) else None


@type_callable(store)
def _type_store(context):
    def typer(array, index, value, slot):
        known = isinstance(array, types.Array) and isinstance(slot, types.IntegerLiteral)
        return types.void(array, types.intp, array.dtype, slot) if known else None

    return typer


def load_at(builder: Any, pointer: Any) -> Any:
    """Generate the load of a number that the surrounding loop only reads."""
    value = builder.load(pointer)
    reads, slots = _scopes(builder)
    value.set_metadata("alias.scope", builder.module.add_metadata([reads]))
    value.set_metadata("noalias", builder.module.add_metadata(slots))
    return value


def store_at(builder: Any, value: Any, pointer: Any, slot: int) -> None:
    """Generate the store of a number through a slot."""
    instruction = builder.store(value, pointer)
    reads, slots = _scopes(builder)
    mine = slots.pop(slot)
    instruction.set_metadata("alias.scope", builder.module.add_metadata([mine]))
    instruction.set_metadata("noalias", builder.module.add_metadata([reads, *slots]))


# Lowered by hand rather than as functions: every call of a function that Numba compiles costs a tenth of a second once.
@lower_builtin(load, types.Array, types.Integer)
def _lower_load(context, builder, signature, args):
    return load_at(builder, _pointer(context, builder, signature.args[0], *args))


@lower_builtin(store, types.Array, types.Integer, types.Number, types.IntegerLiteral)
def _lower_store(context, builder, signature, args):
    store_at(builder, args[2], _pointer(context, builder, signature.args[0], args[0], args[1]), signature.args[3].literal_value)
    return context.get_dummy_value()
