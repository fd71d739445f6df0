"""Gated recurrent unit (Cho et al. 2014) in PyTorch's and cuDNN's form: the reset gate acts after the product, order of gates r z n.

    r, z = sigmoid(pre_r), sigmoid(pre_z);  n = tanh(pre_nx + r pre_nh);  h' = (1 - z) n + z h

``pre_nh`` is the recurrent part of the candidate (W_hn h + b_hn), ``pre_nx`` its input part (W_in x + b_in).
"""

from __future__ import annotations

from fastgrad.cells.contract import Cell
from fastgrad.elementary import sigmoid_pair, tanh_pair
from fastgrad.jit import formula


@formula
def gru_forward(pre, state):
    """pre (r, z, nh, nx), state (h,) -> (h',), the five local derivatives."""
    r, r_rest = sigmoid_pair(pre[0])
    z, z_rest = sigmoid_pair(pre[1])
    n, n_slope = tanh_pair(pre[3] + r * pre[2])
    h = state[0]
    local = (
        (h - n) * (z * z_rest),  # dh'/dpre_z
        z_rest * n_slope,  # dh'/dpre_nx
        pre[2] * (r * r_rest),  # d(pre_nx + r pre_nh)/dpre_r
        r,  # d(pre_nx + r pre_nh)/dpre_nh
        z,  # dh'/dh directly
    )
    return (z_rest * n + z * h,), local


@formula
def gru_backward(gradient, local):
    """(dh',) -> (d pre_r, d pre_z, d pre_nh, d pre_nx), (dh directly,), (dh',)."""
    dh = gradient[0]
    dn = dh * local[1]
    return (dn * local[2], dh * local[0], dn * local[3], dn), (dh * local[4],), (dh,)


GRU_CELL = Cell("gru", gru_forward, gru_backward, 1, 4, 5, (0, 1, 2), (0, 1, 3))
