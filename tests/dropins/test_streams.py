"""Many streams stepped together: they come and go with the bits of each alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import nextstate as ns
from catalogue import BY_NAME
from dropins.sessions import equal, made
from nextstate.checks import InputError


def test_streams_come_and_go_with_the_bits_of_each_alone() -> None:
    cell = made(ns.LSTM, 16, 32)
    draw = torch.Generator().manual_seed(5)
    streams, alone, fresh = ns.Streams(cell), {}, ns.Session(cell)
    for t in range(30):
        for i in streams.open(int(torch.randint(0, 4, (), generator=draw))):
            alone[i] = fresh.fork()
        live = [i for i in streams.ids if torch.rand((), generator=draw) < 0.7]
        live.reverse()
        us = torch.randn(len(live), 16, generator=draw)
        if live:
            vs = streams.step(live, us)
            assert torch.equal(vs, torch.stack([alone[i].step(u) for i, u in zip(live, us, strict=True)])), t
        if t % 3 == 2 and len(streams) > 2:
            gone = streams.ids[::3]
            streams.close(gone)
            for i in gone:
                del alone[i]
        assert streams.ids == list(alone)
    assert max(alone) > len(alone), "no stream ever left"


def test_chunks_of_different_length() -> None:
    cell = made(ns.GRU, 16, 32)
    streams = ns.Streams(cell)
    ids, us, lengths = streams.open(3), torch.randn(6, 3, 16), torch.tensor([6, 0, 2])
    vs = streams.feed(ids, us, lengths=lengths)
    for k, n in enumerate(lengths.tolist()):
        session = ns.Session(cell)
        expected = session.feed(us[:n, k]) if n else torch.zeros(0, 32)
        assert torch.equal(vs[:n, k], expected)
        assert not vs[n:, k].any()
        assert equal(streams.state([ids[k]]), session.state)


def test_streams_fork_reset_save_and_restore() -> None:
    cell = made(ns.GRU, 16, 32)
    streams = ns.Streams(cell)
    a, b = streams.open(2)
    streams.feed([a, b], torch.randn(4, 2, 16))
    (c,) = streams.fork([b])
    assert equal(streams.state([c]), streams.state([b]))
    data = streams.save([a, b])
    streams.reset([b])
    assert not streams.state([b]).any()
    assert streams.state([c]).any()
    elsewhere = ns.Streams(cell)
    moved = elsewhere.restore(data)
    assert equal(elsewhere.state(moved[:1]), streams.state([a]))
    session = ns.Session(cell)
    session.restore(streams.save([c]))
    assert equal(session.state, streams.state([c]))
    with pytest.raises(InputError, match="not all of it"):
        elsewhere.restore(data[:-1])
    assert len(elsewhere) == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s, a: s.step([a, a], torch.randn(2, 16)), "named twice"),
        (lambda s, a: s.step([a, 99], torch.randn(2, 16)), r"\[99\] are not open streams \(2 are\)"),
        (lambda s, a: s.step([a], torch.randn(2, 16)), "1 streams"),
        (lambda s, a: s.step([a], torch.randn(1, 7)), "expected"),
        (lambda s, a: s.step([a], None), "expected a tensor"),
        (lambda s, a: s.close([7]), "not open"),
        (lambda s, a: s.close(a), r"Streams.close: ids is int; expected the integers .* such as"),
        (lambda s, a: s.step(None, torch.randn(1, 16)), "ids is NoneType"),
        (lambda s, a: s.step([[a]], torch.randn(1, 16)), r"ids is \[\[0\]\]; expected the integers"),
        (lambda s, a: s.open(-1), "count"),
        (lambda s, a: s.open(True), "count is True"),
        (lambda s, a: s.step(torch.tensor([a]), torch.randn(1, 16)), r"ids is \(1,\) int64; .*ids.tolist"),
    ],
)
def test_wrong_streams_are_refused_and_change_nothing(call, words: str) -> None:
    streams = ns.Streams(made(ns.GRU, 16, 32))
    a, b = streams.open(2)
    streams.feed([a, b], torch.randn(4, 2, 16))
    before = streams.state([a, b])
    with pytest.raises(InputError, match=words):
        call(streams, a)
    assert equal(streams.state([a, b]), before)


def test_a_closed_stream_stays_closed() -> None:
    streams = ns.Streams(made(ns.GRU, 16, 32))
    (a,) = streams.open()
    streams.close([a])
    (b,) = streams.open()
    assert b != a
    with pytest.raises(InputError, match="not open"):
        streams.step([a], torch.randn(1, 16))


def test_ids_as_input() -> None:
    row = BY_NAME["Embedded GRU"]
    streams = ns.Streams(row.cell(dtype=torch.float32))
    found: Tensor = streams.step(streams.open(3), torch.tensor([0, 6, 2]))
    assert found.shape == (3, 5)


def test_ids_that_can_be_read_once_are_refused() -> None:
    """Closing by a generator would close nothing, and its places would stay for the next empty list."""
    streams = ns.Streams(made(ns.GRU, 16, 32))
    ids = streams.open(2)
    for call in (streams.close, streams.reset, streams.state, streams.fork, streams.save):
        with pytest.raises(InputError, match="ids is generator; expected the integers that open gave"):
            call(i for i in ids)
    assert streams.step([], torch.randn(0, 16)).shape == (0, 32)
    assert len(streams) == 2
