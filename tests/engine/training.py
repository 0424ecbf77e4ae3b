"""Forward and backward programs in a row, as the compiler will run them."""

from __future__ import annotations

from harness import Data, compare

from nextstate import _engine


def train(forward, backward, T, batch, lengths=None, seed=0, tol=3e-5, **how):
    """Runs both programs on engine and oracle, compares, returns the engine's results of both."""
    data = Data(forward, T, batch, lengths, seed=seed)
    want = data.oracle()
    how.setdefault("row_block", _engine.row_block(batch, how.get("threads", 1)))
    got = data.engine(**how)
    compare(forward, got, want, tol)

    place = {b["name"]: i for i, b in enumerate(forward["buffers"])}
    known = {i: place[b["name"]] for i, b in enumerate(backward["buffers"]) if b["name"] in place}
    tiled = {i: data.tiled[k] for i, k in known.items() if backward["buffers"][i]["kind"] == "tiled"}
    states = sum(b["kind"] == "state" for b in backward["buffers"])
    second = Data(
        backward,
        T,
        batch,
        lengths,
        given={i: want[k] for i, k in known.items()},
        inits=[None] * states,
        seed=seed + 1,
    )
    second.weights = data.weights
    expected = second.oracle()
    gradients = second.engine(tiled=tiled, **how)
    compare(backward, gradients, expected, tol)
    return got, gradients
