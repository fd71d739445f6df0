"""Calls through function pointers: small specialised loops under one large driver that is compiled once.

A driver that closes over an activation or a cell is compiled again for each of them, ten seconds at a time. Here the driver takes the *address*
of a compiled pointwise loop as an ordinary integer; machine code with integers for arguments can be cached, and a call per vector costs two
nanoseconds.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def caller(*arguments: types.Type) -> Any:
    """A function ``call(address, (…))`` for compiled code, which calls a C function returning nothing at ``address``.

    Parameters
    ----------
    *arguments
        Numba types of the C function's arguments. Where a type is ``voidptr``, the call takes an integer (``array.ctypes.data``).
    """

    @intrinsic
    def call(typingctx, address, values):
        def codegen(context, builder, signature, args):
            llvm_types = [context.get_value_type(wanted) for wanted in arguments]
            function_type = ir.FunctionType(ir.VoidType(), llvm_types)
            function = builder.inttoptr(args[0], function_type.as_pointer())
            passed = []
            for position, (wanted, given) in enumerate(zip(arguments, signature.args[1].types, strict=True)):
                value = builder.extract_value(args[1], position)
                if wanted == types.voidptr:
                    passed.append(builder.inttoptr(value, llvm_types[position]))
                else:
                    passed.append(context.cast(builder, value, given, wanted))
            builder.call(function, passed)
            return context.get_dummy_value()

        return types.void(types.int64, values), codegen

    return call
