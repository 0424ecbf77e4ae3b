"""The network over pieces, its scores and their reasons, and training that can be stopped anywhere."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

import nextstate as ns
from nextstate import InputError
from nextstate.buzzometer import FORMAT, Buzzometer, Shape
from nextstate.networks.document_classifier import DocumentClassifier, cut
from nextstate.recipes.buzz import Recipe, adopt, adversarial_loss, as_ids, class_weights, evaluate, prepare
from nextstate.recipes.buzz_pretrain import TwoWays, kept_shares, prepare_reading
from nextstate.tasks.buzz.calibration import Temperature
from nextstate.tasks.buzz.examples import Examples
from nextstate.tasks.buzz.words import Words
from nextstate.training import Checkpoints

GOOD, BAD = ["good", "great", "fine", "lovely"], ["bad", "awful", "poor", "dull"]
OTHER = ["the", "film", "was", "a", "day"]
WORDS = Words([*GOOD, *BAD, *OTHER, "not", "!"], buckets=4)
LABELS = ("negative", "neutral", "positive")
TINY = Recipe(
    features=12, hidden=10, piece=6, batch=32, epochs=6, rate=2e-2, scale=0.3, adversarial=0.2, half=False
)


def sayings(count, seed):
    """Sentences of a small language: a feeling, perhaps turned by "not", among words that say nothing."""
    random, texts, labels = np.random.default_rng(seed), [], []
    for _ in range(count):
        kind = int(random.integers(3))
        words = list(random.choice(OTHER, random.integers(2, 12)))
        if kind != 1:
            turned = random.random() < 0.4
            feeling = random.choice(GOOD if (kind == 2) != turned else BAD)
            place = random.integers(len(words) + 1)
            words[place:place] = ["not", feeling] if turned else [feeling]
        texts.append(" ".join(words))
        labels.append(kind)
    return texts, labels


@pytest.fixture(scope="module")
def tiny():
    train, held = as_ids(WORDS, *sayings(1500, 0)), as_ids(WORDS, *sayings(300, 1))
    run = prepare(TINY, WORDS, LABELS, train, held, seed=0)
    for _ in run.records():
        pass
    return run.buzzometer()


def network(classes=3, seed=0, **noise):
    torch.manual_seed(seed)
    return DocumentClassifier(len(WORDS), 6, 5, classes, **noise)


def fresh(seed=0):
    return Buzzometer(network(seed=seed), WORDS, Shape(6, 5, LABELS, 4, Temperature(0.1, 0.2)))


def test_texts_are_read_whole_and_alone():
    net = network().eval()
    random = np.random.default_rng(0)
    texts = [random.integers(1, len(WORDS), n) for n in (0, 1, 4, 5, 23)]
    together = net(cut(texts, 4))
    for place, text in enumerate(texts):
        alone = net(cut([text], 4))
        assert torch.allclose(together[place], alone[0], atol=1e-6)
        changed = [*text[:-1], (text[-1] + 1) % len(WORDS)] if len(text) else [3]
        assert not torch.allclose(alone, net(cut([changed], 4)), atol=1e-6), "the last word counts"


def test_pooling_is_over_all_steps_of_all_pieces():
    net = network().eval()
    text = np.arange(1, 12)
    pieces = cut([text], 4)
    us = net.look_up(pieces)
    vs = net.read(us, pieces.lengths)
    steps, words = (torch.cat([x[:n, r] for r, n in enumerate(pieces.lengths)]) for x in (vs, us))
    assert len(steps) == 11
    features = (torch.cat([steps, words], 1) @ net.combination.weight.T + net.combination.bias).clamp(min=0)
    pooled = net.pool(us, pieces)
    assert torch.allclose(pooled.largest[0], features.amax(0), atol=1e-6)
    assert torch.allclose(pooled.total[0], features.sum(0), atol=1e-5)
    one = ns.Bidirectional(net.layer.forward_cell, net.layer.backward_cell)
    whole, _ = one(F.embedding(torch.from_numpy(text)[:, None], net.table))
    assert not torch.allclose(whole[:, 0], steps, atol=1e-4), "pieces do not see each other"
    assert torch.allclose(whole[:, 0], net.read(net.look_up(cut([text], 11)), torch.tensor([11]))[:, 0])


def test_scores_do_not_depend_on_company_or_batch_size():
    buzz = fresh()
    texts = ["good", "", "bad film ! " * 50, "the film was not good", "👍"]
    alone = [buzz.score([text])[0] for text in texts]
    for size in (1, 2, 256):
        for one, other in zip(buzz.score(texts, batch_size=size), alone, strict=True):
            assert one.label == other.label
            assert one.score == pytest.approx(other.score, abs=1e-6)
            assert sum(one.probabilities.values()) == pytest.approx(1)
            assert one.probability == max(one.probabilities.values())
            assert one.score == pytest.approx(one.probabilities["positive"] - one.probabilities["negative"])


def test_nothing_to_read_is_neutral():
    for text in ("", "  \n", "\x00\x07", "\u200b"):
        answer = fresh().score([text])[0]
        assert (answer.label, answer.score) == ("neutral", 0)
        assert answer.probability == pytest.approx(1 / 3)
        assert fresh().explain(text).words == []
    assert fresh().score([]) == []


def test_labels_mean_the_same_in_whatever_case():
    labels = tuple(map(str.title, LABELS))
    plain = fresh()
    titled = Buzzometer(plain.network, WORDS, Shape(6, 5, labels, 4, Temperature(0.1, 0.2)))
    assert titled.score([" "])[0][:2] == ("Neutral", 0)
    for one, other in zip(plain.score(["good", "bad film"]), titled.score(["good", "bad film"]), strict=True):
        assert (one.label.title(), one.score) == (other.label, other.score)
    assert titled.explain("bad film") == plain.explain("bad film")
    one_side = Buzzometer(plain.network, WORDS, Shape(6, 5, ("Neutral", "pos", "up"), 4, Temperature()))
    [answer] = one_side.score(["good"])
    assert answer.score is None
    assert one_side.explain("good").score == pytest.approx(answer.probability)


def test_a_megabyte_is_read_to_its_last_word():
    buzz = fresh()
    text = "filmwasaday " * 84_000
    assert len(text) > 1_000_000
    one, other = buzz.score([text, text + "good"])
    assert one.score != other.score


@pytest.mark.parametrize("texts", ["good", [3], [None], [b"good"]])
def test_anything_but_texts_is_refused(texts):
    with pytest.raises(InputError, match="expected a"):
        fresh().score(texts)
    with pytest.raises(InputError, match="expected a text"):
        fresh().explain(5)


def test_a_small_language_is_learned_with_its_negation(tiny):
    texts, labels = sayings(400, 2)
    found = evaluate(tiny, as_ids(WORDS, texts, labels))
    assert found.accuracy > 0.95
    assert found.calibration_error < 0.08
    good, turned = tiny.score(["the film was good", "the film was not good"])
    assert good.score > 0.5
    assert turned.score < -0.5


def test_explanations_need_no_mode_of_gradients(tiny):
    wanted = tiny.explain("the film was good")
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert tiny.explain("the film was good") == wanted


def test_texts_without_words_train_as_long_as_some_have_one():
    empty = Examples([np.zeros(0, dtype=np.int32)] * 4, np.array([0, 1, 2, 0]))
    with pytest.raises(InputError, match="none of the 4 texts has a word"):
        prepare(TINY, WORDS, LABELS, empty, empty)
    net = network()
    loss = adversarial_loss(
        net, (cut(empty.ids, 3), torch.from_numpy(empty.labels)), None, size=0.3, weights=torch.ones(3)
    )
    loss.value.backward()
    assert net.readout.bias.grad.abs().sum() > 0


def test_contributions_add_up_and_name_the_word(tiny):
    for text in ("the film was good", "a day not awful !", "the bad film " * 3):
        found = tiny.explain(text)
        assert found.error < 0.01
        assert found.score == pytest.approx(tiny.score([text])[0].score, abs=1e-5)
        assert [text[w.start : w.end] for w in found.words] == [w.word for w in found.words]
    found = tiny.explain("the film was good")
    assert max(found.words, key=lambda word: word.contribution).word == "good"
    broken = found._replace(words=[word for word in found.words if word.word != "good"])
    assert broken.error > 0.01, "a word left out is seen"


def test_a_saved_model_is_nearly_the_same_model(tiny, tmp_path):
    path = tmp_path / "m.safetensors"
    tiny.save(path)
    loaded = Buzzometer.load(path)
    texts, _ = sayings(200, 3)
    for one, other in zip(tiny.score(texts), loaded.score(texts), strict=True):
        assert one.score == pytest.approx(other.score, abs=0.05)
    loaded.save(tmp_path / "again.safetensors")
    assert Buzzometer.load(tmp_path / "again.safetensors").score(texts) == loaded.score(texts)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_files_that_are_no_models_are_refused(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "nonsense.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="is not a Buzzometer"):
        Buzzometer.load(tmp_path / "other.safetensors")
    for name in ("nonsense.safetensors", "missing"):
        with pytest.raises(InputError, match="cannot read"):
            Buzzometer.load(tmp_path / name)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ({"temperature": [math.nan, 0]}, r"temperature is \[nan, 0\]; expected two finite numbers"),
        ({"temperature": [-1e300, 0]}, "expected two finite numbers of moderate size"),
        ({"temperature": [10**400, 0]}, "int"),
        ({"temperature": ["a", "b"]}, r"temperature is \['a', 'b'\]"),
        ({"temperature": [0.0]}, r"temperature is \[0\.0\]"),
        ({"labels": [1, 2, 3]}, r"labels are \[1, 2, 3\]; expected two or more different texts"),
        ({"labels": ["a", "a", "b"]}, r"labels are \['a', 'a', 'b'\]"),
        ({"labels": "abc"}, "labels are 'abc'"),
        ({"piece": "x"}, "piece is 'x'; expected an integer of at least 1"),
        ({"piece": 0}, "piece is 0"),
        ({"words": {"words": [], "buckets": 10**20}}, "int"),
    ],
)
def test_metadata_that_no_training_writes_is_refused_with_the_file(tmp_path, damage, complaint):
    path = tmp_path / "m.safetensors"
    fresh().save(path)
    with safe_open(path, framework="pt") as file:
        tensors, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()[FORMAT]  # noqa: SIM118
    save_file(tensors, path, {FORMAT: json.dumps(json.loads(about) | damage)})
    with pytest.raises(InputError, match=rf"(?s)cannot read a model from .*m\.safetensors: .*{complaint}"):
        Buzzometer.load(path)


def test_adversarial_gradient_is_that_of_its_definition():
    noise = {"drop_words": 0.0, "drop_features": 0.0, "drop_pooled": 0.0}
    net = network(**noise).train()
    texts = [np.array([9, 10, 11, 12, 13]), np.array([14]), np.array([], dtype=np.int64)]
    labels, weights, size = torch.tensor([0, 2, 1]), torch.tensor([1.0, 2.0, 0.5]), 0.7
    pieces = cut(texts, 3)
    named = dict(net.named_parameters())
    value = adversarial_loss(net, (pieces, labels), None, size=size, weights=weights).value
    found = torch.autograd.grad(value, named.values())

    def loss(us):
        return F.cross_entropy(net.classify(net.pool(us, pieces)), labels, weight=weights)

    us = net.look_up(pieces)
    [g] = torch.autograd.grad(loss(us), us, retain_graph=True)
    step = torch.zeros_like(us)
    length = float(us.detach().square().sum() / 6) ** 0.5
    for text in range(3):
        own = pieces.owner == text
        norm = float(g[:, own].square().sum()) ** 0.5
        step[:, own] = size * length * g[:, own] / max(norm, 1e-12)
    defined = (loss(us) + loss(us + step.detach())) / 2
    wanted = torch.autograd.grad(defined, named.values())
    assert value.item() == pytest.approx(defined.item(), rel=1e-5)
    assert loss(us + step) > loss(us)
    for name, a, b in zip(named, found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-6), name
    plain = torch.autograd.grad(loss(net.look_up(pieces)), named.values())
    assert not torch.allclose(found[0], plain[0], rtol=1e-2), "the noise matters"


def test_rare_classes_weigh_more():
    weights = class_weights(np.array([0] * 90 + [1] * 10), 2, 0.5)
    assert (weights[1] / weights[0]).item() == pytest.approx(3, rel=1e-5)
    assert (0.9 * weights[0] + 0.1 * weights[1]).item() == pytest.approx(1, rel=1e-5)


def weights_after(tmp_path, stop=None, seed=0):
    train, held = as_ids(WORDS, *sayings(64, 0)), as_ids(WORDS, *sayings(16, 1))
    run = prepare(
        TINY, WORDS, LABELS, train, held, seed=seed, steps=8, checkpoints=Checkpoints(tmp_path, every=2)
    )
    for record in run.records():
        if record.step == stop:
            break
    return torch.cat([p.detach().flatten() for p in run.state.model.parameters()])


def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path):
    whole = weights_after(tmp_path / "a")
    weights_after(tmp_path / "b", stop=3)
    assert torch.equal(weights_after(tmp_path / "b"), whole)
    assert not torch.equal(weights_after(tmp_path / "c", seed=1), whole)


def test_what_a_model_knows_is_taken_over(tiny):
    words = Words(["zzz", "good", "great-film"], buckets=4)
    new = DocumentClassifier(len(words), TINY.features, TINY.hidden, 2)
    readout = new.readout.weight.detach().clone()
    adopt(new, words, tiny)
    [good], [old] = words.ids("good"), WORDS.ids("good")
    assert torch.equal(new.table[good], tiny.network.table[old])
    both = tiny.network.table[WORDS.ids("great-film")].mean(0)
    assert torch.allclose(new.table[words.ids("great-film")[0]], both)
    assert torch.equal(new.readout.weight, readout), "other classes: a new read-out"
    for name, tensor in tiny.network.layer.state_dict().items():
        assert torch.equal(new.layer.state_dict()[name], tensor)
    with pytest.raises(InputError, match="length"):
        adopt(DocumentClassifier(len(words), 5, 5, 2), words, tiny)
    other = DocumentClassifier(len(words), tiny.shape.features, tiny.shape.hidden + 1, 2)
    with pytest.raises(
        InputError, match=f"has {tiny.shape.hidden} units, the network {tiny.shape.hidden + 1}"
    ):
        adopt(other, words, tiny)


def test_reading_learns_what_comes_next():
    random = np.random.default_rng(0)
    texts = []
    for _ in range(400):  # after an even id comes the id above it
        first = 2 * random.integers(5, 10, size=6)
        texts.append(np.stack([first, first + 1], 1).flatten())
    reading = prepare_reading(TINY, WORDS, texts, 3, epochs=10)
    losses = [record.loss for record in reading.records()]
    assert losses[-1] < 0.7 * losses[0]
    start = reading.start(LABELS)
    assert start.labels == LABELS
    with pytest.raises(InputError, match="no texts"):
        prepare_reading(TINY, WORDS, [], 3)


def test_words_are_told_as_often_as_they_are_worth():
    two = TwoWays(network(), 5)
    pieces = cut([[7, 8, 7, 9] * 30, [8, 7]], 30)
    kept = torch.zeros(len(WORDS))
    kept[7] = 1
    told, words = two(pieces, kept)
    heads, tails = pieces.ids[:1], pieces.ids.gather(0, pieces.lengths[None] - 1)
    expected = 2 * (pieces.ids == 7).sum() - (heads == 7).sum() - (tails == 7).sum()
    assert words.unique().tolist() == [7]
    assert told.shape == (expected, 6), "each way all but the first, or all but the last of a piece"
    assert len(two(pieces, torch.zeros(len(WORDS)))[1]) == 0
    for share in (0.0, 1.5):
        with pytest.raises(InputError, match="share is"):
            kept_shares(np.ones(3), share)


def test_too_little_to_learn_from_is_refused():
    nothing = Examples([], np.zeros(0, dtype=np.int64))
    with pytest.raises(InputError, match="two or more"):
        prepare(TINY, WORDS, LABELS, nothing, nothing)
    with pytest.raises(InputError, match="size is 0"):
        cut([[1]], 0)
