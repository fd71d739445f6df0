"""Draws docs/growth.png, the figure of the README, from what the engine measures here."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

import fastgrad as fg
from fastgrad.demo import BIAS_STD, CRITICAL_GAIN
from fastgrad.mean_field import mean_field_tanh
from fastgrad.plots import style

OUT = Path(__file__).with_name("growth.png")


def draw_layers(ax):
    """1,000 tanh layers of width 256 around the critical gain, with the slopes of mean-field theory."""
    for factor in (1.1, 1.0, 0.9):
        gain = factor * CRITICAL_GAIN
        network = fg.MLP(depth=1000, width=256, activation="tanh", weights=fg.Normal(gain), bias_std=BIAS_STD)
        ds = fg.measure(network, realizations=20, rng=0, record=["gradient_log_norm"])
        slope = mean_field_tanh(gain, BIAS_STD).rate
        fg.plot_growth(ds, ax=ax, label=f"gain {gain:.2f}", theory=slope)
    ax.set_ylim(-36, 18)  # room for the legend
    ax.set_title("tanh MLP, 1,000 layers × 256, around the critical gain")


def draw_steps(ax):
    """1,000 steps of recurrent networks of width 64 as PyTorch initialises them."""
    networks = {
        "LSTM, forget bias 1": fg.LSTM(steps=1000, width=64, forget_bias=1),
        "LSTM": fg.LSTM(steps=1000, width=64),
        "GRU": fg.GRU(steps=1000, width=64),
        "RNN": fg.RNN(steps=1000, width=64),
    }
    for name, network in networks.items():
        ds = fg.measure(network, realizations=40, rng=0, record=["gradient_log_norm"])
        fg.plot_growth(ds, ax=ax, label=name)
    ax.set_title("Recurrent, 1,000 steps × 64, PyTorch's defaults")


with style():
    figure = Figure(figsize=(9.6, 4.2))
    left, right = figure.subplots(1, 2)
    draw_layers(left)
    draw_steps(right)
    figure.savefig(OUT, dpi=110)
