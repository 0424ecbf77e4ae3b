"""What is measured and exported does not depend on what torch makes by default."""

import pytest
import torch

import nextstate as ns
from nextstate import dynamics, export
from nextstate.defaults import usual_defaults

DEFAULTS = pytest.mark.parametrize(
    ("change", "value", "usual"),
    [(torch.set_default_dtype, torch.float64, torch.float32), (torch.set_default_device, "meta", None)],
)


def under(change, value, usual, work):
    change(value)
    try:
        return work()
    finally:
        change(usual)


@DEFAULTS
def test_dynamics(change, value, usual):
    torch.manual_seed(0)
    cell, us, lengths = ns.GRU(3, 5), torch.randn(12, 4, 3), torch.tensor([12, 3, 7, 1])

    def everything():
        return [
            dynamics.gradient_norms(cell, us, lambda vs, s: s.sum(), lengths=lengths),
            dynamics.reach(cell, us, lengths=lengths).curve,
            dynamics.lyapunov(cell, us).exponents,
            dynamics.jacobians(cell, us),
            dynamics.lagged_singular_values(cell, us, [1, 2]),
            dynamics.flossing_loss(cell, us, count=2).detach(),
            ns.inspect(cell, us).parts[0].reach.curve,
            *(gate.values for gate in dynamics.gates(cell, us, lengths=lengths)),
        ]

    wanted = everything()
    for one, other in zip(under(change, value, usual, everything), wanted, strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


@DEFAULTS
def test_second_derivatives_where_a_piece_of_the_state_is_a_number(change, value, usual):
    torch.manual_seed(0)
    cell, us = ns.StackRNN(3, 6), torch.randn(5, 2, 3, requires_grad=True)

    def everything():
        out = ns.scan(cell, us, engine="cpu")[0]
        [first] = torch.autograd.grad(out.sin().sum(), us, create_graph=True)
        return torch.autograd.grad(first.square().sum(), us)[0]

    assert torch.equal(under(change, value, usual, everything), everything())


@DEFAULTS
def test_export(change, value, usual, tmp_path):
    layer, cell = ns.nn.GRU(3, 5, bidirectional=True), ns.StackRNN(3, 6)

    def everything():
        for name, module in (("layer", layer), ("cell", cell)):
            export.onnx(module, tmp_path / f"{name}.onnx")
        export.c(cell, tmp_path / "cell.c")
        return [(tmp_path / name).read_bytes() for name in ("layer.onnx", "cell.onnx", "cell.c")]

    pytest.importorskip("onnxruntime", reason="the exported file is run in onnxruntime")
    wanted = everything()
    assert under(change, value, usual, everything) == wanted


def test_an_error_leaves_the_defaults_as_they_were():
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(RuntimeError), usual_defaults():
            raise RuntimeError
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
