"""What torch makes when it is not told otherwise changes no loop, no session, no measure and no export."""

import pytest
import torch

import nextstate as ns
from agreement import assert_close
from catalogue import BY_NAME
from nextstate import dynamics, export
from nextstate.defaults import usual_defaults
from nextstate.engines import binding
from nextstate.states import leaves

DEFAULTS = pytest.mark.parametrize(
    ("change", "value", "usual"),
    [(torch.set_default_dtype, torch.float64, torch.float32), (torch.set_default_device, "meta", None)],
    ids=["type", "device"],
)
CELLS = ["Elman", "GRU", "LSTM", "LayerNormGRU", "ProjectedLSTM", "Stacked GRU LSTM", "LowRank"]


def under(change, value, usual, work):
    binding._like.cache_clear()  # or what memory is made like would be from before
    change(value)
    try:
        return work()
    finally:
        change(usual)


@DEFAULTS
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("rows", [2, 700])
def test_loops(name, rows, change, value, usual):
    """Few rows take other memory than many."""
    cell, us = BY_NAME[name].cell(3, 5, torch.float32), torch.randn(4, rows, 3, requires_grad=True)
    parameters, lengths = [us, *cell.parameters()], torch.arange(rows) % 5

    def everything():
        vs, last = ns.scan(cell, us, engine="cpu")
        gradients = torch.autograd.grad(sum(v.sin().sum() for v in leaves(vs)), parameters)
        ragged, _ = ns.scan(cell, us, lengths=lengths, engine="cpu")
        with torch.no_grad():
            folded = ns.fold(cell, us, engine="cpu")
        session = ns.Session(cell, batch_size=rows)
        stepped = [v for u in us.detach() for v in leaves(session.step(u))]
        out = leaves(ns.scan(cell, us[:, :2], engine="cpu")[0])[0]
        [first] = torch.autograd.grad(out.sin().sum(), us, create_graph=True)
        [second] = torch.autograd.grad(first.square().sum(), us)
        return [*leaves(vs), *leaves(last), *gradients, *leaves(ragged), *leaves(folded), *stepped, second]

    wanted = everything()
    for one, other in zip(under(change, value, usual, everything), wanted, strict=True):
        assert (one.dtype, one.device.type) == (torch.float32, "cpu")
        assert torch.equal(one, other)


@DEFAULTS
def test_the_short_cuts_of_whole_vectors(change, value, usual):
    cell, u = ns.GRU(16, 16), torch.randn(1, 16)
    session = ns.Session(cell, batch_size=1)
    wanted = ns.Session(cell, batch_size=1).step(u)

    def everything():
        with torch.no_grad():
            return session.step(u), [ns.scan(cell, u.unsqueeze(0))[0] for _ in range(3)][-1]

    found, quick = under(change, value, usual, everything)
    assert session._stepper is not None
    assert_close(quick[0], wanted)
    assert (found.dtype, found.device.type) == (torch.float32, "cpu")
    assert torch.equal(found, wanted)


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
