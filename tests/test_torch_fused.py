"""The engine of torch's fused kernels: on the CPU for its meaning, on a GPU where there is one."""

from __future__ import annotations

import pytest
import torch

import nextstate as ns
from nextstate.cells import LSTMState
from nextstate.engines import cudnn
from nextstate.engines.torch_fused import TorchEngine, peer
from nextstate.run import ENGINES, request_for
from nextstate.states import leaves

CELLS = {
    "GRU": lambda: ns.GRU(3, 5),
    "LSTM": lambda: ns.LSTM(3, 5),
    "Elman": lambda: ns.Elman(3, 5),
    "Elman relu": lambda: ns.Elman(3, 5, activation=torch.relu),
}
LENGTHS = [None, torch.tensor([4, 0, 2, 4, 1]), torch.tensor([0, 0, 0, 0, 0])]
DEVICES = ["cpu", "cuda"]


def on(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")


def fused(cell, us, s0=None, lengths=None):
    engine = TorchEngine(("cpu", "cuda"))
    request = request_for("scan", cell, us, s0, lengths)
    refusal = engine.refusal(request)
    assert refusal is None, refusal
    return engine.scan(request)


def plain(cell, us, s0=None, lengths=None):
    return ns.scan(cell, us, s0, lengths=lengths, engine="reference")


def everything(run, cell, device, lengths):
    torch.manual_seed(0)
    us = torch.randn(4, 5, 3, dtype=torch.float64, device=device).requires_grad_()
    start = [torch.randn(5, 5, dtype=torch.float64, device=device).requires_grad_() for _ in range(2)]
    s0 = type(cell.initial_state(1))(*start) if isinstance(cell, ns.LSTM) else start[0]
    lengths = None if lengths is None else lengths.to(device)
    vs, last = run(cell, us, s0, lengths)
    ys = [vs, *leaves(last)]
    inputs = [us, *leaves(s0), *cell.parameters()]
    grads = torch.autograd.grad(sum((y * torch.randn_like(y)).sum() for y in ys), inputs, allow_unused=True)
    zeros = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, grads, strict=True)]
    return [*ys, *zeros]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("lengths", LENGTHS, ids=["full", "ragged", "empty"])
@pytest.mark.parametrize("name", CELLS)
def test_fused_kernels_mean_the_same(name: str, lengths: torch.Tensor | None, device: str) -> None:
    on(device)
    torch.manual_seed(1)
    cell = CELLS[name]().double().to(device)
    for a, b in zip(
        everything(fused, cell, device, lengths), everything(plain, cell, device, lengths), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def second(run, cell, us, s0, lengths):
    """First and second derivatives of two chunks, the state carried: an input depends on others."""
    wanted = [us, *leaves(s0), *dict.fromkeys(cell.parameters())]
    torch.manual_seed(2)
    vs, s = run(cell, us, s0, lengths)
    vs, s = run(cell, vs[:, :, :3] + us, s, lengths)
    total = sum((y * torch.randn_like(y)).sum() for y in (vs.sin(), *leaves(s)))
    first = torch.autograd.grad(total, wanted, create_graph=True)
    return [*first, *torch.autograd.grad(sum((g * torch.randn_like(g)).sum() for g in first), wanted)]


def start(cell, device):
    shape = {"dtype": torch.float64, "device": device, "requires_grad": True}
    parts = [torch.randn(5, 5, **shape) for _ in range(2)]
    return LSTMState(*parts) if isinstance(cell, ns.LSTM) else parts[0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("lengths", LENGTHS[:2], ids=["full", "ragged"])
@pytest.mark.parametrize("name", ["GRU", "LSTM", "Elman"])
def test_gradients_of_gradients_in_eval_mode(name: str, lengths: torch.Tensor | None, device: str) -> None:
    """cuDNN alone has neither."""
    on(device)
    cell = CELLS[name]().double().to(device).eval()
    us = torch.randn(4, 5, 3, dtype=torch.float64, device=device, requires_grad=True)
    s0, lengths = start(cell, device), None if lengths is None else lengths.to(device)
    for a, b in zip(second(fused, cell, us, s0, lengths), second(plain, cell, us, s0, lengths), strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


class WithoutGradients(torch.autograd.Function):
    """Stands in for cuDNN where there is none: its gradients are those that can be differentiated."""

    @staticmethod
    def forward(ctx, operator, *tensors):
        ctx.operator = operator
        ctx.save_for_backward(*tensors)
        return tuple(cudnn.plain(operator, None, tensors))

    @staticmethod
    def backward(ctx, *grads):
        wanted = ctx.needs_input_grad[1:]
        with torch.enable_grad():
            return None, *cudnn.differentiable(ctx.operator, None, ctx.saved_tensors, grads, wanted)


@pytest.mark.parametrize("name", ["GRU", "LSTM"])
def test_gradients_computed_once_more(name: str) -> None:
    """An input may depend on the weights, and two of them may be the same."""
    cell = CELLS[name]().double()
    cell.bias_hh = cell.bias_ih
    us = torch.randn(4, 5, 3, dtype=torch.float64, requires_grad=True)

    def alone(cell, us, s0, lengths):
        weights = (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
        states = [s.unsqueeze(0) for s in leaves(s0)]
        vs, *last = WithoutGradients.apply(peer(cell)[1], us, *states, *weights)
        last = [s.squeeze(0) for s in last]
        return vs, LSTMState(*last) if len(last) > 1 else last[0]

    s0 = start(cell, "cpu")
    for a, b in zip(second(alone, cell, us, s0, None), second(plain, cell, us, s0, None), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("lengths", LENGTHS[:2], ids=["full", "ragged"])
def test_a_graph_kept_and_autocast_on_a_gpu(lengths: torch.Tensor | None) -> None:
    on("cuda")
    cell, us = ns.GRU(3, 5).cuda(), torch.randn(4, 5, 3, device="cuda", requires_grad=True)
    vs, _ = fused(cell, us, lengths=None if lengths is None else lengths.cuda())
    once, again = (torch.autograd.grad(vs.sum(), us, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(once, again)
    with torch.autocast("cuda", torch.float16):
        half, s = ns.scan(cell, us, lengths=lengths)
    assert half.dtype == s.dtype == torch.float16
    torch.testing.assert_close(half.float(), vs, rtol=0.02, atol=0.02)


def test_a_swapped_gate_is_seen() -> None:
    cell, broken = ns.GRU(3, 5).double(), ns.GRU(3, 5).double()
    with torch.no_grad():
        for mine, other in zip(cell.parameters(), broken.parameters(), strict=True):
            r, z, n = mine.chunk(3)
            other.copy_(torch.cat([z, r, n]))
    good, bad = everything(plain, cell, "cpu", None), everything(fused, broken, "cpu", None)
    assert not torch.allclose(good[0], bad[0], atol=1e-3)


def test_it_is_for_gpus_and_says_so() -> None:
    with pytest.raises(ns.EngineError, match="cpu"):
        ns.scan(ns.GRU(3, 5), torch.randn(2, 1, 3), engine="torch")
    assert list(ENGINES)[-1] == "reference"
    assert peer(ns.Elman(3, 5, activation=torch.sigmoid)) is None


def test_forward_mode_is_left_to_others() -> None:
    """cuDNN's loop has no forward-mode derivative."""
    cell, us, engine = ns.GRU(3, 5), torch.randn(2, 1, 3), TorchEngine(("cpu",))
    assert engine.refusal(request_for("scan", cell, us, None, None)) is None
    with torch.autograd.forward_ad.dual_level():
        refusal = engine.refusal(request_for("scan", cell, us, None, None))
    assert refusal is not None
    assert "forward-mode" in refusal.reason


def test_a_cell_it_is_not_made_for_is_refused_for_the_engines_own_reason() -> None:
    """torch's LSTM can project its state: that no kernel existed would be untrue."""
    cell, us = ns.ProjectedLSTM(3, 5, projection_size=2), torch.randn(2, 1, 3)
    refusal = TorchEngine(("cpu",)).refusal(request_for("scan", cell, us, None, None))
    assert refusal is not None
    assert "GRU, LSTM and Elman (tanh, relu) only, not for ProjectedLSTM" in refusal.reason


@pytest.mark.parametrize(("steps", "chosen"), [(2, "reference"), (64, "scan")])
def test_cells_without_a_fused_kernel_on_a_gpu(steps: int, chosen: str) -> None:
    on("cuda")
    cell, us = ns.MinGRU(3, 5).cuda(), torch.randn(steps, 4, 3, device="cuda")
    assert ns.explain(cell, us).engine == chosen
    assert ns.explain(ns.LayerNormGRU(3, 5).cuda()).engine == "reference"
    found, expected = ns.scan(cell, us)[0], ns.scan(cell, us, engine="reference")[0]
    assert found.is_cuda
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
