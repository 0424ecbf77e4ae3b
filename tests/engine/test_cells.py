"""Whole recurrent programs, forward and backward, against the float64 oracle."""

import numpy as np
import programs
import pytest
from harness import ISAS, Data, compare

from nextstate import _engine
from training import train

CELLS = {
    "gru": (programs.gru_forward, programs.gru_backward),
    "lstm": (programs.lstm_forward, programs.lstm_backward),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("T", "B", "I", "H"),
    [(1, 1, 3, 1), (2, 2, 3, 5), (7, 5, 3, 17), (3, 33, 16, 48), (2, 1, 9, 100), (4, 20, 5, 64)],
)
def test_training(isa, cell, T, B, I, H):
    forward, backward = CELLS[cell]
    train(forward(I, H), backward(I, H), T, B, isa=isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("lengths", [[7, 5, 5, 3, 1], [3, 0, 7, 0], [1], [4, 4, 4], [6] * 20 + [2] * 30])
def test_ragged(isa, cell, lengths):
    forward, backward = CELLS[cell]
    train(forward(3, 17), backward(3, 17), max(lengths), len(lengths), lengths, isa=isa, threads=2)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("lengths", [None, [9, 9, 8, 5, 3, 1, 1, 0]])
def test_same_bits(isa, lengths):
    """Threads, tile heights and chunks change no bit of outputs, states and input gradients."""
    fs, bs = programs.gru_forward(5, 33), programs.gru_backward(5, 33)
    first = train(fs, bs, 9, 8, lengths, isa=isa)
    for how in (
        {"threads": 2},
        {"threads": 3, "row_block": 2},
        {"row_block": 1},
        {"chunk_rows": 1},
        {"chunk_rows": 20, "threads": 2},
    ):
        again = train(fs, bs, 9, 8, lengths, isa=isa, **how)
        for spec, a, b in zip((fs, bs), first, again, strict=True):
            for i in a:
                kind = spec["buffers"][i]["kind"]
                if kind == "tiled" or (kind == "grad" and "chunk_rows" in how):
                    continue
                assert a[i].tobytes() == b[i].tobytes(), (how, spec["buffers"][i])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("H", [33, 64])
def test_row_does_not_see_the_batch(isa, H):
    """A row's values are the same bits whatever else is in the batch."""
    spec = programs.gru_forward(5, H)
    big = Data(spec, 4, 37)
    small = Data(spec, 4, 2)
    small.weights = big.weights
    pick = [3, 20]
    small.start[0] = big.start[0].reshape(4, 37, 5)[:, pick].reshape(8, 5)
    small.start[2], small.start[3] = big.start[2], big.start[3]
    small.inits = [x[pick] for x in big.inits]
    whole, part = big.engine(isa=isa), small.engine(isa=isa)
    assert whole[9].reshape(4, 37, H)[:, pick].tobytes() == part[9].tobytes()
    for row in range(2):
        one = Data(spec, 4, 1)
        one.weights = big.weights
        one.start[0] = small.start[0].reshape(4, 2, 5)[:, row]
        one.start[2], one.start[3] = big.start[2], big.start[3]
        one.inits = [x[row : row + 1] for x in small.inits]
        assert one.engine(isa=isa)[9].tobytes() == part[9].reshape(4, 2, H)[:, row].tobytes()


@pytest.mark.parametrize("lengths", [None, [0, 0, 0]])
def test_no_steps(lengths):
    fs, bs = programs.gru_forward(3, 5), programs.gru_backward(3, 5)
    data = Data(fs, 0, 3, lengths)
    out = data.engine()
    assert np.array_equal(out[4], data.inits[0])
    grads = Data(bs, 0, 3, lengths)
    grads.start[11][...] = grads.start[13][...] = 7.0
    out = grads.engine()
    assert not out[11].any()
    assert not out[13].any()


@pytest.mark.parametrize("lengths", [None, [5, 3, 3, 0]])
def test_ring_state(lengths):
    """A ring of two slots gives the same outputs, and leaves each row's last state in slot length % 2."""
    T, B, H = 5, 4, 17
    spec = programs.gru_forward(3, H)
    data = Data(spec, T, B, lengths)
    full, ring = data.engine(), data.engine(ring=True)
    assert full[9].tobytes() == ring[9].tobytes()
    ends = lengths or [T] * B
    starts = np.arange(T) * B if lengths is None else data.off
    for i, n in enumerate(ends):
        last = full[4][i if n == 0 else B + starts[n - 1] + i]
        assert np.array_equal(data.raw[4][(n % 2) * B + i, :H], last)


def test_initial_state_null_means_zero():
    spec = programs.gru_forward(3, 5)
    a = Data(spec, 3, 2, inits=[None])
    b = Data(spec, 3, 2, inits=[np.zeros((2, 5), np.float32)])
    assert a.engine()[9].tobytes() == b.engine()[9].tobytes()


def test_unwanted_gradients_are_skipped():
    spec = programs.gru_backward(3, 5)
    data = Data(spec, 3, 2, given={1: np.random.default_rng(0).normal(size=(8, 5))})
    tiled = {i: np.zeros((6, 16), np.float32) for i in (2, 3, 4, 5)}
    want, got = data.oracle(), data.engine(skip=(11, 14), tiled=tiled)
    for i in (11, 14):
        assert not got[i].any()
        want[i][...] = 0
    compare(spec, got, want)


def _swap_gates(spec):
    w = spec["step"][0]["gemms"][0]["segments"][0]["w"]
    w[0], w[1] = w[1], w[0]


def _drop_bias(spec):
    spec["pre"][0]["code"] = [("mov", ("buf", 1, "", 0), ("plane", 0), None, None)]


def _wrong_slot(spec):
    code = spec["step"][0]["code"]
    code[4] = ("lerp", ("plane", 7), ("plane", 6), ("plane", 4), ("buf", 4, "prev", 0))


def _short_sum(spec):
    spec["step"][0]["gemms"][0]["segments"][0]["k"] -= 1


def _write_neighbour(spec):
    spec["step"][0]["code"][6] = ("mov", ("buf", 9, "", 0), ("plane", 6), None, None)


@pytest.mark.parametrize("spoil", [_swap_gates, _drop_bias, _wrong_slot, _short_sum, _write_neighbour])
def test_wrong_programs_are_noticed(spoil):
    """The comparison can fail: the oracle runs the right program, the engine a slightly wrong one."""
    right, wrong = programs.gru_forward(5, 17), programs.gru_forward(5, 17)
    spoil(wrong)
    data = Data(right, 4, 3)
    want = data.oracle()
    compare(right, data.engine(), want)
    with pytest.raises(AssertionError):
        compare(right, data.engine(program=_engine.Program(wrong)), want)


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_few_rows_share_panels(cell, B):
    """With too few rows for the threads these share the columns of each block: the same bits again."""
    forward, backward = CELLS[cell]
    fs, bs = forward(5, 200), backward(5, 200)
    results = [train(fs, bs, 24, B, threads=n) for n in (1, 2, 3)]
    for other in results[1:]:
        for spec, a, b in zip((fs, bs), results[0], other, strict=True):
            for i in a:
                if spec["buffers"][i]["kind"] != "tiled":
                    assert a[i].tobytes() == b[i].tobytes(), spec["buffers"][i]
