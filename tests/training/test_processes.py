"""Two processes under torchrun: one gradient, and a run that a kill does not change."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from two_processes import EVERY, KILLED_AT, ROWS, STEPS, batch, joined, loss, start

from nextstate.training import Checkpoints, Steps, fit, here, of_first


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What two processes left behind that torchrun started, and started again after one was killed."""
    folder = tmp_path_factory.mktemp("processes")
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", "--monitor-interval", "0.1"]
    command += [str(tests / "training" / "two_processes.py"), str(folder)]
    # Without a store of their own, started again, processes may be told the addresses of those that died.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def alone(draw):
    state = start(draw)
    list(fit(state, loss, Steps(STEPS), clip=None))
    return state.model.state_dict()


def apart(left, right):
    """The largest difference of two sets of parameters."""
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def test_two_processes_take_the_steps_of_one_on_the_joined_batches(ran):
    found = torch.load(ran / "quiet.pt", weights_only=True)
    assert apart(found, alone(joined)) < 2e-6
    assert apart(found, start().model.state_dict()) > 0.05, "the parameters have hardly moved"
    assert apart(found, alone(lambda number: batch(2 * number))) > 1e-3, "the second process was not missed"


def test_a_killed_process_is_started_again_and_changes_nothing(ran):
    begun = {path.name: int(path.read_text()) for path in ran.glob("began-disturbed-*")}
    last = KILLED_AT // EVERY * EVERY
    assert begun == {
        "began-disturbed-0-0": 0,
        "began-disturbed-1-0": 0,
        "began-disturbed-0-1": last,
        "began-disturbed-1-1": last,
    }
    quiet, disturbed = (torch.load(ran / f"{name}.pt", weights_only=True) for name in ("quiet", "disturbed"))
    assert all(torch.equal(quiet[name], disturbed[name]) for name in quiet)


def test_every_process_has_its_carried_state_back(ran):
    """Each ends with the states of its own rows; those of the other one are others."""
    whole, ends = start(joined), []
    list(fit(whole, loss, Steps(STEPS), clip=None))

    class Rank(Fabric):
        global_rank, world_size = 0, 2

    for rank in range(2):
        fabric, state = Rank(accelerator="cpu", devices=1), start()
        Rank.global_rank = rank
        assert Checkpoints(ran / "disturbed").restore(state, fabric)
        ends.append(state.carry[0])
    both = torch.cat(ends)
    torch.testing.assert_close(both, whole.carry[0], rtol=0, atol=1e-5)
    assert not torch.allclose(both.roll(ROWS, 0), whole.carry[0], atol=1e-2)


def test_the_first_process_alone_writes(ran):
    assert {path.name for path in ran.glob("wrote-*")} == {"wrote-quiet-0", "wrote-disturbed-0"}


def test_alone_there_is_one_process():
    assert here() is here()
    assert here().world_size == 1
    assert of_first(here(), lambda: 5) == 5
