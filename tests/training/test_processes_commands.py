"""`nextstate train` on two processes as docs/service.md starts them, one of them killed on the way."""

import csv
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nextstate.buzzometer import Buzzometer
from nextstate.recipes.text_model import load_text_model

DOCUMENTED = re.search(
    r"^torchrun (.+) nextstate train sort --out runs/sort$",
    (Path(__file__).parents[2] / "docs" / "service.md").read_text(),
    re.MULTILINE,
)
STARTED = "GLOBAL_RANK: 0,"
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "and", "river", "runs", "by"]


def children(pid):
    """Process ids by rank of what a torchrun has started."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            if (
                folder.name.isdigit()
                and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid
            ):
                for setting in (folder / "environ").read_bytes().split(b"\0"):
                    if setting.startswith(b"RANK="):
                        found[int(setting[5:])] = int(folder.name)
        except OSError:
            continue
    return found


def steps(written):
    return [json.loads(line)["step"] for line in written.read_text().splitlines() if line.endswith("}")]


def killed_on_the_way(folder, rank, *arguments):
    """Train, SIGKILL one process at a checkpoint; (its step, steps told before, steps told after)."""
    assert DOCUMENTED, "docs/service.md has no line of torchrun"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", "1"]
    command += ["--monitor-interval", "0.1", *shlex.split(DOCUMENTED[1]), "nextstate", "train"]
    command += [*map(str, arguments), "--out", str(folder / "out"), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    told, log = folder / "told", folder / "log"
    with told.open("w") as out, log.open("w") as err:
        running = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        try:
            checkpoints = folder / "out" / "checkpoints"
            end = time.monotonic() + 250
            while running.poll() is None and not (whole := sorted(checkpoints.glob("step-*"))):
                assert time.monotonic() < end, log.read_text()[-3000:]
                time.sleep(0.01)
            assert running.poll() is None, f"it ended before it could be killed: {log.read_text()[-3000:]}"
            os.kill(children(running.pid)[rank], signal.SIGKILL)
            while running.poll() is None and log.read_text().count(STARTED) < 2:
                time.sleep(0.01)  # the other one may tell a step more before it ends
            before = steps(told)
            assert running.wait(250) == 0, log.read_text()[-3000:]
        finally:
            if running.poll() is None:
                running.terminate()
                running.wait(60)
    starts = log.read_text().count(STARTED)
    assert starts == 2, f"the processes were started {starts} times"
    return int(whole[-1].name.split("-")[1]), before, steps(told)[len(before) :]


def check(checkpoint, before, after, last):
    """The run went on behind its checkpoint, told no step before it again, and came to its end."""
    assert after[0] > checkpoint
    assert after[-1] == last
    assert after.count(last) == 1
    assert set(before).isdisjoint(step for step in after if step <= checkpoint)


def test_a_model_of_text(tmp_path):
    draw = random.Random(0)
    (tmp_path / "book.txt").write_text("\n".join(" ".join(draw.choices(WORDS, k=9)) for _ in range(300)))
    sizes = ["--hidden", 16, "--features", 8, "--layers", 1, "--rows", 4, "--length", 16, "--dropout", 0.2]
    found = killed_on_the_way(tmp_path, 1, "text", tmp_path / "book.txt", "--steps", 80, *sizes)
    check(*found, last=80)
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors",
        "model.md",
        "curve.jsonl",
        "curve.png",
        "run.json",
    }
    assert steps(out / "curve.jsonl") == sorted({*range(8, 81, 8), *range(20, 81, 20)})
    assert b"".join(load_text_model(out / "model.safetensors").generate("the ", length=5))


def test_a_model_of_sentiment(tmp_path):
    draw, feelings = random.Random(0), {"positive": ["good", "lovely"], "negative": ["bad", "awful"]}
    with (tmp_path / "labelled.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(400):
            label = draw.choice(list(feelings))
            writer.writerow(
                [" ".join([*draw.choices(WORDS, k=4), draw.choice(feelings[label]), str(number)]), label]
            )
    sizes = ["--start", "scratch", "--hidden", 8, "--vocabulary", 100, "--epochs", 56]
    checkpoint, before, after = killed_on_the_way(tmp_path, 0, "buzz", tmp_path / "labelled.csv", *sizes)
    assert checkpoint == 200
    check(checkpoint, before, after, last=280)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.safetensors",
        "model.md",
        "confusion.png",
        "calibration.png",
        "run.json",
    }
    good, bad = Buzzometer.load(tmp_path / "out" / "model.safetensors").score(["a good fox", "an awful fox"])
    assert (good.label, bad.label) == ("positive", "negative")


@pytest.mark.parametrize(
    ("before", "after"),
    [([8, 16], [8, 16, 24]), ([8, 16], [20, 16, 24]), ([8], [20]), ([8], [20, 24, 24])],
    ids=["from the start", "a step again", "no end", "two that tell"],
)
def test_the_check_rejects(before, after):
    with pytest.raises(AssertionError):
        check(16, before, after, last=24)
