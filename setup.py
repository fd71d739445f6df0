"""Build of the optional C extension; everything else about the package stands in pyproject.toml."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

WITHOUT_C = os.environ.get("FASTGRAD_NO_C", "0") not in {"", "0"}

# One wheel serves every CPython from 3.11 on. That takes three settings which must agree: the macro,
# `py_limited_api` of the extension (name of the file) and of bdist_wheel (tag of the wheel).
LIMITED_API = ("Py_LIMITED_API", "0x030B0000")
WHEEL_TAG = "cp311"

# No -march: csrc/ chooses the instruction set when it is loaded. No contraction: fused multiply-adds are
# written by name there.
FLAGS = ["-O3", "-std=gnu11", "-ffp-contract=off", "-fvisibility=hidden", "-g0"]
if sys.platform == "win32":
    FLAGS = ["/O2"]

# Where the assembler knows it. Intel's Skylake family decodes anew, each time, the 32 bytes in which a jump crosses or touches their end (erratum
# SKX102): whether a hot loop has one is chance, and cost the normals a fifth of their speed.
WHERE_UNDERSTOOD = ["-Wa,-mbranches-within-32B-boundaries"] if platform.machine() == "x86_64" else []

HEADERS = ["products.h", "steps.h", "panels.h", "tanh.h", "vectors.h", "wide.h"]
PARTS = [
    "both_formats.inc", "lanes.inc", "transposed.inc", "steps.inc", "transpose.inc", "dot.inc", "outer.inc", "terms.inc", "sums.inc", "tanh.inc",
    "panels.inc",
]


class OptionalBuild(build_ext):
    """Builds the extension if it can, and says what follows if it cannot."""

    def understands(self, flag: str) -> bool:
        """Whether compiler and assembler take a flag."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "nothing.c")
            source.write_text("int nothing(int x) { return x; }\n")
            try:
                self.compiler.compile([str(source)], output_dir=folder, extra_postargs=["-Werror", flag])
            except Exception:
                return False
        return True

    def build_extension(self, ext: Extension) -> None:
        if sys.platform != "win32":
            ext.extra_compile_args = FLAGS + [flag for flag in WHERE_UNDERSTOOD if self.understands(flag)]
        try:
            super().build_extension(ext)
        except Exception as error:
            print(
                f"fastgrad: the C extension was not built ({error}); the install goes on without it, and\n"
                "fastgrad: the same products run in Numba, somewhat slower on small networks. To have it,\n"
                "fastgrad: install a C compiler (Debian: apt-get install gcc) and install fastgrad again.",
                file=sys.stderr,
            )
            raise   # setuptools goes on without an extension marked optional


def extensions() -> list[Extension]:
    if WITHOUT_C:
        print("fastgrad: FASTGRAD_NO_C is set, so the C extension is not built", file=sys.stderr)
        return []
    return [
        Extension(
            "fastgrad._native",
            sources=["csrc/module.c", "csrc/products.c", "csrc/normals.c", "csrc/uniforms.c", "csrc/tanh.c", "csrc/tanh_sums.c"],
            depends=[f"csrc/{name}" for name in HEADERS + PARTS],
            define_macros=[LIMITED_API],
            extra_compile_args=FLAGS,
            py_limited_api=True,
            optional=True,
        )
    ]


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": OptionalBuild},
    options={} if WITHOUT_C else {"bdist_wheel": {"py_limited_api": WHEEL_TAG}},
)
