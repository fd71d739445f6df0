"""Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000), PyTorch's order of gates i f g o.

    i, f, o = sigmoid(pre_i), sigmoid(pre_f), sigmoid(pre_o);  g = tanh(pre_g)
    c' = f c + i g;  h' = o tanh(c')
"""

from __future__ import annotations

from fastgrad.cells.contract import Cell
from fastgrad.elementary import sigmoid_pair, tanh_pair
from fastgrad.jit import formula


@formula
def lstm_forward(pre, state):
    """pre (i, f, g, o), state (h, c) -> (h', c'), the six local derivatives."""
    i, i_rest = sigmoid_pair(pre[0])
    f, f_rest = sigmoid_pair(pre[1])
    g, g_slope = tanh_pair(pre[2])
    o, o_rest = sigmoid_pair(pre[3])
    c = state[1]
    new_c = f * c + i * g
    t, t_slope = tanh_pair(new_c)
    local = (
        o * t_slope,  # dh'/dc'
        t * (o * o_rest),  # dh'/dpre_o
        g * (i * i_rest),  # dc'/dpre_i
        c * (f * f_rest),  # dc'/dpre_f
        i * g_slope,  # dc'/dpre_g
        f,  # dc'/dc
    )
    return (o * t, new_c), local


@formula
def lstm_backward(gradient, local):
    """(dh', dc') -> (d pre_i, d pre_f, d pre_g, d pre_o), (dh directly, dc), (dh', all of dc')."""
    dh, dc = gradient
    dc = dc + dh * local[0]
    d_pre = (dc * local[2], dc * local[3], dc * local[4], dh * local[1])
    return d_pre, (type(dh)(0), dc * local[5]), (dh, dc)


LSTM_CELL = Cell("lstm", lstm_forward, lstm_backward, 2, 4, 6, (0, 1, 2, 3), (0, 1, 2, 3))
