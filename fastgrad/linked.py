"""How Numba compiles what kernels call: type-checked and turned into LLVM's form once, optimised only inside the kernel.

Numba treats each function that a compiled function calls as a program of its own: it optimises it, writes machine code for it that nobody calls, and
optimises it again in every caller, level by level. In kernels of a hundred small functions that is most of the time a user waits. `Linked`, a
compiler pipeline for Numba's ``pipeline_class``, hands each function to its callers as it is, so that LLVM sees all of a kernel once.
"""

from __future__ import annotations

from typing import Any

from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering, NopythonRewrites
from numba.core.untyped_passes import InlineClosureLikes

__all__ = ["Linked"]

# For functions within functions and for whole-array arithmetic; our functions are loops over numbers, and these take a fifteenth of the time.
_NOT_NEEDED = (InlineClosureLikes, NopythonRewrites)


class _LinkedLibrary(JITCodeLibrary):  # type: ignore[misc]
    """A function in LLVM's form, with those that it calls, to be linked into a kernel; it has no machine code of its own."""

    def add_llvm_module(self, ll_module: Any) -> None:
        self._optimize_functions(ll_module)  # cheap, and shrinks what is linked many times
        self._final_module.link_in(ll_module)

    def finalize(self) -> None:
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _LinkedLowering(NativeLowering):  # type: ignore[misc]
    """Numba's last step, into a `_LinkedLibrary` and without machine code."""

    _name = "fastgrad_linked_lowering"

    def run_pass(self, state: Any) -> bool:
        library = state.library = _LinkedLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags = state.flags.copy()
        state.flags.no_compile = True
        super().run_pass(state)
        function = state.cr.fndesc
        # What Numba knows the function by when it is called; like every overload's it has no entry from Python (address 0).
        handle = _dynfunc.make_function(function.lookup_module(), function.qualname.split(".")[-1], "", 0, state.cr.env, (library,))
        state.targetctx.insert_user_function(handle, function, [library])
        state.reload_init.extend(library._reload_init)
        state.cr = state.cr._replace(cfunc=handle)
        return True


class Linked(CompilerBase):  # type: ignore[misc]
    """Numba's usual pipeline without `_NOT_NEEDED`, and with the last step replaced."""

    def define_pipelines(self) -> list[Any]:
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state, "fastgrad_linked")
        steps = [(step, text) for step, text in pipeline.passes if step not in _NOT_NEEDED]
        pipeline.passes = [(_LinkedLowering if step is NativeLowering else step, text) for step, text in steps]
        pipeline.finalize()
        return [pipeline]
