"""Recipes make sorters that sort, to the same bits each time; their files come back as they were."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from nextstate import InputError
from nextstate.cli.train_sort import RecipeName
from nextstate.recipes.sort import RECIPES, prepare, sorting_loss
from nextstate.recipes.sorter import Range, TrainedSorter, load_sorter, sorting_network
from nextstate.tasks.sort import TrainingLists, evaluate


def test_a_small_recipe_learns_every_list(small_sorter):
    for length in range(1, 6):
        lists = torch.tensor(list(itertools.product(range(1, 5), repeat=length)))
        right = (small_sorter(lists) == lists.sort(1).values).all(1)
        assert right.float().mean() >= 0.99, f"length {length}"


def test_an_untrained_sorter_does_not_sort(small):
    fresh = TrainedSorter(sorting_network(4, 32), 32, small.range)
    [entry, *_] = evaluate(fresh, largest=4, lengths=[5], lists=100)
    assert entry.score.shares()["lists_right"] < 0.5


def test_the_same_seed_gives_the_same_bits(small):
    def weights(seed):
        run = prepare(replace(small, steps=5), seed=seed)
        list(run.records())
        return torch.cat([p.flatten() for p in run.state.model.parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_the_tables_stay_one_hot_and_everything_else_moves(small):
    run = prepare(replace(small, steps=3))
    before = {name: p.detach().clone() for name, p in run.state.model.named_parameters()}
    list(run.records())
    for name, parameter in run.state.model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.endswith("table"), name


def test_padding_counts_for_nothing_in_loss_and_metrics():
    batch = TrainingLists(largest=4, longest=5, size=16, full=0.2)(0)
    network = sorting_network(4, 8)
    whole = sorting_loss(network, batch, None)
    total, elements, exact = 0.0, 0.0, 0.0
    for source, target, n in zip(*batch, strict=True):
        one = type(batch)(source[None, :n], target[None, :n], n[None])
        alone = sorting_loss(network, one, None)
        total += alone.value.item() * int(n)
        elements += float(alone.metrics["elements_right"]) * int(n)
        exact += float(alone.metrics["lists_right"])
    numbers = int(batch.lengths.sum())
    assert whole.value.item() == pytest.approx(total / numbers, rel=1e-5)
    assert float(whole.metrics["elements_right"]) == pytest.approx(elements / numbers, rel=1e-5)
    assert float(whole.metrics["lists_right"]) == pytest.approx(exact / 16, rel=1e-5)


def test_a_saved_sorter_is_the_same_sorter(small_sorter, model):
    loaded = load_sorter(model)
    assert loaded.range == Range(largest=4, shortest=1, longest=5)
    lists = torch.randint(1, 5, (50, 5))
    assert torch.equal(loaded(lists), small_sorter(lists))
    assert [path.name for path in model.parent.iterdir()] == ["model.safetensors"]


def test_lists_of_many_lengths_are_answered_in_order(small_sorter):
    lists = [[2, 1], [4], [3, 1, 2], [1, 4], [2, 2, 1, 1, 3]]
    assert small_sorter.sort(lists) == [sorted(numbers) for numbers in lists]
    assert small_sorter.sort([]) == []


def test_files_that_are_no_sorters_are_refused(tmp_path):
    from safetensors.torch import save_file

    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, other)
    with pytest.raises(InputError, match=r"not a sorter's model file .*: its metadata holds nothing"):
        load_sorter(other)
    for content, found in (
        (b"# Read me\nfirst", "it is text that begins with '# Read me'$"),
        (b"", "it is empty$"),
        (bytes(range(200, 240)), r"no safetensors file, or not all of one \(.*header"),
    ):
        other.write_bytes(content)
        with pytest.raises(InputError, match=f"^sort: {other} is not a sorter's model file: {found}"):
            load_sorter(other)
    with pytest.raises(InputError, match=r"cannot read .*: it is a folder"):
        load_sorter(tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        load_sorter(tmp_path / "missing")


def test_every_recipe_can_begin():
    assert {name.value for name in RecipeName} == set(RECIPES), "as the command offers them"
    for recipe in RECIPES.values():
        run = prepare(replace(recipe, steps=1, batch=2, hidden=16))
        result = sorting_loss(run.state.model, run.state.source.draw(), None)
        assert isinstance(run.state.model, nn.Module)
        assert torch.isfinite(result.value)


@pytest.mark.parametrize(("minutes", "every"), [(None, 150), (1, 200), (10, 600), (62, 1000)])
def test_evaluations_take_a_small_part_of_a_run(minutes, every):
    run = prepare(RECIPES["short"], seconds=None if minutes is None else 60 * minutes)
    assert run.evaluation.every == every
