"""What holds for every test: examples of hypothesis are the same in every run, and no clock decides."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("fastgrad", deadline=None, derandomize=True)
settings.load_profile("fastgrad")
