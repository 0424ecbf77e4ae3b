"""A model of a text: it learns it, writes it, scores it the same however it is read, and survives kills."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nextstate import GRU, LSTM, Dropped, InputError, LanguageModel, LearnedStart, Stacked
from nextstate import engine as use_engine
from nextstate.combine import redrawn
from nextstate.networks import DynamicScorer, Scorer
from nextstate.recipes import text as recipe_module
from nextstate.recipes import text_measure as measure_module
from nextstate.recipes.text import Dropout, Recipe, mean_nats, no_better, prepare, text_loss, text_network
from nextstate.recipes.text_model import CELLS, Shape, TextModel, load_text_model
from nextstate.recipes.text_report import draw_curve, draw_surprise, measured_part, text_card
from nextstate.states import leaves
from nextstate.tasks.text import BPE, Bytes, Characters, TextStreams, prepare_corpus

TEXT = b"sphinx of black quartz, judge my vow\n"
RECIPE = Recipe(Shape("LSTM", 1, 16, 64), rows=8, length=37, steps=340, rate=1e-2, average=0.9)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return prepare_corpus([TEXT * 60], tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def overfitted(corpus):
    run = prepare(RECIPE, corpus)
    records = list(run.records())
    return run, records, run.model()


def small(unit=None, shape=None):
    unit, shape = unit or Bytes(), shape or Shape("GRU", 2, 6, 10)
    return TextModel(shape, unit, shape.network(unit.size))


def test_a_short_text_is_learned_by_heart(overfitted):
    run, records, model = overfitted
    assert records[-1].evaluation["nats_per_character"] < 0.02
    nats, measured = run.validation()
    assert nats < 0.02
    assert measured == run.corpus.validation.tokens
    written = b"".join(model.generate("sphinx of", length=150, temperature=0))
    assert b"sphinx of" + written == (TEXT * 6)[: 9 + 150]


def test_the_same_seed_gives_the_same_text_and_another_another(overfitted):
    model = overfitted[2]

    def text(seed):
        return b"".join(model.generate("the", length=60, temperature=3.0, seed=seed))

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_generation_is_the_same_whether_the_prime_is_read_at_once_or_in_parts(overfitted):
    network = overfitted[2].network
    prime = torch.tensor([list(TEXT[:30])])

    def drawn(ids, s):
        generator = torch.Generator().manual_seed(5)
        return [int(x) for x in islice(network.generate(ids, s0=s, temperature=2.0, generator=generator), 20)]

    with torch.no_grad():
        _, s = network(prime[:, :11])
        _, s = network(prime[:, 11:29], s)
    assert drawn(prime[:, 29:], s) == drawn(prime, None)
    assert drawn(prime[:, 29:], None) != drawn(prime, None)  # it would be seen if the state were lost


def test_it_ends_where_it_should(overfitted):
    model = overfitted[2]
    written = b"".join(model.generate("sphinx", temperature=0, stop="judge"))
    assert written == b" of black quartz, judge"
    assert len(list(model.generate("", length=4))) == 4
    assert list(model.generate("a", length=0)) == []
    with pytest.raises(InputError, match="length is -1"):
        model.generate("a", length=-1)
    for ask in (model.score, model.generate, lambda text: model.generate(stop=text)):
        with pytest.raises(InputError, match=r"'\\ud800' at place 1 is no character"):
            ask("a\ud800")


@pytest.mark.parametrize("dropout", [Dropout(), Dropout(0.1, 0.3, 0.4, 0.2, 0.3)])
def test_probabilities_of_the_stream_are_those_of_training(dropout):
    """Step by step and in pieces, by the network without dropout, as by the one that is trained."""
    trained, plain = text_network(Recipe(Shape("LSTM", 2, 6, 10), dropout=dropout), 256)
    trained.eval()
    text = b"any text \xff at all"
    ids = torch.tensor([[10, *text]])
    with torch.no_grad():
        logits, _ = trained(ids[:, :-1])
    wanted = -logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[0, :, 0].double().numpy()
    model = TextModel(Shape("LSTM", 2, 6, 10), Bytes(), plain)
    for cuts in ([text], [text[:1], text[1:7], text[7:]], [text[k : k + 1] for k in range(len(text))]):
        nats = np.concatenate([part for _, part in model.token_nats(cuts)])
        np.testing.assert_allclose(nats, wanted, rtol=1e-5, atol=1e-6)
    scorer, steps = Scorer(plain), []
    for k in range(len(text)):
        steps.append(-float(scorer(ids[0, k : k + 2])))
    np.testing.assert_allclose(steps, wanted, rtol=1e-5, atol=1e-6)
    scorer.state = None
    assert abs(-float(scorer(ids[0, 5:7])) - wanted[5]) > 1e-6  # a lost state would be seen


@pytest.mark.parametrize("unit", [Bytes(), Characters("abcä "), BPE.learn([b"a bad cab ate a bee"], 262)])
def test_scores_of_characters_add_up_to_the_text(unit):
    model = small(unit)
    text = "ä bad cab ß ate\n".encode() + b"\xff"
    characters, nats = model.score(text)
    assert characters.encode("utf-8", "surrogateescape") == text
    assert len(characters) == len(nats)
    *_, whole = model.evaluate([text])
    assert (whole.characters, whole.tokens) == (len(characters), len(unit.encode(text)))
    assert nats.sum() == pytest.approx(whole.nats)
    assert (nats > 0).all()
    figures = whole.figures()
    assert figures["perplexity"] == pytest.approx(np.exp(whole.nats / len(nats)))
    assert figures["bits_per_character"] == pytest.approx(figures["nats_per_character"] / np.log(2))


def test_many_rows_measure_what_one_stream_does(overfitted, monkeypatch):
    """With a long enough lead every row is where a single stream would be; without one it is not."""
    network = small(shape=Shape("GRU", 1, 6, 10)).network
    text = np.random.default_rng(0).integers(97, 123, 3000).astype(np.uint8)
    before, ids = text[:1000], text[1000:]
    with torch.no_grad():
        scores = network.log_probabilities(torch.from_numpy(text[743:].astype(np.int64))[None])
        exact = -float(scores[0, -2000:].double().mean())
    assert mean_nats(network, ids, before, rows=7) == pytest.approx(exact, abs=1e-6)
    assert mean_nats(network, ids, before, rows=1) == pytest.approx(exact, abs=1e-6)
    monkeypatch.setattr(measure_module, "CONTEXT", 1)
    assert mean_nats(network, ids, before, rows=100) != pytest.approx(exact, abs=1e-6)
    monkeypatch.undo()
    run = overfitted[0]
    assert mean_nats(run.plain, run.corpus.ids("validation")[:1], run.corpus.ids("training")) < 0.5


def test_a_text_of_any_size_is_measured_in_memory_of_constant_size():
    """No more of it is asked for at a time than one chunk of every row."""

    class Mapped:
        text = np.random.default_rng(1).integers(0, 4, 50_000).astype(np.uint8)
        most = 0

        def __len__(self):
            return len(self.text)

        def __getitem__(self, places):
            self.most = max(self.most, places.size)
            return self.text[places]

    def model(chunk, s):
        return torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(*chunk.shape, 4), None

    ids = Mapped()
    wanted = -np.log(np.exp([0, 1, 2, 3]) / np.exp([0, 1, 2, 3]).sum())[ids.text].mean()
    assert mean_nats(model, ids, np.zeros(9, np.uint8), rows=8) == pytest.approx(wanted, abs=1e-6)
    assert ids.most == 8 * (measure_module.CONTEXT + 1)


def test_of_a_large_validation_part_a_share_is_measured(overfitted, monkeypatch):
    run = overfitted[0]
    monkeypatch.setattr(recipe_module, "MEASURED", 40)
    monkeypatch.setattr(run.state, "step", 1)
    assert run.validation()[1] == 40
    assert measured_part(40, run.corpus) == "its first 40 tokens"
    assert measured_part(run.corpus.validation.tokens, run.corpus) == "all of it"


def test_the_read_out_starts_at_how_often_tokens_stand_in_the_text(corpus):
    run = prepare(RECIPE, corpus)
    p = run.plain.readout.bias.softmax(0)
    counts = np.bincount(corpus.ids("training"), minlength=256)
    np.testing.assert_allclose(p.detach(), (counts + 0.5) / (counts.sum() + 128), rtol=1e-4)
    p, silent = float(p[ord("q")].detach()), float(nn.Linear(64, 256).bias.softmax(0)[ord("q")].detach())
    assert abs(p - counts[ord("q")] / counts.sum()) < 0.02 < abs(silent - counts[ord("q")] / counts.sum())


@pytest.mark.parametrize("rate", [float("nan"), -1.0, 0.0, float("inf")])
def test_a_rate_that_cannot_be_is_refused(corpus, rate):
    with pytest.raises(InputError, match="rate is"):
        prepare(replace(RECIPE, rate=rate), corpus)


def test_every_cell_by_name_makes_a_network():
    assert {"LSTM", "GRU", "Elman", "MinGRU", "LayerNormLSTM"} < set(CELLS)
    for name in CELLS:
        logits, _ = Shape(name, 2, 3, 4).network(5)(torch.zeros(1, 2, dtype=torch.int64))
        assert logits.shape == (1, 2, 5)
    with pytest.raises(InputError, match="cell is 'ProjectedLSTM'"):
        Shape("ProjectedLSTM", 1, 3, 4).network(5)


class TestDynamic:
    def test_it_scores_before_it_learns_and_leaves_the_model_alone(self):
        model, ids = small().network, torch.randint(256, (200,))
        before = [p.clone() for p in model.parameters()]
        static, dynamic = Scorer(model)(ids), DynamicScorer(model, rate=1e-2, length=50)(ids)
        torch.testing.assert_close(dynamic[:50], static[:50])
        assert not torch.allclose(dynamic[50:], static[50:], atol=1e-3)
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        still = DynamicScorer(model, rate=0.0, length=50)(ids)
        torch.testing.assert_close(still, static)

    def test_pieces_of_its_length_are_the_whole(self):
        model, ids = small().network, torch.randint(256, (101,))
        whole, parts = DynamicScorer(model, length=25)(ids), DynamicScorer(model, length=25)
        torch.testing.assert_close(torch.cat([parts(ids[:51]), parts(ids[50:])]), whole)

    def test_it_learns_what_comes_again(self):
        model = small()
        (*_, static), (*_, dynamic) = (model.evaluate([TEXT * 30], dynamic=d) for d in (False, True))
        assert dynamic.nats < static.nats

    def test_settings_that_cannot_be(self):
        with pytest.raises(InputError, match="decay 2"):
            DynamicScorer(small().network, decay=2)


def test_dropout_draws_new_masks_for_every_chunk_and_keeps_the_state():
    cell = Stacked(Dropped(LSTM(3, 4), state=0.5, output=0.5, output_size=4), LearnedStart(GRU(4, 5)))
    s = cell.initial_state(2)
    _, after = cell(torch.ones(2, 3), s)
    fresh = cell.initial_state(2)
    new = redrawn(fresh, after)
    assert new[0].masks is fresh[0].masks
    assert all(a is b for a, b in zip(leaves(new[0].cell), leaves(after[0].cell), strict=True))
    assert new[1] is after[1]
    assert not torch.equal(leaves(after[0].masks)[0], leaves(new[0].masks)[0])


def test_training_and_plain_network_share_their_weights():
    for tied in (False, True):
        shape = Shape("LSTM", 2, 6, 10, tied)
        trained, plain = text_network(Recipe(shape, dropout=Dropout(0.1, 0.1, 0.1, 0.1, 0.1)), 256)
        assert {id(p) for p in trained.parameters()} == {id(p) for p in plain.parameters()}
        assert len(list(plain.parameters())) == len(
            list(LanguageModel(256, 6, *shape.cells(), tied=tied).parameters())
        )


def test_the_best_measurement_is_kept_and_no_gain_ends_the_run(corpus, tmp_path):
    recipe = replace(RECIPE, steps=40, measurements=20, patience=2, rate=1e-2)
    run = prepare(recipe, corpus, checkpoints=tmp_path)
    values = iter([3.0, 2.0, 2.5, 2.5, 1.0])
    kept = []

    def measure(model, ids, before):
        kept.append([p.detach().clone() for p in model.parameters()])
        return next(values)

    original = recipe_module.mean_nats
    recipe_module.mean_nats = measure
    try:
        list(run.records())
    finally:
        recipe_module.mean_nats = original
    assert len(kept) == 4
    best = list(run.model().network.parameters())
    assert {id(p) for p in best} == {id(p) for p in run.state.model.parameters()}
    assert all(any(torch.equal(p, q) for q in best) for p in kept[1])
    assert not all(any(torch.equal(p, q) for q in best) for p in kept[3])
    assert not no_better(3)([{"nats_per_character": 1.0}] * 3)


def test_a_saved_model_is_the_same_model(tmp_path):
    for unit, shape in ((Bytes(), Shape("GRU", 2, 6, 10)), (Characters("ab"), Shape("LSTM", 1, 6, 6, True))):
        model = small(unit, shape)
        model.save(tmp_path / "model.safetensors")
        loaded = load_text_model(tmp_path / "model.safetensors")
        assert (loaded.shape, loaded.unit.to_json()) == (shape, unit.to_json())
        np.testing.assert_allclose(loaded.score("abc")[1], model.score("abc")[1], rtol=1e-2)
        loaded.save(tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"nonsense")
    for path, told in ((other, "cannot read"), (tmp_path / "none", "cannot read")):
        with pytest.raises(InputError, match=told):
            load_text_model(path)
    for unit in ({"unit": "characters"}, {"unit": "bpe", "tokenizer": "{}"}, {"unit": ["bytes"]}):
        about = {"shape": {"cell": "GRU", "layers": 1, "features": 2, "hidden": 3}, "unit": unit}
        save_file({"x": torch.zeros(1)}, other, metadata={"nextstate-text-1": json.dumps(about)})
        with pytest.raises(InputError, match=r"^text: "):
            load_text_model(other)
    with pytest.raises(InputError, match="expected one of"):
        Shape("Transformer", 1, 2, 3).network(4)


def test_a_run_killed_again_and_again_ends_with_the_same_model(tmp_path):
    script = Path(__file__).with_name("killed_text.py")
    command = [sys.executable, str(script), str(tmp_path), "0.15"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["kills"] == 1, "the run finished before it could be killed: make it longer"
    assert result["killed"] == result["undisturbed"]


def test_a_kill_costs_a_thousand_steps_at_most(corpus, tmp_path):
    long, short = (prepare(replace(RECIPE, steps=n), corpus, checkpoints=tmp_path) for n in (10**6, 100))
    assert (long.evaluation.every, long.checkpoints.every) == (10**5, 1000)
    assert (short.evaluation.every, short.checkpoints.every) == (10, 10)


def test_weights_that_are_left_out_do_not_change_what_a_chunk_means(corpus):
    """Chunk by chunk, each with its own draw: the engines agree, and the plain network sees no mask."""
    recipe = replace(RECIPE, dropout=Dropout(weights=0.5))

    def losses(engine):
        torch.manual_seed(4)
        network, plain = text_network(recipe, 256)
        source, carry, found = TextStreams(corpus.ids("training"), 4, 16), None, []
        with use_engine(engine):
            for _ in range(3):
                loss = text_loss(network, source.draw(), carry)
                carry = tuple(leaf.detach() for leaf in leaves(loss.carry))
                found.append(loss.value.detach())
        return torch.stack(found), network, plain

    (compiled, network, plain), (meant, _, _) = losses("cpu"), losses("reference")
    torch.testing.assert_close(compiled, meant)
    first, second = (network.cell.initial_state(4) and network.cell.cell.cells[0].masks for _ in range(2))
    assert not torch.equal(*(next(iter(masks.values())) for masks in (first, second)))
    ids = torch.tensor([list(TEXT)])
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(ids)[0], plain.eval()(ids)[0])
        network.train()
        assert not torch.allclose(network(ids)[0], plain(ids)[0], atol=1e-3)


def test_the_card_counts_what_all_processes_read(corpus):
    def passes(processes):
        figures = {"seconds": 1.0, "nats": 1.0, "measured": 1, "parameters": 1, "command": "c"}
        card = text_card(RECIPE, corpus, seed=0, steps=100, processes=processes, **figures)
        return float(re.search(r"read ([0-9.]+) times", card).group(1))

    assert passes(2) == pytest.approx(2 * 100 * 8 * 37 / corpus.training.tokens, abs=0.05)
    assert passes(1) < passes(2)


def test_pictures(overfitted, tmp_path):
    _, records, model = overfitted
    draw_curve(records, 1.0, tmp_path / "curve.png")
    draw_surprise(*model.score("the quick $brown$ cat\n\tüber 漢\n"), tmp_path / "surprise.png")
    for name in ("curve.png", "surprise.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
