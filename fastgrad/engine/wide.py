"""Vectors as wide as the machine has them, for one loop.

On processors with AVX-512, LLVM prefers vectors of 256 bits, because the first of them lowered their clock for 512. A pointwise loop that is bound by
its divisions and polynomials gains all the same: on a Skylake, tanh and tanh' took 1.6 ns an element with 256 bits, 1.1 ns with 512, and the matrix
products beside it run with 512 anyway. Elsewhere the preference means nothing.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_PREFERENCE = '"prefer-vector-width"="512"'


@intrinsic
def widest_vectors(typingctx: Any) -> Any:
    """In a compiled function: let LLVM use 512-bit vectors in the function that says so."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # llvmlite's own `add` knows attributes without values only; as text they are written the same way.
        set.add(builder.function.attributes, _PREFERENCE)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def one_copy(typingctx: Any) -> Any:
    """In a compiled function: keep LLVM from inlining it. Copies may sum in other orders, and what is drawn again must be the same bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


def _ask_of_loops(builder: Any, name: str, value: Any) -> None:
    """Attach a wish to the loops of the function that is being built which have none yet."""
    module, seen = builder.module, set()
    for block in builder.function.blocks:
        seen.add(block)
        jump = block.terminator
        back = isinstance(jump, ir.Branch) and jump.operands[0] in seen  # to the head of a loop
        if back and "llvm.loop" not in jump.metadata:
            wish = module.add_metadata([name, value])
            loop = module.add_metadata([ir.MetaDataString(module, f"of {block.name}"), wish])
            loop.operands = (loop, wish)  # a loop's metadata names itself first
            jump.set_metadata("llvm.loop", loop)


@intrinsic
def two_at_a_time(typingctx: Any) -> Any:
    """In a compiled function, behind its loops: let LLVM take two vectors in each turn of those, so that one's chain of operations fills the other's.

    LLVM does so by itself with short loops alone. A cell's chain of exponentials and divisions is longer than what the processor looks ahead.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _ask_of_loops(builder, "llvm.loop.interleave.count", ir.Constant(ir.IntType(32), 2))
        return context.get_dummy_value()

    return types.void(), codegen


def _has_masks(context: Any) -> bool:
    """Whether code is generated for a processor that is known to store through masks; only Numba's own choice, the host, says what it has."""
    _, _, features = context.codegen().magic_tuple()
    return "+avx2" in features.split(",")


@intrinsic
def rest_in_a_mask(typingctx: Any) -> Any:
    """In a compiled function, behind its loops: let LLVM take what is left over behind whole vectors as a vector of which some lanes are masked.

    By itself it takes such numbers one by one, each as slow as a vector. Where a processor has no masks, the wish would cost the whole loop its
    vectors, so it is not made.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not _has_masks(context):
            return context.get_dummy_value()
        _ask_of_loops(builder, "llvm.loop.vectorize.predicate.enable", ir.Constant(ir.IntType(1), 1))
        return context.get_dummy_value()

    return types.void(), codegen
