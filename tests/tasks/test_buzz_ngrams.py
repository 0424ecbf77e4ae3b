"""The linear model of runs of words: what it counts, how it is fitted, kept and explained."""

import numpy as np
import pytest
import torch

from nextstate import InputError
from nextstate.buzzometer import Buzzometer, Shape
from nextstate.networks.document_classifier import DocumentClassifier
from nextstate.recipes import buzz as recipes
from nextstate.recipes.buzz import Recipe, ngrams_of, prepare
from nextstate.tasks.buzz.calibration import Temperature, fit_share
from nextstate.tasks.buzz.examples import Examples
from nextstate.tasks.buzz.ngrams import AT_ONCE, NGrams, fit_ngrams, places
from nextstate.tasks.buzz.words import Words

ROWS = 1 << 12


def random_ngrams(classes=3, rows=ROWS):
    generator = torch.Generator().manual_seed(0)
    return NGrams(torch.randn(rows, classes, generator=generator), torch.tensor([0.1, -0.2, 0.3])[:classes])


def texts_of(count, seed, words=20):
    """Texts whose class hangs on the order of two words: no single word says anything."""
    random = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(count):
        label = int(random.integers(2))
        text = random.integers(4, words, random.integers(2, 9)).tolist()
        place = random.integers(len(text) + 1)
        text[place:place] = [2, 3] if label else [3, 2]
        texts.append(np.array(text))
        labels.append(label)
    return texts, np.array(labels)


def test_every_distinct_run_counts_once():
    ngrams = random_ngrams()
    text = [5, 6, 5, 6, 7]
    runs = {(5,), (6,), (7,), (5, 6), (6, 5), (6, 7), (5, 6, 5), (6, 5, 6), (5, 6, 7)}
    rows = {run: places(run, ROWS)[-1] for run in runs}  # the last place of a run is the run itself
    assert len(set(rows.values())) == len(runs)
    wanted = ngrams.bias + sum(ngrams.weights[row] for row in rows.values())
    assert torch.allclose(ngrams.logits([text])[0], wanted, atol=1e-5)
    assert torch.equal(ngrams.logits([[], text, []])[[0, 2]], ngrams.bias.expand(2, 3))
    assert ngrams.logits([]).shape == (0, 3)
    many = [text, []] * AT_ONCE
    assert torch.equal(ngrams.logits(many)[-2:], ngrams.logits([text, []]))


@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_shares_of_the_words_add_up_to_the_logits(length):
    ngrams = random_ngrams()
    text = np.random.default_rng(length).integers(0, 3, length)  # few words: runs repeat
    shares = ngrams.shares(text)
    assert shares.shape == (length, 3)
    assert torch.allclose(shares.sum(0) + ngrams.bias, ngrams.logits([text])[0], atol=1e-5)


def test_order_is_learned_that_no_word_shows():
    texts, labels = texts_of(600, 0)
    unseen, truth = texts_of(400, 1)
    found = fit_ngrams(texts, labels, 2, rows=ROWS)
    assert (found.logits(unseen).argmax(1).numpy() == truth).mean() > 0.97
    again = fit_ngrams(texts, labels, 2, rows=ROWS)
    assert torch.equal(found.weights, again.weights)
    shuffled = np.random.default_rng(2).permutation(labels)
    nonsense = fit_ngrams(texts, shuffled, 2, rows=ROWS)
    assert (nonsense.logits(unseen).argmax(1).numpy() == truth).mean() < 0.7


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 3.0])])
def test_the_fit_is_the_least_of_what_it_says(weights):
    texts, labels = texts_of(60, 3)
    found = fit_ngrams(texts, labels, 2, rows=1 << 8, decay=2.0, weights=weights, steps=300)
    heavy = None if weights is None else weights.double()
    matrix = torch.stack(
        [torch.bincount(torch.from_numpy(np.unique(places(t, 256))), minlength=256) for t in texts]
    )
    counts = matrix.T.double() @ torch.nn.functional.one_hot(torch.from_numpy(labels), 2).double()
    inside, outside = 1 + counts, 1 + counts.flip(1)
    ratio = (inside / inside.sum(0)).log() - (outside / outside.sum(0)).log()
    v = (found.weights.double() / ratio).nan_to_num(0, 0, 0).requires_grad_()
    bias = found.bias.double().requires_grad_()
    logits = matrix.double() @ (ratio * v) + bias
    truth = torch.from_numpy(labels)
    loss = torch.nn.functional.cross_entropy(logits, truth, heavy, reduction="sum") + v.square().sum()
    slopes = torch.autograd.grad(loss, (v, bias))
    assert max(float(slope.abs().max()) for slope in slopes) < 0.01
    worse = loss.detach() + 0.01
    with torch.no_grad():
        moved = matrix.double() @ (ratio * v * 1.3) + bias
        other = torch.nn.functional.cross_entropy(moved, truth, heavy, reduction="sum")
        assert other + (1.3 * v).square().sum() > worse


def test_a_probability_is_as_many_texts_of_each_label():
    texts, labels = texts_of(40, 4)
    turned = 1 - labels
    hard = fit_ngrams(4 * texts, np.concatenate([labels, labels, labels, turned]), 2, rows=ROWS)
    probabilities = np.full((40, 2), 0.25, dtype=np.float32)
    probabilities[np.arange(40), labels] = 0.75
    soft = fit_ngrams(4 * texts, np.concatenate(4 * [probabilities]), 2, rows=ROWS)
    assert torch.allclose(hard.logits(texts), soft.logits(texts), atol=1e-3)
    sure = fit_ngrams(4 * texts, np.concatenate(4 * [labels]), 2, rows=ROWS)
    assert not torch.allclose(sure.logits(texts), soft.logits(texts), atol=0.5)


def test_eight_bits_are_enough():
    ngrams = random_ngrams()
    tensors = ngrams.packed() | {"other": torch.zeros(1)}
    found = NGrams.unpacked(tensors, 3)
    assert list(tensors) == ["other"]
    assert found is not None
    assert (found.weights - ngrams.weights).norm() / ngrams.weights.norm() < 0.01
    assert torch.equal(found.bias, ngrams.bias)
    assert NGrams.unpacked(tensors, 3) is None


def test_no_more_rows_than_the_texts_need():
    texts, labels = texts_of(20, 0)
    few = ngrams_of(Recipe(), Examples(texts, labels), 2)
    occurring = 3 * sum(map(len, texts))
    assert 4 * occurring <= len(few.weights) <= 8 * occurring
    for classes, rows in ((2, 64), (4, 64), (5, 32), (40, 4)):
        assert len(ngrams_of(Recipe(ngrams=64), Examples(texts, labels), classes).weights) == rows


@pytest.mark.parametrize(("rows", "count"), [(100, 2), (1, 2), (64, 1), (64, 0)])
def test_what_cannot_be_fitted_is_refused(rows, count):
    with pytest.raises(InputError, match=rf"{count} texts, 2 labels, {rows} rows"):
        fit_ngrams([[1], [2]][:count], np.array([0, 1]), 2, rows=rows)


def test_a_model_that_knows_nothing_gets_no_share():
    torch.manual_seed(0)
    good, noise = torch.randn(3000, 2), torch.randn(3000, 2)
    labels = torch.distributions.Categorical(logits=2 * good).sample()
    lengths = torch.full((3000,), 20)
    share, bias, heat = fit_share(good, noise, lengths, labels)
    assert share < 0.1
    assert not bias.any()
    assert float(heat.of(torch.tensor(20.0))) == pytest.approx(0.5, abs=0.08)
    assert fit_share(noise, good, lengths, labels)[0] > 5


@pytest.mark.parametrize("others", [torch.zeros(3, 2), torch.tensor([[1e-4, -1e-4]]).expand(3, 2)])
def test_where_texts_say_nothing_of_the_share_it_is_one(others):
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0]])
    share, _, heat = fit_share(logits, others, torch.tensor([5, 9, 30]), torch.tensor([0, 1, 0]))
    assert share == pytest.approx(1, abs=0.01)
    assert 0.3 < float(heat.of(torch.tensor(20.0))) < 1


def test_one_text_moves_the_share_a_little():
    logits, label = torch.tensor([[0.5, 0.0]]), torch.tensor([0])
    for others, low, high in (([[3.0, -3.0]], 1, 1.5), ([[-3.0, 3.0]], 0.2, 1)):
        share = fit_share(logits, torch.tensor(others), torch.tensor([5]), label).share
        assert low < share < high


def test_a_bias_gives_every_class_its_share_and_few_texts_a_small_one():
    torch.manual_seed(0)
    logits, nothing, bias = torch.randn(4000, 3), torch.zeros(4000, 3), torch.tensor([0.0, 1.0, -1.0])
    lengths = torch.full((4000,), 20)
    labels = torch.distributions.Categorical(logits=logits + bias).sample()
    found = fit_share(logits, nothing, lengths, labels, biased=True)
    heat = found.temperature.of(lengths).unsqueeze(-1)
    shares = ((logits + found.bias) / heat).softmax(-1).mean(0)
    wanted = torch.bincount(labels) / len(labels)
    assert torch.allclose(shares, wanted, atol=0.01)
    assert not torch.allclose((logits / heat).softmax(-1).mean(0), wanted, atol=0.1)
    few = fit_share(logits[:3], nothing[:3], lengths[:3], torch.tensor([1, 1, 1]), biased=True)
    assert few.bias.abs().max() < 2, "without its prior it would grow without end"


@pytest.mark.parametrize("balance", [0.0, 0.25])
def test_rare_classes_that_were_made_more_frequent_stay_so(balance, monkeypatch):
    asked, extra = [], torch.tensor([7.0, -7.0])

    def seen(*given, biased):
        asked.append(biased)
        found = fit_share(*given, biased=biased)
        return found._replace(share=1.0, bias=extra if biased else 0 * extra)

    monkeypatch.setattr(recipes, "fit_share", seen)
    held = Examples([np.array([place % 5]) for place in range(400)], np.array([1] * 300 + [0] * 100))
    recipe = Recipe(features=6, hidden=5, balance=balance, ngrams=64, average=0.0, half=False)
    run = prepare(recipe, WORDS, ("no", "yes"), held, held, steps=1)
    model, again = run.buzzometer(), run.buzzometer()
    assert asked == 2 * [not balance]
    assert torch.equal(again.ngrams.bias, model.ngrams.bias), "the run is left as it was"
    fitted = recipes.ngrams_of(recipe, held, 2).bias
    assert torch.equal(model.ngrams.bias, fitted if balance else fitted + extra)


WORDS = Words(["good", "bad", "film", "not", "so"], buckets=4)
LABELS = ("negative", "neutral", "positive")


def buzzometer(ngrams):
    torch.manual_seed(1)
    network = DocumentClassifier(len(WORDS), 6, 5, 3)
    return Buzzometer(network, WORDS, Shape(6, 5, LABELS, 4, Temperature(0.1, 0.2)), ngrams)


def test_contributions_of_network_and_ngrams_add_up():
    plain, both = buzzometer(None), buzzometer(random_ngrams())
    text = "not so good film not so bad !"
    ids = WORDS.ids(text)
    assert torch.allclose(
        both.logits([ids])[0], plain.logits([ids])[0] + random_ngrams().logits([ids]), atol=1e-5
    )
    found = both.explain(text)
    assert found.error < 0.006
    assert found.score == pytest.approx(both.score([text])[0].score, abs=1e-5)
    ignored = Buzzometer(both.network, WORDS, both.shape)
    assert abs(found.score - ignored.explain(text).score) > 0.05
    assert both.explain("").words == []
    assert both.score([""])[0].score == 0


def test_ngrams_come_back_from_the_file(tmp_path):
    both = buzzometer(random_ngrams())
    both.save(tmp_path / "m.safetensors")
    found = Buzzometer.load(tmp_path / "m.safetensors")
    assert found.ngrams is not None
    texts = ["not so good", "bad film", ""]
    for one, other in zip(both.score(texts), found.score(texts), strict=True):
        assert one.score == pytest.approx(other.score, abs=0.03)
    found.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()
    buzzometer(None).save(tmp_path / "plain.safetensors")
    assert Buzzometer.load(tmp_path / "plain.safetensors").ngrams is None


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ({"ngrams.most": None}, "ngrams.most"),
        ({"ngrams.weights": None}, "ngrams.most"),
        ({"ngrams.weights": torch.zeros(ROWS, 5, dtype=torch.int8)}, "power of two"),
        ({"ngrams.weights": torch.zeros(ROWS, 1, dtype=torch.int8)}, "power of two"),
        ({"ngrams.weights": torch.zeros(100, 3, dtype=torch.int8)}, "power of two"),
        ({"ngrams.weights": torch.zeros(0, 3, dtype=torch.int8)}, "power of two"),
        ({"ngrams.weights": torch.tensor(1, dtype=torch.int8)}, "power of two"),
        ({"ngrams.most": torch.ones(1)}, "power of two"),
        ({"ngrams.bias": torch.zeros(1)}, "power of two"),
        ({"ngrams.bias": torch.full((3,), torch.nan)}, "finite"),
        ({"table.scale": torch.full((1,), torch.inf)}, "table.scale holds numbers that are not finite"),
    ],
)
def test_ngrams_that_are_no_ngrams_are_refused_with_the_file(tmp_path, damage, complaint):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tmp_path / "m.safetensors"
    buzzometer(random_ngrams()).save(path)
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file({name: t for name, t in (tensors | damage).items() if t is not None}, path, metadata)
    with pytest.raises(InputError, match=rf"(?s)m\.safetensors.*{complaint}"):
        Buzzometer.load(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"m\.safetensors"):
        Buzzometer.load(path)
