"""The slow, obvious reference: every formula in NumPy from its definition, nothing imported from fastgrad.

Letters: B batch, T steps, L layers (a depth), n a width, H units of a recurrent layer, G gates.
`dtype=np.longdouble` (x86: 64-bit mantissa, 10^+-4932) is for values that float64 cannot hold.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from scipy import special

# -------------------------------------------------
# Activations: PyTorch's definitions and its choices at the kinks:
# relu'(0) = 0, leaky_relu'(0) = 0.01, elu'(0) = 1.
# -------------------------------------------------

SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946
LEAKY_SLOPE = 0.01


def _sigmoid(x):
    # 1/(1 + e^-x), with the exponent always negative so that nothing overflows
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _sigmoid_slope(x):
    e = np.exp(-np.abs(x))
    return e / (1 + e) ** 2


def _tanh_slope(x):
    # sech^2 = 4 e^(-2|x|) / (1 + e^(-2|x|))^2: no difference of nearly equal numbers
    e = np.exp(-2 * np.abs(x))
    return 4 * e / (1 + e) ** 2


def _gauss_cdf(x):
    return special.ndtr(np.asarray(x, np.float64))


def _gauss_density(x):
    return np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def _elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _elu_slope(x):
    return np.where(x > 0, 1.0, np.exp(np.minimum(x, 0)))


# name: (value(x), slope(x))
ACTIVATIONS = {
    "linear": (lambda x: x, lambda x: np.ones_like(x)),
    "tanh": (np.tanh, _tanh_slope),
    "sigmoid": (_sigmoid, _sigmoid_slope),
    "relu": (lambda x: np.where(x > 0, x, 0.0), lambda x: np.where(x > 0, 1.0, 0.0)),
    "leaky_relu": (
        lambda x: np.where(x > 0, x, LEAKY_SLOPE * x),
        lambda x: np.where(x > 0, 1.0, LEAKY_SLOPE),
    ),
    "elu": (_elu, _elu_slope),
    "selu": (
        lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0))),
        lambda x: SELU_SCALE * np.where(x > 0, 1.0, SELU_ALPHA * np.exp(np.minimum(x, 0))),
    ),
    "gelu": (lambda x: x * _gauss_cdf(x), lambda x: _gauss_cdf(x) + x * _gauss_density(x)),
    "silu": (lambda x: x * _sigmoid(x), lambda x: _sigmoid(x) + x * _sigmoid_slope(x)),
    "softplus": (lambda x: np.logaddexp(0, x), _sigmoid),
    "erf": (lambda x: special.erf(np.asarray(x, np.float64)), lambda x: 2 / np.sqrt(np.pi) * np.exp(-x * x)),
    "sin": (np.sin, np.cos),
}


# -------------------------------------------------
# Logarithms of norms
# -------------------------------------------------


def log_norm(a) -> float:
    """ln of the Frobenius norm; -inf for exact zero; nothing over- or underflows on the way."""
    a = np.abs(np.asarray(a))
    largest = a.max()
    if largest == 0:
        return -np.inf
    return float(np.log(largest) + np.log(np.sum((a / largest) ** 2)) / 2)


def log_max(a) -> float:
    """ln of the largest magnitude; -inf for exact zero."""
    largest = np.max(np.abs(a))
    return -np.inf if largest == 0 else float(np.log(largest))


# -------------------------------------------------
# MLP: h_l = W_l x_{l-1} + b_l, x_l = phi(h_l), l = 1..L, loss = <v, x_L>
# -------------------------------------------------


def mlp(weights, biases, inputs, v, activation="tanh", output_activation=None, dtype=np.float64):
    """Forward and backward of one network for one batch.

    weights: L arrays (n_l, n_{l-1}); biases: L arrays (n_l,) or None; inputs: (B, n_0); v: (B, n_L).
    Returns x, gradient (L + 1 arrays (B, n_l)), weight_gradient, bias_gradient (L arrays).
    """
    depth, batch = len(weights), len(inputs)
    weights = [np.asarray(w, dtype) for w in weights]
    names = [activation] * depth
    if output_activation is not None:
        names[-1] = output_activation

    x, h = [np.asarray(inputs, dtype)], []
    for layer in range(depth):
        w = weights[layer]
        b = np.zeros(len(w), dtype) if biases is None else np.asarray(biases[layer], dtype)
        value, _ = ACTIVATIONS[names[layer]]
        h.append(np.array([w @ x[layer][k] + b for k in range(batch)]))
        x.append(np.asarray(value(h[layer]), dtype))

    gradient = [None] * (depth + 1)
    weight_gradient, bias_gradient = [None] * depth, [None] * depth
    gradient[depth] = np.asarray(v, dtype)  # forward: loss = sum(v * x[depth])
    for layer in reversed(range(depth)):
        _, slope = ACTIVATIONS[names[layer]]
        delta = gradient[layer + 1] * slope(h[layer])  # forward: x[layer + 1] = value(h[layer])
        # forward: h[layer][k] = w @ x[layer][k] + b
        weight_gradient[layer] = sum(np.outer(delta[k], x[layer][k]) for k in range(batch))
        bias_gradient[layer] = sum(delta[k] for k in range(batch))
        gradient[layer] = np.array([weights[layer].T @ delta[k] for k in range(batch)])
    return SimpleNamespace(
        x=x, gradient=gradient, weight_gradient=weight_gradient, bias_gradient=bias_gradient, h=h
    )


def mlp_logs(run) -> dict[str, np.ndarray]:
    """The dataset's variables of one realization, each (L + 1,); NaN where there are no weights."""
    nan = [np.nan]
    return {
        "gradient_log_norm": np.array([log_norm(g) for g in run.gradient]),
        "gradient_log_max": np.array([log_max(g) for g in run.gradient]),
        "activation_log_norm": np.array([log_norm(x) for x in run.x]),
        "weight_gradient_log_norm": np.array(nan + [log_norm(g) for g in run.weight_gradient]),
        "bias_gradient_log_norm": np.array(nan + [log_norm(g) for g in run.bias_gradient]),
    }


# -------------------------------------------------
# Recurrent cells, one sample, one step. Pre-activations: a = W_ih x + b_ih, r = W_hh h + b_hh, gates stacked.
# Each *_backward returns d_a, d_r, d_h, d_c: the last two without the part that goes through r.
# -------------------------------------------------


def rnn_forward(a, r, h, c, activation):
    value, _ = ACTIVATIONS[activation]
    return value(a + r), None


def rnn_backward(a, r, h, c, d_h_new, d_c_new, activation):
    _, slope = ACTIVATIONS[activation]
    d = d_h_new * slope(a + r)  # forward: h_new = value(a + r)
    return d, d, np.zeros_like(h), None


def lstm_gates(a, r):
    p_i, p_f, p_g, p_o = np.split(a + r, 4)  # PyTorch's order: input, forget, cell, output
    return p_i, p_f, p_g, p_o


def lstm_forward(a, r, h, c, activation):
    p_i, p_f, p_g, p_o = lstm_gates(a, r)
    c_new = _sigmoid(p_f) * c + _sigmoid(p_i) * np.tanh(p_g)
    h_new = _sigmoid(p_o) * np.tanh(c_new)
    return h_new, c_new


def lstm_backward(a, r, h, c, d_h_new, d_c_new, activation):
    """d_c_new: the total derivative of the loss to c_new, its way through h_new included."""
    p_i, p_f, p_g, p_o = lstm_gates(a, r)
    c_new = _sigmoid(p_f) * c + _sigmoid(p_i) * np.tanh(p_g)
    # forward: h_new = sigmoid(p_o) * tanh(c_new)
    d_o = d_h_new * np.tanh(c_new) * _sigmoid_slope(p_o)
    # forward: c_new = sigmoid(p_f) * c + sigmoid(p_i) * tanh(p_g)
    d_f = d_c_new * c * _sigmoid_slope(p_f)
    d_i = d_c_new * np.tanh(p_g) * _sigmoid_slope(p_i)
    d_g = d_c_new * _sigmoid(p_i) * _tanh_slope(p_g)
    d_c = d_c_new * _sigmoid(p_f)
    d = np.concatenate([d_i, d_f, d_g, d_o])
    return d, d, np.zeros_like(h), d_c


def gru_forward(a, r, h, c, activation):
    (a_r, a_z, a_n), (r_r, r_z, r_n) = np.split(a, 3), np.split(r, 3)  # PyTorch's order: reset, update, new
    reset, update = _sigmoid(a_r + r_r), _sigmoid(a_z + r_z)
    new = np.tanh(a_n + reset * r_n)  # the reset acts after the product, on W_hn h + b_hn
    return (1 - update) * new + update * h, None


def gru_backward(a, r, h, c, d_h_new, d_c_new, activation):
    (a_r, a_z, a_n), (r_r, r_z, r_n) = np.split(a, 3), np.split(r, 3)
    reset, update = _sigmoid(a_r + r_r), _sigmoid(a_z + r_z)
    new = np.tanh(a_n + reset * r_n)
    # forward: h_new = (1 - update) * new + update * h
    d_new = d_h_new * (1 - update)
    d_update = d_h_new * (h - new)
    d_h = d_h_new * update
    # forward: new = tanh(a_n + reset * r_n)
    d_pre_n = d_new * _tanh_slope(a_n + reset * r_n)
    d_reset = d_pre_n * r_n
    # forward: reset = sigmoid(a_r + r_r), update = sigmoid(a_z + r_z)
    d_pre_r = d_reset * _sigmoid_slope(a_r + r_r)
    d_pre_z = d_update * _sigmoid_slope(a_z + r_z)
    d_a = np.concatenate([d_pre_r, d_pre_z, d_pre_n])
    d_r = np.concatenate([d_pre_r, d_pre_z, d_pre_n * reset])
    return d_a, d_r, d_h, None


CELLS = {
    "rnn": (rnn_forward, rnn_backward),
    "lstm": (lstm_forward, lstm_backward),
    "gru": (gru_forward, gru_backward),
}


def recurrent(kind, state, inputs, v, activation="tanh", dtype=np.float64):
    """Forward and backward through time of one network (stacked when the state dict has _l1, _l2, ..).

    state: PyTorch's names to arrays, biases may be absent; inputs: (T, B, n_in); v: (B, H).
    The loss is <v, h_T> of the top layer. Returns h, gradient_h (and c, gradient_c for LSTM), all
    (layers, T + 1, B, H); step_gradient: name to (T, ...), the contribution of each step;
    gradient: name to the sum over steps.
    """
    cell_forward, cell_backward = CELLS[kind]
    layers = sum(name.startswith("weight_hh") for name in state)
    steps, batch, _ = inputs.shape
    units = state["weight_hh_l0"].shape[1]

    def parameter(name, like):
        return np.asarray(state[name], dtype) if name in state else np.zeros(len(like), dtype)

    w_ih = [np.asarray(state[f"weight_ih_l{k}"], dtype) for k in range(layers)]
    w_hh = [np.asarray(state[f"weight_hh_l{k}"], dtype) for k in range(layers)]
    b_ih = [parameter(f"bias_ih_l{k}", w_ih[k]) for k in range(layers)]
    b_hh = [parameter(f"bias_hh_l{k}", w_hh[k]) for k in range(layers)]

    h = np.zeros((layers, steps + 1, batch, units), dtype)
    c = np.zeros_like(h)
    below = [np.asarray(inputs, dtype)]  # below[k][t - 1]: what layer k reads at step t
    for k in range(layers):
        for t in range(1, steps + 1):
            for b in range(batch):
                a = w_ih[k] @ below[k][t - 1][b] + b_ih[k]
                r = w_hh[k] @ h[k, t - 1, b] + b_hh[k]
                h[k, t, b], c_new = cell_forward(a, r, h[k, t - 1, b], c[k, t - 1, b], activation)
                if c_new is not None:
                    c[k, t, b] = c_new
        below.append(h[k, 1:])

    gradient_h, gradient_c = np.zeros_like(h), np.zeros_like(c)
    gradient_inputs = np.zeros(inputs.shape, dtype)
    step_gradient = {}
    gradient_h[layers - 1, steps] = v  # forward: loss = sum(v * h[top, T])
    for k in reversed(range(layers)):
        gw_ih, gw_hh = np.zeros((steps, *w_ih[k].shape), dtype), np.zeros((steps, *w_hh[k].shape), dtype)
        gb_ih, gb_hh = np.zeros((steps, *b_ih[k].shape), dtype), np.zeros((steps, *b_hh[k].shape), dtype)
        for t in range(steps, 0, -1):
            for b in range(batch):
                x, h_old, c_old = below[k][t - 1][b], h[k, t - 1, b], c[k, t - 1, b]
                a, r = w_ih[k] @ x + b_ih[k], w_hh[k] @ h_old + b_hh[k]
                if kind == "lstm":
                    # forward: h_new = sigmoid(p_o) * tanh(c_new)
                    p_o = lstm_gates(a, r)[3]
                    gradient_c[k, t, b] += gradient_h[k, t, b] * _sigmoid(p_o) * _tanh_slope(c[k, t, b])
                d_a, d_r, d_h, d_c = cell_backward(
                    a, r, h_old, c_old, gradient_h[k, t, b], gradient_c[k, t, b], activation
                )
                # forward: r = w_hh h_old + b_hh
                gw_hh[t - 1] += np.outer(d_r, h_old)
                gb_hh[t - 1] += d_r
                gradient_h[k, t - 1, b] += w_hh[k].T @ d_r + d_h
                if kind == "lstm":
                    gradient_c[k, t - 1, b] += d_c
                # forward: a = w_ih x + b_ih, x = h of the layer below at step t
                gw_ih[t - 1] += np.outer(d_a, x)
                gb_ih[t - 1] += d_a
                if k > 0:
                    gradient_h[k - 1, t, b] += w_ih[k].T @ d_a
                else:
                    gradient_inputs[t - 1, b] = w_ih[k].T @ d_a
        step_gradient |= {
            f"weight_ih_l{k}": gw_ih, f"weight_hh_l{k}": gw_hh, f"bias_ih_l{k}": gb_ih, f"bias_hh_l{k}": gb_hh
        }  # fmt: skip
    run = SimpleNamespace(
        kind=kind, h=h, gradient_h=gradient_h, gradient_inputs=gradient_inputs, step_gradient=step_gradient
    )
    run.gradient = {name: contributions.sum(axis=0) for name, contributions in step_gradient.items()}
    if kind == "lstm":
        run.c, run.gradient_c = c, gradient_c
    return run


RECURRENT_VARIABLES = {
    "weight_gradient": "weight_hh",
    "input_weight_gradient": "weight_ih",
    "bias_gradient": "bias_hh",
    "input_bias_gradient": "bias_ih",
}


def recurrent_logs(run) -> dict[str, np.ndarray]:
    """The dataset's variables of one realization: (layers, T + 1) and, for totals, (layers,)."""
    layers, points = run.h.shape[:2]

    def per_step(f, a):
        return np.array([[f(a[k, t]) for t in range(points)] for k in range(layers)])

    logs = {
        "gradient_log_norm": per_step(log_norm, run.gradient_h),
        "gradient_log_max": per_step(log_max, run.gradient_h),
        "activation_log_norm": per_step(log_norm, run.h),
    }
    if run.kind == "lstm":
        logs["cell_gradient_log_norm"] = per_step(log_norm, run.gradient_c)
    for variable, name in RECURRENT_VARIABLES.items():
        logs[f"{variable}_log_norm"] = np.array(
            [[np.nan] + [log_norm(g) for g in run.step_gradient[f"{name}_l{k}"]] for k in range(layers)]
        )
        logs[f"{variable}_total_log_norm"] = np.array(
            [log_norm(run.gradient[f"{name}_l{k}"]) for k in range(layers)]
        )
    return logs


# -------------------------------------------------
# Philox4x32-10 in Python integers (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3;
# SC 2011)
# -------------------------------------------------

PHILOX_M0, PHILOX_M1 = 0xD2511F53, 0xCD9E8D57
PHILOX_W0, PHILOX_W1 = 0x9E3779B9, 0xBB67AE85
MASK32 = 0xFFFFFFFF

# Random123, examples/kat_vectors, "philox4x32 10": (counter, key, result)
PHILOX_KNOWN_ANSWERS = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def philox4x32(counter, key, rounds=10):
    """Four 32-bit words from a counter of four words and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        product0, product1 = PHILOX_M0 * c0, PHILOX_M1 * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & MASK32,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & MASK32,
        )
        k0, k1 = (k0 + PHILOX_W0) & MASK32, (k1 + PHILOX_W1) & MASK32
    return c0, c1, c2, c3
