"""Calls of compiled functions by name and by address: small specialised loops under one large driver that is compiled once.

A driver that closes over an activation or a cell is compiled again for each of them, ten seconds at a time. Here the driver takes the *address*
of a compiled pointwise loop as an ordinary integer; machine code with integers for arguments can be cached, and a call per vector costs two
nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin

WORD = ir.IntType(64)


def caller(*arguments: types.Type, returns: types.Type = types.void) -> Any:
    """A function ``call(address, (…))`` for compiled code, which calls the C function at ``address``.

    Parameters
    ----------
    *arguments
        Numba types of the C function's arguments. Where a type is ``voidptr``, the call takes an array, whose address is passed, or an
        integer (``array.ctypes.data``).
    returns
        Of what it returns.
    """

    @intrinsic
    def call(typingctx, address, values):
        def codegen(context, builder, signature, args):
            llvm_types = [context.get_value_type(wanted) for wanted in arguments]
            function_type = ir.FunctionType(ir.VoidType() if returns == types.void else context.get_value_type(returns), llvm_types)
            function = builder.inttoptr(args[0], function_type.as_pointer())
            passed = []
            for position, (wanted, given) in enumerate(zip(arguments, signature.args[1].types, strict=True)):
                value = builder.extract_value(args[1], position)
                if isinstance(given, types.Array):
                    passed.append(builder.bitcast(array_data(context, builder, given, value), llvm_types[position]))
                elif wanted == types.voidptr:
                    passed.append(builder.inttoptr(value, llvm_types[position]))
                else:
                    passed.append(context.cast(builder, value, given, wanted))
            value = builder.call(function, passed)
            return context.get_dummy_value() if returns == types.void else value

        return returns(types.int64, values), codegen

    return call


def array_data(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    """The address of an array's first number, while code is generated."""
    return context.make_array(array_type)(context, builder, array).data


def call_symbol(context: Any, builder: Any, symbol: str, values: list[Any], returns: Any = types.void) -> Any:
    """Generate the call of a C function by name; ``values`` have the C types already."""
    returned = ir.VoidType() if returns == types.void else context.get_value_type(returns)
    function_type = ir.FunctionType(returned, [value.type for value in values])
    value = builder.call(cgutils.get_or_insert_function(builder.module, function_type, symbol), values)
    return context.get_dummy_value() if returns == types.void else value


def call_address(context: Any, builder: Any, address: Any, values: list[Any]) -> Any:
    """Generate the call of a C function returning nothing, by address; ``values`` have the C types already."""
    function_type = ir.FunctionType(ir.VoidType(), [value.type for value in values])
    builder.call(builder.inttoptr(address, function_type.as_pointer()), values)
    return context.get_dummy_value()


# --- functions of contiguous arrays, compiled once per precision, not once per caller --------------------------------------------------

NAMES = {types.float32: "float32", types.float64: "float64"}


class Shared(NamedTuple):
    """A function that compiled code reaches by symbol.

    symbol : its name without the precision.  entry : the C function to compile.  dimensions : of each leading array argument, all of one
    precision; in C, each is a pointer and its extents.  others : types of the other arguments, contiguous arrays among them passed in the same way.
    returns : type, or None for the precision's.
    """

    symbol: str
    entry: Callable[..., Any]
    dimensions: tuple[int, ...]
    others: tuple[Any, ...]
    returns: Any

    def c_signature(self, number: Any) -> Any:
        """The entry's signature in one precision."""
        arrays = [kind for n in self.dimensions for kind in _in_c(types.Array(number, n, "C"))]
        others = [kind for other in self.others for kind in _in_c(other)]
        return (number if self.returns is None else self.returns)(*arrays, *others)


SHARED: list[Shared] = []


def _in_c(kind: Any) -> tuple[Any, ...]:
    """The C arguments that stand for one of Numba's: of an array, its pointer and extents."""
    return (types.CPointer(kind.dtype), *[types.int64] * kind.ndim) if isinstance(kind, types.Array) else (kind,)


def by_symbol(function: Any, shared: Shared) -> None:
    """Let compiled code call ``function`` as ``shared``, which must be compiled in the precision of its arrays before such code runs."""
    SHARED.append(shared)
    n_arrays = len(shared.dimensions)

    class Typing(AbstractTemplate):  # type: ignore[misc]
        key = function

        def generic(self, args: Any, kws: Any) -> Any:
            arrays = args[:n_arrays]
            fit = all(isinstance(a, types.Array) and a.layout == "C" and a.dtype == args[0].dtype for a in arrays)
            if not fit or tuple(a.ndim for a in arrays) != shared.dimensions or args[0].dtype not in NAMES:
                return None
            returns = args[0].dtype if shared.returns is None else shared.returns
            return returns(*arrays, *shared.others)

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = []
        for kind, value in zip(signature.args, args, strict=True):
            if isinstance(kind, types.Array):
                view = context.make_array(kind)(context, builder, value)
                values += [view.data, *cgutils.unpack_tuple(builder, view.shape, kind.ndim)]
            else:
                values.append(value)
        symbol = f"fastgrad_{shared.symbol}_{NAMES[signature.args[0].dtype]}"
        return call_symbol(context, builder, symbol, values, signature.return_type)

    infer_global(function, types.Function(Typing))
    lower_builtin(function, *[types.Array] * n_arrays, *[types.Any] * len(shared.others))(lower)
