"""The same runs as tests/naive.py by PyTorch autograd in float64: its own modules, its own derivatives."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


# name: the module that a PyTorch user would write
ACTIVATIONS = {
    "linear": nn.Identity,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "erf": lambda: Function(torch.erf),
    "sin": lambda: Function(torch.sin),
}


def sequential(widths, activation, *, bias=True, output_activation=None, seed=0, gain=1.0):
    """nn.Sequential(Linear, activation, Linear, activation, ..), weights of variance gain^2 / fan_in."""
    torch.manual_seed(seed)
    modules = []
    for layer, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
        linear = nn.Linear(fan_in, fan_out, bias=bias, dtype=torch.float64)
        nn.init.normal_(linear.weight, std=gain / fan_in**0.5)
        if bias:
            nn.init.normal_(linear.bias, std=0.3)
        modules.append(linear)
        if layer < len(widths) - 1 or output_activation is None:
            modules.append(ACTIVATIONS[activation]())
    return nn.Sequential(*modules)


def state_dict(module):
    return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}


def mlp(model, inputs, v):
    """x, gradient (per layer), weight_gradient, bias_gradient of loss = sum(v * model(inputs))."""
    x = torch.tensor(inputs, dtype=torch.float64, requires_grad=True)
    kept, linears = [x], []
    for module in model:
        x = module(x)
        if isinstance(module, nn.Linear):
            linears.append(module)
            kept.append(x)
        else:
            kept[-1] = x  # x_l is what comes after the activation, where there is one
    for value in kept[1:]:
        value.retain_grad()
    model.zero_grad()
    (x * torch.as_tensor(v, dtype=torch.float64)).sum().backward()
    return SimpleNamespace(
        x=[value.detach().numpy() for value in kept],
        gradient=[value.grad.numpy() for value in kept],
        weight_gradient=[linear.weight.grad.numpy() for linear in linears],
        bias_gradient=[linear.bias.grad.numpy() for linear in linears if linear.bias is not None],
    )


def recurrent_module(kind, input_width, units, *, layers=1, bias=True, activation="tanh", seed=0):
    """nn.RNN, nn.LSTM or nn.GRU in float64 as PyTorch initialises it."""
    torch.manual_seed(seed)
    options = {"num_layers": layers, "bias": bias, "dtype": torch.float64}
    if kind == "rnn":
        return nn.RNN(input_width, units, nonlinearity=activation, **options)
    return {"lstm": nn.LSTM, "gru": nn.GRU}[kind](input_width, units, **options)


def _cell(kind, module, k):
    """nn.RNNCell, nn.LSTMCell or nn.GRUCell with no parameters of its own: they are passed at each step."""
    width, bias = module.weight_hh_l0.shape[1], module.bias
    fan_in = getattr(module, f"weight_ih_l{k}").shape[1]
    if kind == "rnn":
        return nn.RNNCell(fan_in, width, bias=bias, nonlinearity=module.nonlinearity, dtype=torch.float64)
    return {"lstm": nn.LSTMCell, "gru": nn.GRUCell}[kind](fan_in, width, bias=bias, dtype=torch.float64)


def recurrent(kind, module, inputs, v):
    """The values of naive.recurrent: states and their gradients from cells, totals from the fused module."""
    x = torch.as_tensor(inputs, dtype=torch.float64)
    v = torch.as_tensor(v, dtype=torch.float64)
    module.zero_grad()
    (module(x)[0][-1] * v).sum().backward()
    gradient = {name: value.grad.numpy().copy() for name, value in module.named_parameters()}

    layers, units = module.num_layers, module.hidden_size
    steps, batch, _ = inputs.shape
    names = ["weight_ih", "weight_hh"] + (["bias_ih", "bias_hh"] if module.bias else [])
    used, h_all, c_all = {}, [], []
    below = list(x)
    for k in range(layers):
        cell = _cell(kind, module, k)
        h = torch.zeros(batch, units, dtype=torch.float64, requires_grad=True)
        c = torch.zeros(batch, units, dtype=torch.float64, requires_grad=True)
        h_all.append([h])
        c_all.append([c])
        for t in range(1, steps + 1):
            parameters = {name: getattr(module, f"{name}_l{k}").detach().clone() for name in names}
            for name, value in parameters.items():
                used[name, k, t] = value.requires_grad_()
            state = (h, c) if kind == "lstm" else h
            state = torch.func.functional_call(cell, parameters, (below[t - 1], state))
            h, c = state if kind == "lstm" else (state, None)
            h_all[k].append(h)
            c_all[k].append(c)
        below = h_all[k][1:]
    kept = [value for line in h_all + (c_all if kind == "lstm" else []) for value in line]
    for value in kept:
        value.retain_grad()
    (h_all[-1][-1] * v).sum().backward()

    def stack(lines, pick):
        return torch.stack([torch.stack([pick(value) for value in line]) for line in lines]).numpy()

    def grad(value):
        return torch.zeros_like(value) if value.grad is None else value.grad

    run = SimpleNamespace(kind=kind, h=stack(h_all, torch.Tensor.detach), gradient_h=stack(h_all, grad))
    run.gradient = gradient
    run.step_gradient = {
        f"{name}_l{k}": torch.stack([used[name, k, t].grad for t in range(1, steps + 1)]).numpy()
        for name in names
        for k in range(layers)
    }
    if kind == "lstm":
        run.c, run.gradient_c = stack(c_all, torch.Tensor.detach), stack(c_all, grad)
    return run
