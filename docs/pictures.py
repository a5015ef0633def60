"""The pictures of docs/cross-entropy.md that no training draws, on a white ground, told apart without colour."""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from docs.cross_entropy import slopes

MARKED = {0.99: (-80, 18), 0.5: (8, 8), 0.1: (8, 8), 0.01: (8, 8)}  # and where the label stands, in points from there


def surprise() -> Figure:
    """The surprise over the probability of what came."""
    figure, axes, p = _over_p("surprise, -log p")
    axes.plot(p, -p.log(), color="black")
    for at, offset in MARKED.items():
        value = -torch.tensor(at).log().item()
        axes.plot(at, value, "ko")
        axes.annotate(f"p = {at:g}: {value:.2f}", (at, value), offset, textcoords="offset points")
    axes.set_ylim(-0.2, 6)
    return figure


def derivatives() -> Figure:
    """How much the logit of what came is told to grow, of two classes, by cross entropy and by the squared error."""
    figure, axes, p = _over_p("how much its logit is told to grow")
    for label, slope, style in zip(("cross entropy", "half the squared error"), slopes(p), ("-", "--")):
        axes.plot(p, slope.abs(), style, label=label)
    axes.legend()
    return figure


def _over_p(what: str) -> tuple[Figure, Axes, Tensor]:
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="p, given to the true class", ylabel=what)
    axes.grid(alpha=0.3)
    return figure, axes, torch.linspace(0.002, 0.998, 499, dtype=torch.float64)


PICTURES = {"surprise.png": surprise, "slopes.png": derivatives}
DPI = 120
