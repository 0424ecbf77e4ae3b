"""Figures, calibration, splits, batches and word vectors, each against what it means."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_recall_fscore_support

from nextstate import InputError
from nextstate.recipes.buzz_report import draw_confusion, figures_table
from nextstate.tasks.buzz import vectors
from nextstate.tasks.buzz.calibration import calibration_error, fit_temperature, reliability
from nextstate.tasks.buzz.examples import Examples, split
from nextstate.tasks.buzz.measure import figures
from nextstate.tasks.buzz.vectors import word_vectors


def answers(count, temperature=1.0, classes=3, seed=0):
    """Probabilities, and labels that occur just so often (where the temperature is 1)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=generator)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator).flatten()
    return logits * temperature, labels


def test_figures_agree_with_another_library():
    logits, labels = answers(500)
    found = figures(logits.softmax(-1), labels, ("a", "b", "c"))
    given = logits.argmax(-1)
    precision, recall, f1, texts = precision_recall_fscore_support(labels, given)
    for number, of in enumerate(found.classes.values()):
        wanted = (precision[number], recall[number], f1[number], texts[number])
        assert (of.precision, of.recall, of.f1, of.texts) == pytest.approx(wanted)
    assert found.macro_f1 == pytest.approx(f1_score(labels, given, average="macro"))
    assert sum(map(sum, found.confusion)) == found.texts == 500
    assert found.accuracy == pytest.approx(sum(found.confusion[i][i] for i in range(3)) / 500)


def test_calibration_error_sees_what_is_not_calibrated():
    for temperature, low, high in ((1.0, 0.0, 0.02), (3.0, 0.1, 1.0), (0.3, 0.1, 1.0)):
        logits, labels = answers(20_000, temperature)
        assert low <= calibration_error(logits.softmax(-1), labels) <= high
    bins = reliability(logits.softmax(-1), labels)
    assert sum(part.answers for part in bins) == 20_000


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_temperature_is_found_also_where_it_depends_on_length(slope):
    logits, labels = answers(20_000, classes=2)
    lengths = torch.randint(1, 500, (20_000,))
    heated = logits * torch.exp(0.7 + slope * torch.log1p(lengths / 10)).unsqueeze(-1)
    fitted = fit_temperature(heated, lengths, labels)
    assert fitted.constant == pytest.approx(0.7, abs=0.15)
    assert fitted.slope == pytest.approx(slope, abs=0.05)
    mended = (heated / fitted.of(lengths).unsqueeze(-1)).softmax(-1)
    assert calibration_error(mended, labels) < 0.02 < calibration_error(heated.softmax(-1), labels)


@pytest.mark.parametrize("right", [True, False])
def test_few_texts_do_not_make_the_next_one_certain(right):
    logits = 2 * torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    labels = logits.argmax(1) if right else logits.argmin(1)
    fitted = fit_temperature(logits, torch.full((5,), 20), labels)
    assert fitted.constant < 0 if right else fitted.constant > 0
    for length in (1.0, 20.0, 2000.0):
        assert 0.1 < float(fitted.of(torch.tensor(length))) < 30


def test_split_keeps_labels_in_proportion_and_equal_texts_together():
    texts = [f"text {n // 2}" if n % 2 else f"Text  {n // 2}" for n in range(400)]
    labels = [int(n // 2 % 4 == 0) for n in range(400)]
    parts = split(texts, labels, [0.2, 0.1], seed=3)
    assert sorted(place for part in parts for place in part) == list(range(400))
    assert [len(part) for part in parts] == [280, 80, 40]
    for part in parts:
        assert all(place ^ 1 in part for place in part)
        assert np.mean([labels[place] for place in part]) == pytest.approx(0.25, abs=0.01)
    assert split(texts, labels, [0.2, 0.1], seed=3) == parts != split(texts, labels, [0.2, 0.1], seed=4)
    with pytest.raises(
        InputError, match=r"shares are \[0\.6, 0\.5\]; expected shares of at least 0 whose sum"
    ):
        split(texts, labels, [0.6, 0.5])
    with pytest.raises(InputError, match="there are 400 texts and 399 labels; expected as many of both"):
        split(texts, labels[1:], [0.2])


def test_split_keeps_groups_together():
    texts = [f"text {n}" for n in range(120)]
    texts[5] = texts[118]  # of two groups, which so become one
    labels = [n // 4 % 2 for n in range(120)]
    groups = [f"film {n // 4}" if n < 119 else "" for n in range(120)]
    parts = split(texts, labels, [0.2, 0.1], seed=3, groups=groups)
    assert sorted(place for part in parts for place in part) == list(range(120))
    for part in parts:
        assert not {groups[place] for place in part if groups[place]} & {
            groups[place] for place in range(120) if place not in part
        }
        assert len({5, 118} & set(part)) in (0, 2)
    # films: 20 of 4 texts and one of 3; 6; 3 and a text of none
    assert [len(part) for part in parts] == [83, 24, 13]
    assert parts != split(texts, labels, [0.2, 0.1], seed=3)
    assert split(texts, labels, [0.2], groups=[""] * 120) == split(texts, labels, [0.2])
    with pytest.raises(InputError, match="there are 120 texts and 1 groups; expected as many of both"):
        split(texts, labels, [0.2], groups=["a"])


ODD = ("$1_$2", "a|b\nc", "$\\frac$")


def test_labels_are_drawn_and_written_as_they_are_not_as_formulas_or_tables(tmp_path):
    logits, labels = answers(60)
    found = figures(logits.softmax(-1), labels, ODD)
    draw_confusion(found, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    head, rule, *rows = figures_table(found)
    assert [row.split(" | ")[0] for row in rows] == ["| $1_$2", "| a\\|b<br>c", "| $\\frac$"]
    assert {row.replace("\\|", "").count("|") for row in (head, rule, *rows)} == {6}


def test_words_of_equal_company_have_near_vectors():
    random = np.random.default_rng(0)
    # words 0..9 keep company with 20..24, words 10..19 with 25..29
    texts = []
    for _ in range(3000):
        side = random.integers(2)
        texts.append([random.integers(10) + 10 * side, *random.integers(5, size=3) + 20 + 5 * side])
    vectors = torch.nn.functional.normalize(word_vectors(texts, 32, 6), dim=1)
    same, other = vectors[:10] @ vectors[:10].T, vectors[:10] @ vectors[10:20].T
    assert same.mean() > other.mean() + 0.5
    assert not vectors[30:].any(), "ids that do not occur"
    assert torch.equal(word_vectors(texts, 32, 6), word_vectors(texts, 32, 6))


@pytest.mark.parametrize("at_once", [1, 15, 10**6])
def test_pairs_are_counted_by_distance_however_the_texts_are_cut(at_once, monkeypatch):
    monkeypatch.setattr(vectors, "AT_ONCE", at_once)
    random, window = np.random.default_rng(1), 3
    texts = [random.integers(6, size=n).tolist() for n in (0, 1, 2, 30, 9)]
    wanted = {}
    for text in texts:
        for i, word in enumerate(text):
            for j in (*range(max(0, i - window), i), *range(i + 1, min(len(text), i + window + 1))):
                if text[j] < 4:  # only those are contexts
                    key = word * 4 + text[j]
                    wanted[key] = wanted.get(key, 0) + 1 / abs(i - j)
    ids = np.concatenate([[-1] * window, *([*text, *[-1] * window] for text in texts)]).astype(np.int64)
    place = np.array([0, 1, 2, 3, -1, -1, -1])
    keys, weights = vectors._pairs(ids, place, 4, window)
    assert keys.tolist() == sorted(wanted)
    assert weights.tolist() == pytest.approx([wanted[key] for key in sorted(wanted)], rel=1e-6)


def test_examples_are_chosen_and_joined():
    examples = Examples([np.array([1]), np.array([2, 3])], np.array([0, 1]))
    both = examples + examples.chosen([1])
    assert [ids.tolist() for ids in both.ids] == [[1], [2, 3], [2, 3]]
    assert both.labels.tolist() == [0, 1, 1]
