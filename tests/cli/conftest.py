"""One small sorter, trained once (two seconds): all that the command line needs to be tried for real."""

import pytest

from nextstate.recipes.sort import Recipe, prepare


@pytest.fixture(scope="session")
def small():
    return Recipe(
        largest=4, shortest=1, longest=5, hidden=32, batch=64, steps=300, full=0.2, plain=0.5, rate=2e-2
    )


@pytest.fixture(scope="session")
def small_sorter(small):
    run = prepare(small, seed=0)
    for _ in run.records():
        pass
    return run.sorter()


@pytest.fixture(scope="session")
def model(small_sorter, tmp_path_factory):
    path = tmp_path_factory.mktemp("sorter") / "model.safetensors"
    small_sorter.save(path)
    return path
