"""A cell's tuples of numbers against rows of arrays.

One function for each length, because Numba builds only tuples whose length stands in the source. States are stored through slots 0 and 1, the
other outputs of a loop through slots 2 to 8: the slots of one loop must differ (``noalias.py``).
"""

from __future__ import annotations

from fastgrad.engine.noalias import load, store
from fastgrad.engine.views import vector_at
from fastgrad.jit import formula


@formula
def _load1(rows, j):
    return (load(rows[0], j),)


@formula
def _load2(rows, j):
    return load(rows[0], j), load(rows[1], j)


@formula
def _load4(rows, j):
    return load(rows[0], j), load(rows[1], j), load(rows[2], j), load(rows[3], j)


@formula
def _load5(rows, j):
    return load(rows[0], j), load(rows[1], j), load(rows[2], j), load(rows[3], j), load(rows[4], j)


@formula
def _load6(rows, j):
    return load(rows[0], j), load(rows[1], j), load(rows[2], j), load(rows[3], j), load(rows[4], j), load(rows[5], j)


@formula
def _store_state1(rows, j, values):
    store(rows[0], j, values[0], 0)


@formula
def _store_state2(rows, j, values):
    store(rows[0], j, values[0], 0)
    store(rows[1], j, values[1], 1)


@formula
def _store1(rows, j, values):
    store(rows[0], j, values[0], 2)


@formula
def _store4(rows, j, values):
    store(rows[0], j, values[0], 2)
    store(rows[1], j, values[1], 3)
    store(rows[2], j, values[2], 4)
    store(rows[3], j, values[3], 5)


@formula
def _store5(rows, j, values):
    _store4(rows, j, values)
    store(rows[4], j, values[4], 6)


@formula
def _store6(rows, j, values):
    _store5(rows, j, values)
    store(rows[5], j, values[5], 7)


@formula
def _store_total1(row, j, values):
    pass  # with one state, its total derivative is the gradient that came in


@formula
def _store_total2(row, j, values):
    store(row, j, values[1], 8)


@formula
def _rows1(flat, n, gap):
    return (vector_at(flat, 0, n),)


@formula
def _rows2(flat, n, gap):
    return vector_at(flat, 0, n), vector_at(flat, gap, n)


LOAD = {1: _load1, 2: _load2, 4: _load4, 5: _load5, 6: _load6}
STORE = {1: _store1, 4: _store4, 5: _store5, 6: _store6}
STORE_STATE = {1: _store_state1, 2: _store_state2}
STORE_TOTAL = {1: _store_total1, 2: _store_total2}
ROWS = {1: _rows1, 2: _rows2}  # a run of numbers, H, distance -> one row per state
