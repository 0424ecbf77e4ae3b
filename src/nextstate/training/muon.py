"""Muon for recurrent cells: every gate's matrix moves by a nearly orthogonal step, all else by Adam."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nextstate.cell import Cell
from nextstate.checks import refuse

MOMENTUM = 0.95
BETAS = (0.9, 0.98)
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients that bring singular values from 0.003 to 1 up to about 1 in five iterations."""


class Muon(Optimizer):
    """A step of the same size in all directions for the matrices of cells, gate by gate.

    Muon : (Module, lr, adam_lr) -> Optimizer

        M <- 0.95 M + G                          G [H, I]: the gradient of one gate's block of a matrix
        X  = orthogonalised(G + 0.95 M)
        W <- W - lr sqrt(max(1, H / I)) X

    It takes `weight_ih` and `weight_hh` of the cells in `module` that name their `gates`; all other
    parameters (biases, tables, read-outs) move by Adam with `adam_lr` and betas (0.9, 0.98). No weight decay.

    `torch.optim.Muon` takes each matrix whole, all gates together, leaves other parameters to a second
    optimiser, and multiplies in bfloat16: twenty to thirty times as long where the processor has none.
    Raises InputError for learning rates that are not above 0 and a module without parameters to train.
    Source: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon); its coefficients.

    >>> from nextstate import GRU
    >>> [(len(group["params"]), group["blocks"]) for group in Muon(GRU(3, 5)).param_groups]
    [(2, 3), (2, 0)]
    """

    def __init__(self, module: nn.Module, lr: float = 0.02, adam_lr: float = 1e-2) -> None:
        if not (0 < lr < math.inf and 0 < adam_lr < math.inf):
            refuse("Muon", f"lr is {lr!r} and adam_lr {adam_lr!r}; expected finite numbers above 0")
        blocks = gate_blocks(module)
        groups: list[dict[str, Any]] = [
            {"params": [p for p, found in blocks.items() if found == count], "lr": lr, "blocks": count}
            for count in sorted(set(blocks.values()))
        ]
        rest = [p for p in module.parameters() if p.requires_grad and p not in blocks]
        if rest:
            groups.append({"params": rest, "lr": adam_lr, "blocks": 0})
        if not groups:
            refuse("Muon", f"{type(module).__name__} has no parameters to train")
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not group["blocks"]:
                for parameter in moving:
                    self._adam(parameter, group["lr"])
                continue
            alike: dict[Any, list[Tensor]] = {}
            for parameter in moving:
                alike.setdefault((parameter.shape, parameter.dtype, parameter.device), []).append(parameter)
            for parameters in alike.values():
                self._orthogonal(parameters, group["lr"], group["blocks"])
        return loss

    def _orthogonal(self, parameters: list[Tensor], lr: float, blocks: int) -> None:
        """Move matrices of one shape, all their blocks in one batch of products."""
        given = []
        for parameter in parameters:
            state, gradient = self.state[parameter], parameter.grad
            assert gradient is not None
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum = state["momentum"].mul_(MOMENTUM).add_(gradient)
            given.append(gradient.add(momentum, alpha=MOMENTUM).unflatten(0, (blocks, -1)))
        moved = orthogonalised(torch.cat(given))
        rows, columns = moved.shape[1:]
        for parameter, step in zip(parameters, moved.split(blocks), strict=True):
            parameter.sub_(step.flatten(0, 1), alpha=lr * max(1.0, rows / columns) ** 0.5)

    def _adam(self, parameter: Tensor, lr: float) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        mean = state["exp_avg"].lerp_(gradient, 1 - BETAS[0])
        square = state["exp_avg_sq"].lerp_(gradient.square(), 1 - BETAS[1])
        count = float(state["step"])
        root = (square / (1 - BETAS[1] ** count)).sqrt_().add_(1e-8)
        parameter.addcdiv_(mean, root, value=-lr / (1 - BETAS[0] ** count))


def gate_blocks(module: nn.Module) -> dict[Tensor, int]:
    """The matrices of the cells in a module, and of how many gates' blocks each is made."""
    found: dict[Tensor, int] = {}
    for cell in module.modules():
        gates = getattr(cell, "gates", ()) if isinstance(cell, Cell) else ()
        for name, parameter in cell.named_parameters(recurse=False) if gates else ():
            if name in ("weight_ih", "weight_hh") and parameter.requires_grad:
                found[parameter] = len(gates)
    return found


def orthogonalised(blocks: Tensor) -> Tensor:
    """Matrices [N, H, I] with the same singular vectors and every singular value brought near 1.

        X = G / |G|;   A = X X';   X <- a X + (b A + c A A) X,   five times

    Values from 0.003 |G| on end between 0.6 and 1.3, smaller ones lower; a matrix of zeros stays zero.

    >>> x = orthogonalised(torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)))
    >>> values = torch.linalg.svdvals(x)
    >>> bool((values > 0.6).all() and (values < 1.3).all())
    True
    """
    a, b, c = QUINTIC
    tall = blocks.shape[1] > blocks.shape[2]
    x = blocks.mT if tall else blocks
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
