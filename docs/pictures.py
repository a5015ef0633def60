"""The pictures of docs/cross-entropy.md that no training draws, on a white ground, told apart without colour."""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

LABELS = {0.99: (-80, 18), 0.5: (8, 8), 0.1: (8, 8), 0.01: (8, 8)}  # and their offsets from the point, in points
P = torch.linspace(0.002, 0.998, 499, dtype=torch.float64)


def surprise() -> Figure:
    """The surprise over the probability of the true class."""
    figure, axes = over_p("surprise, -log p")
    axes.plot(P, -P.log(), color="black")
    for p, offset in LABELS.items():
        value = -torch.tensor(p).log().item()
        axes.plot(p, value, "ko")
        axes.annotate(f"p = {p:g}: {value:.2f}", (p, value), offset, textcoords="offset points")
    axes.set_ylim(-0.2, 6)
    return figure


def derivatives() -> Figure:
    """How much the logit of the true class, of two, is told to grow, by cross entropy and by the squared error."""
    figure, axes = over_p("how much its logit is told to grow")
    axes.plot(P, 1 - P, "-", label="cross entropy")
    axes.plot(P, 2 * P * (1 - P) ** 2, "--", label="half the squared error")
    axes.legend()
    return figure


def over_p(quantity: str) -> tuple[Figure, Axes]:
    """An empty picture of a quantity over the probability of the true class."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="p, given to the true class", ylabel=quantity)
    axes.grid(alpha=0.3)
    return figure, axes


PICTURES = {"surprise.png": surprise, "slopes.png": derivatives}
DPI = 120
