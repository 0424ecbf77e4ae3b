"""The plan of a text's training: sizes, steps, dropout and decay by the time and the text."""

from dataclasses import replace

import pytest

from nextstate import InputError
from nextstate.recipes.text import Dropout, Recipe
from nextstate.recipes.text_model import Shape
from nextstate.recipes.text_plan import bf16_for, decay_for, dropout_for, planned, sized
from nextstate.tasks.text import prepare_corpus


def test_a_plan_fits_the_time_and_says_how_much_to_drop(tmp_path):
    corpus = prepare_corpus([b"sphinx of black quartz, judge my vow\n" * 60], tmp_path)
    recipe = Recipe(Shape("GRU", 1, 4, 8), rows=8, length=37, steps=340, rate=1e-2, average=0.9)
    short, long = (planned(recipe, corpus, seconds).steps for seconds in (1.0, 20.0))
    assert 5 * short < long < 100 * short
    assert planned(recipe, corpus, 1.0, dropout=False).dropout == Dropout()
    dropped = replace(recipe, dropout=Dropout(output=0.9, weights=0.2))
    assert planned(dropped, corpus, 1.0, dropout=False).dropout == dropped.dropout
    found = planned(dropped, corpus, 1.0).dropout
    assert (found.weights, found.state) == (0.2, found.output / 2)
    rates = [dropout_for(passes).output for passes in (0.1, 8, 11, 12, 40, 10_000)]
    assert rates == sorted(rates)
    assert rates[:3] == [0, 0, 0]
    assert rates[3] > 0.05
    assert rates[-1] == 0.5
    plans = [sized(minutes, 10**6, "GRU") for minutes in (1, 5, 20, 60)]
    assert [plan.shape.hidden for plan in plans] == sorted({plan.shape.hidden for plan in plans})
    assert 6e-3 >= plans[0].rate > plans[1].rate > plans[2].rate > plans[3].rate > 1e-3
    for minutes in (0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"minutes is {minutes}"):
            sized(minutes, 100)
    with pytest.raises(InputError, match="precision is 'int8'"):
        bf16_for("int8")


def test_a_mogrifier_where_a_text_is_read_several_times():
    """As wide as takes as long: its matrices together a little below the GRU's."""

    def weights(recipe):
        (cell,) = recipe.shape.cells()
        return sum(p.numel() for p in cell.parameters() if p.dim() == 2)

    for minutes in (20, 60):
        gru, found = sized(minutes, 10**6, "GRU"), sized(minutes, 10**6)
        assert (gru.shape.cell, found.shape.cell) == ("GRU", "MogrifierLSTM")
        assert 0.75 < weights(found) / weights(gru) < 1
        assert found.rate == gru.rate
    assert {sized(m, n).shape.cell for m, n in ((5, 10**6), (20, 10**7), (20, 10**4), (60, 10**8))} == {"GRU"}
    assert sized(1, 10**6, "MogrifierLSTM").shape.hidden == 352
    assert sized(20, 10**6, "LSTM").shape.hidden == 768


def test_decay_forgets_in_passes_whatever_the_rate_and_the_rows():
    """So many passes lie in the time over which AdamW averages: 1 / (rate x decay) steps."""

    def passes(recipe, tokens, processes=1):
        steps = 1 / (recipe.rate * decay_for(recipe, tokens, processes))
        return processes * steps * recipe.rows * recipe.length / tokens

    twenty = sized(20, 10**6)
    for recipe in (twenty, sized(60, 10**6), replace(twenty, rate=2e-3), replace(twenty, rows=32, rate=6e-3)):
        assert passes(recipe, 2 * 10**6) == pytest.approx(3)
        assert passes(recipe, 2 * 10**6, processes=2) == pytest.approx(3)
    assert decay_for(twenty, 1000) == 0.4
    assert decay_for(twenty, 10**9) == 0.01
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match=f"rate is {rate}"):
            decay_for(replace(twenty, rate=rate), 10**6)
