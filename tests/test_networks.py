"""The networks: right for every row's own length, defined on empty rows, and able to learn."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor, nn

import nextstate as ns
from agreement import assert_agree, assert_close, gradients
from catalogue import BY_NAME, randomise_
from nextstate.networks import Concatenation, Ends, Last, Max, Mean
from nextstate.states import tree_map

LENGTHS = torch.tensor([3, 0, 6, 1])
POOLINGS = (Last(), Ends(), Max(), Mean(), Concatenation(Last(), Max(), Mean()))
poolings = pytest.mark.parametrize("pooling", POOLINGS, ids=lambda pooling: type(pooling).__name__)


class TestBidirectional:
    @pytest.mark.parametrize("lengths", [None, [5, 1, 7, 2]], ids=["full", "packed"])
    def test_is_torch_bidirectional(self, lengths: list[int] | None) -> None:
        network = randomise_(nn.LSTM(3, 5, bidirectional=True)).double()
        cells = []
        for suffix in ("l0", "l0_reverse"):
            cell = ns.LSTM(3, 5).double()
            cell.load_state_dict({n: getattr(network, f"{n}_{suffix}").detach() for n in cell.state_dict()})
            cells.append(cell)
        ours = ns.Bidirectional(*cells)
        us = torch.randn(7, 4, 3).double().requires_grad_()
        h, c = torch.randn(2, 4, 5).double(), torch.randn(2, 4, 5).double()
        if lengths is None:
            ragged, (vs, (hT, cT)) = None, network(us, (h, c))
        else:
            ragged = torch.tensor(lengths)
            packed = nn.utils.rnn.pack_padded_sequence(us, ragged, enforce_sorted=False)
            vs, (hT, cT) = network(packed, (h, c))
            vs, _ = nn.utils.rnn.pad_packed_sequence(vs, total_length=7)
        starts = tuple(ns.LSTMState(h[k], c[k]) for k in range(2))
        our_vs, ends = ours(us, starts, ragged)
        found = {"v": our_vs, "h": torch.stack([s.h for s in ends]), "c": torch.stack([s.c for s in ends])}
        theirs = {"v": vs, "h": hT, "c": cT}
        assert_agree({**found, **gradients(found, {"u": us})}, {**theirs, **gradients(theirs, {"u": us})})
        wrong, _ = ns.Bidirectional(*reversed(cells))(us, starts, ragged)
        with pytest.raises(AssertionError):
            assert_close(wrong, vs)

    @pytest.mark.parametrize(
        ("call", "told"),
        [
            (lambda net: net(torch.ones(5, 3)), r"us has shape \(5, 3\)|expected \[B, 3\]"),
            (lambda net: net(torch.ones(5, 2, 3), torch.ones(2, 5)), "s0 is a Tensor; expected a pair"),
            (lambda net: net(torch.ones(5, 2, 3), None, torch.tensor([1, 6])), "lengths run from 1 to 6"),
            (lambda net: net(torch.ones(5, 2, 3), None, torch.tensor([1])), r"lengths has shape \(1,\)"),
        ],
    )
    def test_refusals(self, call, told: str) -> None:
        with pytest.raises(ns.InputError, match=told):
            call(ns.Bidirectional(ns.GRU(3, 5), ns.GRU(3, 5)))


class TestPooling:
    @poolings
    def test_each_row_is_pooled_over_its_own_steps(self, pooling: nn.Module) -> None:
        vs = torch.randn(6, 4, 8) - 3
        spoilt = vs.clone()
        for b, n in enumerate(LENGTHS.tolist()):
            spoilt[n:, b] = torch.nan
        pooled = pooling(spoilt, LENGTHS)
        for b, n in enumerate(LENGTHS.tolist()):
            alone = pooling(vs[:n, b : b + 1])
            assert_close(pooled[b : b + 1], alone)
            assert bool(alone.any()) == bool(n), "only an empty row pools to zeros"
        assert_close(pooling(vs, torch.full((4,), 6)), pooling(vs))

    @poolings
    def test_no_gradient_from_padding_or_empty_rows(self, pooling: nn.Module) -> None:
        vs = torch.randn(6, 4, 8, requires_grad=True)
        (grad,) = torch.autograd.grad(pooling(vs, LENGTHS).square().sum(), vs)
        assert grad.isfinite().all()
        for b, n in enumerate(LENGTHS.tolist()):
            assert not grad[n:, b].any()

    @poolings
    @pytest.mark.parametrize("lengths", [torch.tensor([9, 1]), torch.tensor([-1, 1]), [3, 1]], ids=str)
    def test_lengths_that_are_not_theirs_are_refused(self, pooling: nn.Module, lengths: object) -> None:
        with pytest.raises(ns.InputError, match=r"lengths run from|lengths is a list"):
            pooling(torch.ones(3, 2, 4), lengths)

    @poolings
    def test_no_steps(self, pooling: nn.Module) -> None:
        assert not pooling(torch.ones(0, 4, 8)).any()

    def test_what_they_compute(self) -> None:
        vs = torch.tensor([[1.0, 5.0], [4.0, 2.0], [3.0, 3.0]]).unsqueeze(1)
        assert Last()(vs).tolist() == [[3.0, 3.0]]
        assert Ends()(vs).tolist() == [[3.0, 5.0]]
        assert Max()(vs).tolist() == [[4.0, 5.0]]
        assert torch.allclose(Mean()(vs), torch.tensor([[8 / 3, 10 / 3]]))
        assert Concatenation(Last(), Max())(vs).tolist() == [[3.0, 3.0, 4.0, 5.0]]


def classifier(pooling: nn.Module, vocabulary: int | None = 9) -> ns.SequenceClassifier:
    layers = [ns.Bidirectional(ns.GRU(4, 3), ns.GRU(4, 3)), ns.Residual(ns.LSTM(6, 6))]
    network = ns.SequenceClassifier(layers, inputs=4, classes=5, vocabulary=vocabulary, pooling=pooling)
    return randomise_(network).double()


class TestSequenceClassifier:
    @poolings
    @pytest.mark.parametrize("vocabulary", [9, None], ids=["ids", "features"])
    def test_padding_changes_nothing_and_rows_are_alone(self, pooling, vocabulary: int | None) -> None:
        network = classifier(pooling, vocabulary)
        x = torch.randint(9, (4, 6)) if vocabulary else torch.randn(4, 6, 4).double()
        spoilt = x.clone()
        for b, n in enumerate(LENGTHS.tolist()):
            spoilt[b, n:] = -5 if vocabulary else torch.nan
        logits = network(spoilt, LENGTHS)
        for b, n in enumerate(LENGTHS.tolist()):
            assert_close(logits[b : b + 1], network(x[b : b + 1, :n]))
        assert_close(logits[1], network.readout.bias)

    def test_learns_which_token_came_first(self) -> None:
        network = ns.SequenceClassifier(ns.GRU(8, 16), inputs=8, classes=3, vocabulary=3, pooling=Mean())
        optimiser = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(150):
            ids, lengths = torch.randint(3, (64, 5)), torch.randint(1, 6, (64,))
            loss = nn.functional.cross_entropy(network(ids, lengths), ids[:, 0])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        ids = torch.randint(3, (500, 5))
        right = network(ids, torch.randint(1, 6, (500,))).argmax(-1) == ids[:, 0]
        assert right.double().mean() > 0.97


def model(**options) -> ns.LanguageModel:
    return randomise_(ns.LanguageModel(7, 4, ns.GRU(4, 6), ns.LSTM(6, 4), **options)).double()


class TestLanguageModel:
    def test_chunks_with_a_carried_state_are_the_whole(self) -> None:
        network, text = model(), torch.randint(7, (3, 13))
        logits, end = network(text)
        first, s = network(text[:, :5])
        second, s = network(text[:, 5:], s)
        assert_close((logits, end), (torch.cat([first, second], 1), s))
        whole, _ = network.loss(text[:, :12], text[:, 1:])
        s, total = None, 0.0
        for start in range(0, 12, 4):
            chunk, s = network.loss(text[:, start : start + 4], text[:, start + 1 : start + 5], s)
            total = total + chunk / 3
            s = tree_map(Tensor.detach, s)
        assert_close(total, whole)

    def test_loss_is_the_mean_of_the_log_probabilities_of_valid_tokens(self) -> None:
        network, text = model(), torch.randint(7, (4, 7))
        lengths = torch.tensor([3, 0, 6, 1])
        spoilt = text.clone()
        for b, n in enumerate(lengths.tolist()):
            spoilt[b, n + 1 :] = -9
        loss, _ = network.loss(spoilt[:, :6].clamp(min=-9), spoilt[:, 1:], lengths=lengths)
        logits = network(text[:, :6])[0].log_softmax(-1)
        scores = logits.gather(-1, text[:, 1:, None]).squeeze(-1)
        valid = torch.arange(6) < lengths[:, None]
        assert_close(loss, -scores[valid].mean())
        assert_close(network.log_probabilities(text), scores)
        ragged = network.log_probabilities(spoilt, lengths=(lengths + 1).clamp(max=7))
        assert_close(ragged, scores.where(valid, 0))
        assert network.loss(text, text, lengths=torch.zeros(4, dtype=torch.int64))[0] == 0

    def test_probabilities_of_all_continuations_sum_to_one(self) -> None:
        network = ns.LanguageModel(3, 4, ns.GRU(4, 6)).double()
        texts = torch.cartesian_prod(torch.tensor([1]), *[torch.arange(3)] * 4)
        assert_close(network.log_probabilities(texts).sum(1).exp().sum(), torch.tensor(1.0).double())

    def test_tied_weights_are_one_parameter(self) -> None:
        network = model(tied=True)
        assert network.readout.weight is network.cell.table
        assert len(list(network.parameters())) == len(list(model().parameters())) - 1
        with pytest.raises(ns.InputError, match=r"tied weights need outputs \[B, 4\], got \[B, 5\]"):
            ns.LanguageModel(7, 4, ns.GRU(4, 5), tied=True)

    def test_greedy_generation_is_the_arg_max_of_what_was_written(self) -> None:
        network, prompt = model(), torch.randint(7, (3, 4))
        lengths = torch.tensor([4, 1, 2])
        written = torch.stack(list(islice(network.generate(prompt, lengths, temperature=0), 6)), 1)
        for b, n in enumerate(lengths.tolist()):
            text = prompt[b : b + 1, :n]
            for token in written[b]:
                assert network(text)[0][0, -1].argmax() == token
                text = torch.cat([text, token.reshape(1, 1)], 1)

    def test_draws_repeat_and_follow_the_probabilities(self) -> None:
        network, prompt = model(), torch.tensor([[2, 5]]).expand(20000, -1)
        draws = [
            next(network.generate(prompt, generator=torch.Generator().manual_seed(k))) for k in (1, 1, 2)
        ]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])
        shares = torch.bincount(draws[0], minlength=7) / 20000
        assert torch.allclose(shares.double(), network(prompt[:1])[0][0, -1].softmax(-1), atol=0.015)
        cold = next(
            network.generate(prompt[:50], temperature=1e-4, generator=torch.Generator().manual_seed(1))
        )
        assert torch.equal(cold, next(network.generate(prompt[:50], temperature=0)))

    @pytest.mark.parametrize(
        ("call", "told"),
        [
            (lambda net: net(torch.ones(2, 3)), r"the ids are \(2, 3\) float32; expected int64"),
            (lambda net: net(torch.tensor([1, 2])), r"the ids are \(2,\) int64; expected .*\[batch, time\]"),
            (lambda net: net(torch.tensor([[1, 7]])), "the ids run from 1 to 7; each must lie in 0..6"),
            (lambda net: net(torch.tensor([[1, -1]])), "the ids run from -1 to 1"),
            (lambda net: net(torch.tensor([[1, 2]]), None, torch.tensor([3])), "lengths run from 3 to 3"),
            (
                lambda net: net.loss(torch.ones(1, 2).long(), torch.ones(1, 3).long()),
                r"\(1, 3\) int64 differ",
            ),
            (lambda net: net.generate(torch.ones(1, 0).long()), "a row without tokens"),
            (lambda net: net.generate(torch.ones(2, 2).long(), torch.tensor([1, 0])), "a row without tokens"),
            (lambda net: net.generate(torch.ones(1, 1).long(), temperature=-1.0), "temperature is -1.0"),
        ],
    )
    def test_refusals(self, call, told: str) -> None:
        with pytest.raises(ns.InputError, match=told):
            call(model())


def translator(**options) -> ns.EncoderDecoder:
    return randomise_(ns.EncoderDecoder(9, 5, 6, **options)).double()


class TestEncoderDecoder:
    @pytest.mark.parametrize("cell", [ns.GRU, ns.LSTM, ns.Elman, lambda i, h: ns.ProjectedLSTM(i, h, 2)])
    @pytest.mark.parametrize("summary_size", [None, 3])
    def test_teacher_forcing_on_its_own_output_is_generation(self, cell, summary_size: int | None) -> None:
        network = translator(cell=cell, summary_size=summary_size)
        source = torch.randint(9, (4, 6))
        written = network.generate(source, LENGTHS, steps=5)
        assert written.shape == (4, 5)
        assert torch.equal(network(source, written, LENGTHS).argmax(-1), written)
        assert network.generate(source, steps=0).shape == (4, 0)

    def test_only_the_summary_passes(self) -> None:
        """With the summary held fixed the source has no influence, and its gradient all goes through it."""
        network, source = translator(summary_size=3), torch.randint(9, (4, 6))
        target = torch.randint(5, (4, 7))
        assert not torch.equal(network(source, target), network(source.flip(1), target))
        torch.nn.init.zeros_(network.projection.weight)
        assert torch.equal(network(source, target), network(source.flip(1), target))
        network.loss(source, target).backward()
        assert not network.encoder.table.grad.any()

    def test_padding_changes_nothing(self) -> None:
        network, source, target = translator(), torch.randint(9, (4, 6)), torch.randint(5, (4, 6))
        out_lengths = torch.tensor([6, 2, 0, 5])
        spoilt_source, spoilt_target = source.clone(), target.clone()
        for b in range(4):
            spoilt_source[b, LENGTHS[b] :] = 99
            spoilt_target[b, out_lengths[b] :] = -99
        logits = network(spoilt_source, spoilt_target, LENGTHS, out_lengths)
        total = 0.0
        for b in range(4):
            n, m = int(LENGTHS[b]), int(out_lengths[b])
            alone = network(source[b : b + 1, :n], target[b : b + 1, :m])
            assert_close(logits[b : b + 1, :m], alone)
            total = total + nn.functional.cross_entropy(alone[0], target[b, :m], reduction="sum")
        assert_close(network.loss(spoilt_source, spoilt_target, LENGTHS, out_lengths), total / 13)
        written = network.generate(spoilt_source, LENGTHS, steps=4)
        for b in range(4):
            assert torch.equal(written[b], network.generate(source[b : b + 1, : LENGTHS[b]], steps=4)[0])

    def test_the_first_token_is_told_by_the_start_symbol(self) -> None:
        network, source, target = translator(), torch.randint(9, (2, 6)), torch.randint(5, (2, 3))
        before = network(source, target)
        with torch.no_grad():
            network.decoder.table[network.start] += 1
        after = network(source, target)
        assert not torch.equal(before[:, 0], after[:, 0])
        with torch.no_grad():
            network.decoder.table[target[:, 2]] += 1
        assert torch.equal(after[:, 0], network(source, target)[:, 0])

    def test_draws_are_fed_back(self) -> None:
        network, source = translator(), torch.randint(9, (4, 6))
        drawn: list[Tensor] = []

        def choose(logits: Tensor) -> Tensor:
            drawn.append(torch.multinomial(logits.softmax(-1), 1).squeeze(1))
            return drawn[-1]

        written = network.generate(source, steps=5, choose=choose)
        assert torch.equal(written, torch.stack(drawn, 1))

    def test_learns_to_sort(self) -> None:
        network = ns.EncoderDecoder(4, 4, 24)
        optimiser = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(200):
            source = torch.randint(4, (64, 4))
            loss = network.loss(source, source.sort(1).values)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        source = torch.randint(4, (300, 4))
        assert (network.generate(source, steps=4) == source.sort(1).values).all(1).double().mean() > 0.95

    @pytest.mark.parametrize(
        ("call", "told"),
        [
            (lambda net: net(torch.tensor([[9]]), torch.tensor([[1]])), "the ids run from 9 to 9"),
            (lambda net: net(torch.tensor([[1]]), torch.tensor([[5]])), "the ids run from 5 to 5"),
            (lambda net: net(torch.ones(2, 3).long(), torch.ones(3, 3).long()), "differ in their batch"),
            (lambda net: net.generate(torch.ones(3).long(), steps=2), r"the ids are \(3,\) int64"),
            (lambda net: net.generate(torch.ones(3, 1).long(), steps=-2), "steps is -2"),
        ],
    )
    def test_refusals(self, call, told: str) -> None:
        with pytest.raises(ns.InputError, match=told):
            call(translator())


def test_rows_of_the_catalogue_can_be_layers() -> None:
    for name in ("GRU", "Dropped LSTM", "LearnedStart GRU"):
        network = ns.SequenceClassifier(BY_NAME[name].make(4, 6), inputs=4, classes=2, vocabulary=9)
        assert network(torch.randint(9, (3, 5)), torch.tensor([5, 0, 2])).shape == (3, 2)
