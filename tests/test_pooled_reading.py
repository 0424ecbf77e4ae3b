"""Pooling as part of the state says what pooling of all outputs says."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nextstate as ns
from nextstate.networks.document_classifier import pool_pieces
from nextstate.networks.pooled_reading import PooledReader, read_pooled


def setting(steps=9, seed=0):
    torch.manual_seed(seed)
    layer = ns.Bidirectional(ns.GRU(6, 5), ns.GRU(6, 5)).requires_grad_(False)
    both = nn.Linear(5 + 5 + 6, 7)
    table = torch.randn(40, 6)
    lengths = torch.tensor([steps, 0, min(3, steps), min(1, steps), steps])
    return layer, both, table, torch.randint(40, (steps, 5)), lengths


def by_outputs(layer, both, table, ids, lengths):
    us = F.embedding(ids, table)
    return pool_pieces(both(torch.cat([layer(us, lengths=lengths)[0], us], -1)).relu(), lengths)


@pytest.mark.parametrize("steps", [0, 1, 9])
@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_the_same_as_pooling_all_outputs(steps, engine):
    layer, both, table, ids, lengths = setting(steps)
    with ns.engine(engine):
        found = read_pooled(layer, both, table, ids, lengths)
    for one, other in zip(found, by_outputs(layer, both, table, ids, lengths), strict=True):
        assert one.shape == (5, 7)
        assert torch.allclose(one, other, atol=1e-5)


def test_padding_and_other_tables_change_what_they_should():
    layer, both, table, ids, lengths = setting()
    largest, total = read_pooled(layer, both, table, ids, lengths)
    padded = ids.clone()
    padded[3:, 2] = 39  # beyond the end of that row
    again = read_pooled(layer, both, table, padded, lengths)
    assert torch.allclose(total, again[1], atol=1e-6)
    assert torch.equal(largest, again[0])
    changed = read_pooled(layer, both, table + 0.1, ids, lengths)
    assert not torch.allclose(changed[1], total, atol=1e-3)
    assert torch.allclose(changed[1], by_outputs(layer, both, table + 0.1, ids, lengths)[1], atol=1e-5)


def test_another_number_of_words_compiles_nothing_anew(monkeypatch):
    from nextstate.engines import cpu

    layer, both, table, ids, lengths = setting()
    read_pooled(layer, both, table, ids, lengths)
    monkeypatch.setattr(cpu, "compile_step", None)
    read_pooled(layer, both, table[:20], ids % 3, lengths)


def test_another_thread_compiles_nothing_anew(monkeypatch):
    from nextstate.engines import cpu

    layer, both, table, ids, lengths = setting()
    wanted, found = read_pooled(layer, both, table, ids, lengths), []
    monkeypatch.setattr(cpu, "compile_step", None)
    thread = threading.Thread(target=lambda: found.extend(read_pooled(layer, both, table, ids, lengths)))
    thread.start()
    thread.join()
    assert [torch.equal(one, other) for one, other in zip(wanted, found, strict=True)] == [True, True]


def test_threads_do_not_share_a_table():
    layer, both, table, ids, lengths = setting(steps=60)
    wanted = {shift: by_outputs(layer, both, table + shift, ids, lengths)[1] for shift in (0.0, 0.5)}
    wrong = []

    def work(shift):
        for _ in range(20):
            if not torch.allclose(
                read_pooled(layer, both, table + shift, ids, lengths)[1], wanted[shift], atol=1e-4
            ):
                wrong.append(shift)

    threads = [threading.Thread(target=work, args=(shift,)) for shift in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_fold_without_outputs_needs_no_steps():
    reader = PooledReader(ns.GRU(6, 5).requires_grad_(False), nn.Linear(4 + 5 + 6, 7))
    reader.table = torch.randn(4, 6)
    v, (h, largest, total) = ns.fold(reader, (torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3, 4)))
    assert v == ()
    assert torch.equal(h, torch.zeros(3, 5))
    assert torch.equal(largest, torch.full((3, 7), -torch.inf))
    assert torch.equal(total, torch.zeros(3, 7))


def test_another_combination_is_another_reading():
    layer, both, table, ids, lengths = setting()
    first = read_pooled(layer, both, table, ids, lengths)
    other = nn.Linear(5 + 5 + 6, 7)
    found = read_pooled(layer, other, table, ids, lengths)
    assert torch.allclose(found[1], by_outputs(layer, other, table, ids, lengths)[1], atol=1e-5)
    assert not torch.allclose(found[1], first[1], atol=1e-2)
