"""The same measurements by PyTorch and JAX, written as a careful user would write them, for ``versus_peers.py``.

Every function here does one job: norms of the states and of the loss's derivative by them, at every layer or step, for several realizations at
once, gradients rescaled as they go back (float32 does not hold a thousand steps otherwise). Results are natural logarithms, (R, T + 1), entry 0
the input or the initial state, so that answers can be compared entry by entry before anything is timed.
"""
