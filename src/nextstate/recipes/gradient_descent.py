"""Gradient descent in one variable, and the gradient of a deep composition: the figures of the page on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nextstate.dynamics.plots import save_png

Start = Callable[[list[Tensor]], torch.optim.Optimizer]


def descend(f: Callable[[Tensor], Tensor], start: tuple[float, ...], optimiser: Start, steps: int) -> Tensor:
    """The points [steps + 1, n] that an optimiser of `torch.optim` visits on its way down f.

    descend : (f, x0, [x] -> optimiser) -> [x]

    >>> square = lambda x: 0.5 * x.square().sum()
    >>> descend(square, (8.0,), plain(0.5), 3).flatten().tolist()
    [8.0, 4.0, 2.0, 1.0]
    """
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    descent = optimiser([x])
    points = [x.detach().clone()]
    for _ in range(steps):
        descent.zero_grad()
        f(x).backward()
        descent.step()
        points.append(x.detach().clone())
    return torch.stack(points)


def valley(x: Tensor) -> Tensor:
    """A narrow valley: (x_1^2 + 50 x_2^2) / 2, whose gradient has the Lipschitz constant L = 50."""
    return 0.5 * (x[0] ** 2 + 50 * x[1] ** 2)


def plain(rate: float) -> Start:
    """Plain gradient descent: x <- x - rate f'(x)."""
    return lambda x: torch.optim.SGD(x, lr=rate)


OPTIMISERS: dict[str, Start] = {
    "plain": plain(0.02),
    "momentum 0.9": lambda x: torch.optim.SGD(x, lr=0.02, momentum=0.9),
    "Adam": lambda x: torch.optim.Adam(x, lr=0.3),
}


def chain(depth: int, weight: float, x: float = 0.5) -> tuple[float, float]:
    """The gradient of h_depth, h_k = tanh(w h_{k-1}), h_0 = x: by the chain rule, and by autograd.

    chain : (depth, w, x) -> (product of w (1 - h_k^2), d h_depth / d x)

    >>> by_rule, by_autograd = chain(20, 0.9)
    >>> abs(by_rule - by_autograd) < 1e-15
    True
    """
    start = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    h, product = start, 1.0
    for _ in range(depth):
        h = torch.tanh(weight * h)
        product *= weight * (1 - float(h.detach()) ** 2)
    (gradient,) = torch.autograd.grad(h, start)
    return product, float(gradient)


def figures() -> dict[str, float]:
    """What the page states, computed."""
    found: dict[str, float] = {}
    for name, optimiser in OPTIMISERS.items():
        points = descend(valley, (10.0, 1.0), optimiser, 1000)
        heights = [float(valley(x)) for x in points]
        found[f"{name}: steps to 1e-6"] = next((k for k, y in enumerate(heights) if y < 1e-6), len(heights))
    for rate in (0.039, 0.041):
        points = descend(valley, (10.0, 1.0), plain(rate), 200)
        found[f"plain, rate {rate}: height after 200 steps"] = float(valley(points[-1]))
    for weight in (0.5, 0.9, 1.0, 1.1):
        found[f"gradient through 50 tanh, w = {weight}"] = chain(50, weight)[0]
    return found


def draw(path: Path) -> None:
    """Height over steps for three optimisers, paths in the valley, gradients by depth; a PNG."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(13, 4), layout="constrained")
    heights, paths, depths = figure.subplots(1, 3)
    for name, optimiser in OPTIMISERS.items():
        points = descend(valley, (10.0, 1.0), optimiser, 250)
        heights.plot([max(float(valley(x)), 1e-16) for x in points], label=name)
        paths.plot(points[:60, 0], points[:60, 1], marker=".", markersize=3, label=name)
    for rate in (0.039, 0.041):
        points = descend(valley, (10.0, 1.0), plain(rate), 250)
        heights.plot([float(valley(x)) for x in points], linestyle=":", label=f"plain, rate {rate}")
    heights.set(yscale="log", xlabel="steps", ylabel="height", title="2 / L = 0.04 is where descent ends")
    paths.set(xlabel="x1", ylabel="x2", title="the way down a narrow valley")
    for weight in (0.5, 0.9, 1.0, 1.1):
        depths.plot([chain(k, weight)[0] for k in range(1, 101)], label=f"w = {weight}")
    depths.set(yscale="log", xlabel="depth", ylabel="gradient", title="h <- tanh(w h): product of slopes")
    for axis in (heights, paths, depths):
        axis.legend(fontsize=8)
    save_png(figure, path)
