"""What each wrapper means, beyond the laws that the catalogue checks for all."""

from __future__ import annotations

import pickle
from copy import deepcopy
from itertools import pairwise

import pytest
import torch

import nextstate as ns
from agreement import HERE, assert_close
from catalogue import BY_NAME, random_state, randomise_
from nextstate.states import leaves, tree_map


def gru(inputs: int = 3, hidden: int = 5) -> ns.Cell:
    return BY_NAME["GRU"].cell(inputs, hidden)


def whole_numbers() -> ns.FunctionCell:
    """A cell whose one parameter is no floating tensor."""
    table = torch.nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)
    weights = torch.nn.ParameterList([table])
    return ns.FunctionCell(lambda u, s: (u, s), lambda b, **kw: torch.zeros(b, 1, **kw), weights)


def test_residual_adds_its_input() -> None:
    cell, us = gru(4, 4), torch.randn(5, 2, 4).double()
    assert_close(ns.scan(ns.Residual(cell), us)[0], ns.scan(cell, us)[0] + us)
    with pytest.raises(ns.InputError, match=r"Residual: the input is \(2, 3\) float64, the output \(2, 5\)"):
        ns.scan(ns.Residual(gru()), torch.randn(5, 2, 3).double())


@pytest.mark.parametrize("name", ["GRU", "LSTM", "LearnedStart GRU"])
def test_a_reset_starts_a_new_sequence(name: str) -> None:
    cell, us = BY_NAME[name].cell(), torch.randn(7, 2, 3).double()
    reset = torch.zeros(7, 2, dtype=torch.bool)
    reset[3, 0] = reset[5, 0] = reset[4, 1] = True
    vs, sT = ns.scan(ns.ResetWhen(cell), (us, reset), random_state(cell, 2))
    for b, cuts in enumerate([(3, 5, 7), (4, 7)]):
        for start, end in pairwise(cuts):
            alone, last = ns.scan(cell, us[start:end, b : b + 1])
            assert_close(vs[start:end, b : b + 1], alone)
        assert_close(tree_map(lambda s: s[b : b + 1], sT), last)  # noqa: B023  (called at once)


def test_no_gradient_passes_a_reset() -> None:
    us = torch.randn(4, 1, 3).double().requires_grad_()
    reset = torch.tensor([[False], [False], [True], [False]])
    ns.scan(ns.ResetWhen(gru()), (us, reset))[1].sum().backward()
    assert not us.grad[:2].any()
    assert us.grad[2:].all()


def test_learned_start_is_trained_by_rows_without_steps_too() -> None:
    cell = randomise_(ns.LearnedStart(ns.LSTM(3, 5)))
    _, s = ns.scan(cell, torch.ones(2, 3, 3), lengths=torch.tensor([2, 0, 0]), engine="reference")
    assert_close(s.c[1:], cell.start[1].expand(2, 5))
    s.c[1:].sum().backward()
    assert cell.start[1].grad.tolist() == [2.0] * 5
    assert len(list(cell.parameters())) == 2 + len(list(ns.LSTM(3, 5).parameters()))


def test_with_state_gives_every_state() -> None:
    cell, us = BY_NAME["LSTM"].cell(), torch.randn(5, 2, 3).double()
    (vs, states), _ = ns.scan(ns.WithState(cell), us)
    for t in range(5):
        v, s = ns.scan(cell, us[: t + 1])
        assert_close((vs[t], tree_map(lambda x: x[t], states)), (v[-1], s))  # noqa: B023  (called at once)


def test_embedded_is_a_look_up_before_the_cell() -> None:
    cell = gru()
    embedded = ns.Embedded(cell, 7, 3).double()
    ids = torch.randint(7, (5, 2))
    assert_close(ns.scan(embedded, ids), ns.scan(cell, embedded.table[ids]))
    assert_close(ns.scan(embedded, ids.int()), ns.scan(embedded, ids))


class TestDropped:
    def cell(self, name: str = "GRU", **rates: float) -> ns.Dropped:
        return ns.Dropped(BY_NAME[name].cell(3, 50), input_size=3, output_size=50, **rates)

    def test_masks_are_drawn_once_and_scaled(self) -> None:
        cell = self.cell(input=0.5, state=0.2, output=0.75).train()
        masks = cell.initial_state(4000, dtype=torch.float64).masks
        for mask, rate in zip(masks, (0.5, 0.2, 0.75), strict=True):
            kept = mask != 0
            assert torch.allclose(mask[kept], torch.tensor(1 / (1 - rate)).double())
            assert abs(kept.double().mean() - (1 - rate)) < 0.02
        _, s = ns.scan(cell, torch.randn(5, 4, 3).double())
        again = ns.scan(cell, torch.randn(5, 4, 3).double(), s)[1]
        assert all(a is b or torch.equal(a, b) for a, b in zip(s.masks, again.masks, strict=True))

    def test_input_and_output_are_masked_by_hand_the_same(self) -> None:
        cell = self.cell(input=0.5, output=0.5)
        s0, us = cell.initial_state(4, dtype=torch.float64), torch.randn(6, 4, 3).double()
        plain, _ = ns.scan(cell.cell, us * s0.masks.input, s0.cell)
        assert_close(ns.scan(cell, us, s0)[0], plain * s0.masks.output)

    @pytest.mark.parametrize("name", ["GRU", "ResetBeforeGRU", "LayerNormGRU", "LSTM", "Elman"])
    def test_a_masked_unit_is_not_read_but_kept(self, name: str) -> None:
        """With everything masked the products see zeros, and the carried memory is whole."""
        cell = self.cell(name, state=0.5)
        s = random_state(cell, 2)
        none = s._replace(masks=s.masks._replace(state=torch.zeros_like(s.masks.state)))
        unread = BY_NAME[name].cell(3, 50)
        unread.load_state_dict(cell.cell.state_dict())
        torch.nn.init.zeros_(unread.weight_hh)
        u = torch.randn(2, 3).double()
        _, after = cell(u, none)
        _, expected = unread(u, s.cell)
        assert_close(after.cell, expected)

    def test_eval_drops_nothing_whatever_the_state_holds(self) -> None:
        cell, us = self.cell(input=0.5, state=0.5, output=0.5), torch.randn(6, 4, 3).double()
        s_train = cell.train().initial_state(4, dtype=torch.float64)
        cell.eval()
        s_eval = cell.initial_state(4, dtype=torch.float64)
        assert all(mask.eq(1).all() for mask in s_eval.masks)
        for s0 in (s_train, s_eval):
            vs, s = ns.scan(cell, us, s0)
            plain, end = ns.scan(cell.cell, us)
            assert_close((vs, s.cell), (plain, end))

    @pytest.mark.parametrize(
        ("make", "told"),
        [
            (lambda: ns.Dropped(gru(), input=1.0, input_size=3), "input is 1.0; a rate lies in"),
            (lambda: ns.Dropped(gru(), input=0.1), "input_size, the width of the mask, is not given"),
            (lambda: ns.Dropped(ns.Residual(gru(5, 5)), state=0.1), "Residual has no state of its own"),
            (lambda: ns.Dropped(ns.Stacked(gru()), state=0.1), "Stacked has no state of its own"),
            (lambda: ns.LearnedStart(ns.Dropped(gru(), state=0.1)), r"write Dropped\(LearnedStart\(cell\)\)"),
            (lambda: ns.WeightDropped(gru(), 1.0), "rate is 1.0; a rate lies in"),
            (
                lambda: ns.WeightDropped(gru(), 0.1, ("weight",)),
                "no weight 'weight'; expected one of weight_ih",
            ),
            (lambda: ns.WeightDropped(gru(), 0.1, "weight_hh"), "weights is 'weight_hh'; expected a tuple"),
            (lambda: ns.WeightDropped(gru(), 0.1, ()), r"weights is \(\); expected a tuple of one or more"),
            (lambda: ns.WeightDropped(whole_numbers(), 0.1, ("weights.0",)), "no weight 'weights.0'"),
            (lambda: ns.ResetWhen(ns.WeightDropped(gru(), 0.1)), r"write WeightDropped\(ResetWhen\(cell\)\)"),
            (lambda: ns.LearnedStart(ns.WeightDropped(gru(), 0.1)), "draws masks with its start"),
            (lambda: ns.Zoneout(gru(), -0.1), "rate is -0.1"),
            (lambda: ns.Zoneout(gru(), (0.1, 0.2)), "2 rates for a state of 1 tensors"),
            (lambda: ns.Stacked(), "got nothing"),
            (lambda: ns.Stacked(torch.nn.GRU(2, 2)), "got GRU"),
            (lambda: ns.Residual(torch.nn.Linear(2, 2)), "expected a Cell to wrap, got Linear"),
            (lambda: ns.Embedded(gru(), 0, 3), r"sizes are \(0, 3\)"),
        ],
    )
    def test_refusals(self, make, told: str) -> None:
        with pytest.raises(ns.InputError, match=told):
            make()

    def test_a_mask_of_another_width_is_refused(self) -> None:
        with pytest.raises(ns.InputError, match="the mask was drawn for"):
            ns.scan(ns.Dropped(gru(), input=0.5, input_size=4), torch.ones(2, 2, 3).double())


class TestWeightDropped:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_one_matrix_for_all_rows_and_steps(self, dtype: torch.dtype) -> None:
        """Outputs and gradients are those of the plain cell whose matrix was masked by hand."""
        plain = BY_NAME["LSTM"].cell(3, 6, dtype)
        cell = ns.WeightDropped(plain, 0.4).train()
        us = torch.randn(7, 4, 3, dtype=dtype)
        s0 = cell.initial_state(4, dtype=dtype)
        mask = cell.masks["weight_hh"]
        assert set(mask.unique().tolist()) == {0.0, torch.tensor(1 / 0.6, dtype=dtype).item()}
        vs, s = ns.scan(cell, us, s0)
        masked = deepcopy(plain)
        with torch.no_grad():
            masked.weight_hh.mul_(mask)
        expected = ns.scan(masked, us)
        assert_close((vs, s), expected)
        vs.square().sum().backward()
        expected[0].square().sum().backward()
        assert_close(plain.weight_hh.grad, masked.weight_hh.grad * mask)
        assert_close(plain.weight_ih.grad, masked.weight_ih.grad)

    def test_a_sequence_is_a_draw_at_the_given_rate(self) -> None:
        cell = ns.WeightDropped(ns.GRU(3, 60), 0.3)
        us = torch.randn(4, 2, 3)
        first, kept = ns.scan(cell, us)[0], cell.masks["weight_hh"]
        assert abs((kept == 0).double().mean() - 0.3) < 0.02
        assert not torch.equal(first, ns.scan(cell, us)[0])
        assert not torch.equal(kept, cell.masks["weight_hh"])

    def test_eval_drops_nothing(self) -> None:
        plain = ns.GRU(3, 5)
        cell = ns.WeightDropped(plain, 0.5)
        cell.initial_state(1)
        us = torch.randn(4, 2, 3)
        assert torch.equal(ns.scan(cell.eval(), us)[0], ns.scan(plain, us)[0])

    def test_any_weight_by_its_name(self) -> None:
        names = ("cells.0.weight_ih", "cells.1.weight_hh")
        cell = ns.WeightDropped(ns.Stacked(ns.GRU(3, 5), ns.GRU(5, 5)), 0.5, names)
        cell.initial_state(1)
        assert tuple(cell.masks) == names

    @pytest.mark.parametrize("engine", HERE)
    def test_a_weight_that_stands_in_two_places_is_masked_in_both(self, engine: str) -> None:
        one, other = ns.GRU(3, 3), ns.GRU(3, 3)
        other.weight_hh = one.weight_hh
        for plain in (ns.Stacked(one, other), ns.Stacked(one, one)):
            before, us = dict(plain.named_parameters()), torch.randn(5, 2, 3)
            cell = ns.WeightDropped(plain, 0.4, ("cells.0.weight_hh",))
            vs, _ = ns.scan(cell, us, engine=engine)
            assert all(before[name] is p for name, p in plain.named_parameters()), "a run changed the cell"
            masked = deepcopy(plain)
            with torch.no_grad():
                masked.cells[0].weight_hh.mul_(cell.masks["cells.0.weight_hh"])
            assert_close(vs, ns.scan(masked, us)[0])

    def test_a_draw_compiles_nothing_anew(self) -> None:
        from nextstate.run import ENGINES

        cell, us = ns.WeightDropped(ns.GRU(3, 5), 0.4), torch.randn(4, 2, 3)
        engine = ENGINES["cpu"]
        if not hasattr(engine, "record"):
            pytest.skip("the compiled extension is not installed")
        ns.scan(cell, us)
        compiled = engine.record(cell).compiled
        for _ in range(3):
            ns.scan(cell, us)
        assert engine.record(cell).compiled is compiled
        assert len(compiled) == len(engine.record(cell).others) == 1

    @pytest.mark.parametrize("engine", HERE)
    def test_a_gradient_is_that_of_its_own_draw(self, engine: str) -> None:
        plain = ns.GRU(3, 5)
        cell, us = ns.WeightDropped(plain, 0.5), torch.randn(4, 2, 3)
        total, expected = torch.zeros(()), torch.zeros(5 * 3, 5)
        for _ in range(2):
            total = total + ns.scan(cell, us, engine=engine)[0].square().sum()
            masked = deepcopy(plain)
            with torch.no_grad():
                masked.weight_hh.mul_(cell.masks["weight_hh"])
            ns.scan(masked, us)[0].square().sum().backward()
            expected += masked.weight_hh.grad * cell.masks["weight_hh"]
        total.backward()
        assert_close(plain.weight_hh.grad, expected)

    def test_a_rate_changed_to_zero_drops_nothing(self) -> None:
        plain, us = ns.GRU(3, 5), torch.randn(4, 2, 3)
        cell = ns.WeightDropped(plain, 0.5)
        ns.scan(cell, us)
        cell.rate = 0.0
        assert torch.equal(ns.scan(cell, us)[0], ns.scan(plain, us)[0])

    def test_masks_go_where_the_cell_goes_and_are_not_saved(self) -> None:
        cell, us = ns.WeightDropped(ns.GRU(3, 5), 0.5), torch.randn(4, 2, 3)
        s0 = cell.initial_state(2)
        expected, _ = ns.scan(cell, us, s0)
        for twin in (deepcopy(cell), pickle.loads(pickle.dumps(cell))):
            assert torch.equal(ns.scan(twin, us, s0)[0], expected)
            twin.initial_state(2)
            assert not torch.equal(ns.scan(twin, us, s0)[0], expected)
        assert torch.equal(ns.scan(cell, us, s0)[0], expected)
        assert cell.double().masks["weight_hh"].dtype == torch.float64
        assert list(cell.state_dict()) == [f"cell.{name}" for name in cell.cell.state_dict()]

    def test_a_functional_call_masks_what_it_is_given(self) -> None:
        cell, us = ns.WeightDropped(ns.GRU(3, 5), 0.5), torch.randn(4, 2, 3)

        class Loop(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cell = cell

            def forward(self, us: torch.Tensor, s0: torch.Tensor | None) -> torch.Tensor:
                return ns.scan(self.cell, us, s0)[0]

        other = {name: torch.zeros_like(p) for name, p in Loop().named_parameters()}
        assert not torch.func.functional_call(Loop(), other, (us, None)).any()

    def test_torch_compile_draws_at_every_call(self) -> None:
        torch._dynamo.reset()
        cell, us = ns.WeightDropped(ns.GRU(3, 5), 0.5), torch.randn(4, 2, 3)
        compiled = torch.compile(lambda *args: ns.scan(cell, *args)[0], fullgraph=True, backend="aot_eager")
        first, second = compiled(us), compiled(us)
        assert not torch.equal(first, second)
        s0 = cell.initial_state(2)
        assert_close(compiled(us, s0), ns.scan(cell, us, s0)[0])
        cell.eval()
        assert_close(compiled(us), ns.scan(cell.cell, us)[0])


class TestZoneout:
    def test_training_keeps_old_units_at_the_given_rates(self) -> None:
        cell = ns.Zoneout(BY_NAME["LSTM"].cell(3, 200), (0.2, 0.7)).train()
        s = random_state(cell, 50)
        v, after = cell(torch.randn(50, 3).double(), s)
        assert v is after.h
        for old, new, rate in zip(leaves(s), leaves(after), (0.2, 0.7), strict=True):
            assert abs((old == new).double().mean() - rate) < 0.02

    def test_eval_is_the_expectation_of_training(self) -> None:
        cell = ns.Zoneout(gru(3, 4), 0.3)
        u, s = torch.randn(1, 3).double(), torch.randn(1, 4).double()
        many = cell.train()(u.expand(20000, -1), s.expand(20000, -1))[1]
        assert torch.allclose(many.mean(0, keepdim=True), cell.eval()(u, s)[1], atol=0.03)

    def test_constants_of_the_sequence_stay_untouched(self) -> None:
        cell = ns.Zoneout(ns.Dropped(gru(), state=0.5), 0.3)
        s = random_state(cell, 2)
        for mode in (True, False):
            assert cell.train(mode)(torch.ones(2, 3).double(), s)[1].masks.state is s.masks.state


@pytest.mark.parametrize(
    ("cell", "u", "told"),
    [
        (ns.Embedded(ns.GRU(3, 5), 7, 3), torch.ones(4, 2), r"Embedded: .*\(2,\) float32; expected int64"),
        (ns.ResetWhen(ns.GRU(3, 5)), torch.ones(4, 2, 3), r"ResetWhen: .*expected \(u, reset"),
        (
            ns.ResetWhen(ns.GRU(3, 5)),
            (torch.ones(4, 2, 3), torch.ones(4, 2)),
            r"ResetWhen: .*\(2,\) float32\); expected",
        ),
    ],
)
def test_inputs_of_the_wrong_kind_are_refused(cell: ns.Cell, u, told: str) -> None:
    with pytest.raises(ns.InputError, match=told):
        ns.scan(cell, u, engine="reference")
