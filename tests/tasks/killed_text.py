"""Train a small model of text in child processes that are killed (SIGKILL); print what came out.

    python killed_text.py FOLDER MOMENTS   -> JSON {"undisturbed": digest, "killed": digest, "kills": n}

One process that forks: PyTorch is imported once. The engine runs on one thread, which no fork can lose.
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from nextstate import set_threads
from nextstate.recipes.text import Dropout, Recipe, prepare
from nextstate.recipes.text_model import Shape
from nextstate.tasks.text import prepare_corpus

TEXT = b"the quick brown fox jumps over the lazy dog\n" * 40
RECIPE = Recipe(
    Shape("LSTM", 1, 8, 16),
    rows=4,
    length=16,
    steps=60,
    dropout=Dropout(0.1, 0.2, 0.3, 0.2, 0.3),
    measurements=12,
    patience=12,
)


def train(folder: Path, pause: float) -> None:
    corpus = prepare_corpus([TEXT], folder / "corpus")
    run = prepare(RECIPE, corpus, seed=3, checkpoints=folder / "checkpoints")
    for _ in run.records(report_every=1):
        time.sleep(pause)
    run.model().save(folder / "model.safetensors")


def child(folder: Path, pause: float) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            train(folder, pause)
        finally:
            os._exit(0)
    return pid


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def main(folder: Path, moments: list[float]) -> None:
    quiet, disturbed = folder / "quiet", folder / "disturbed"
    quiet.mkdir()
    disturbed.mkdir()
    os.waitpid(child(quiet, 0.0), 0)
    kills = 0
    for moment in moments:
        pid = child(disturbed, 0.05)
        checkpoints = disturbed / "checkpoints"
        before = set(checkpoints.glob("step-*"))
        for _ in range(600):  # until it has come further, then a moment more
            if set(checkpoints.glob("step-*")) - before:
                break
            time.sleep(0.05)
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        kills += os.WIFSIGNALED(status)
    os.waitpid(child(disturbed, 0.0), 0)
    print(json.dumps({"undisturbed": digest(quiet), "killed": digest(disturbed), "kills": kills}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    set_threads(1)
    main(Path(sys.argv[1]), [float(moment) for moment in sys.argv[2].split(",")])
