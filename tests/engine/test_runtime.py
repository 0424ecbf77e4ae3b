"""Threads, processes and memory around the kernels."""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import programs
import pytest
import torch
from harness import ISAS, Data

from nextstate import _engine


def _data():
    return Data(programs.gru_forward(8, 40), 12, 20, [12] * 9 + [7] * 11)


def test_many_python_threads():
    """Concurrent runs of one program give what a lone run gives."""
    data = _data()
    program = _engine.Program(data.spec)
    want = data.engine(program=program, threads=2)[9].tobytes()
    with ThreadPoolExecutor(6) as pool:
        results = list(
            pool.map(lambda n: data.engine(program=program, threads=1 + n % 3)[9].tobytes(), range(60))
        )
    assert set(results) == {want}


def _child(data, want):
    got = data.engine(threads=2)[9].tobytes()
    _engine.empty(3, 5).fill_(1.0)
    os._exit(0 if got == want else 1)


def test_fork():
    """A child of fork has none of the parent's threads and must start its own."""
    data = _data()
    want = data.engine(threads=2)[9].tobytes()
    for _ in range(3):
        child = multiprocessing.get_context("fork").Process(target=_child, args=(data, want))
        child.start()
        child.join(60)
        assert child.exitcode == 0
    assert data.engine(threads=2)[9].tobytes() == want


def test_two_forwards_before_one_backward():
    """Memory from the pool belongs to its tensor until that is gone."""
    a, b = _engine.empty(100, 64), _engine.empty(100, 64)
    assert a.data_ptr() != b.data_ptr()
    a.fill_(1.0)
    b.fill_(2.0)
    assert (a == 1).all()
    assert (b == 2).all()
    view, place = a[3:5], a.data_ptr()
    del a
    assert _engine.empty(100, 64).data_ptr() != place, "a view keeps the memory"
    del view
    assert _engine.empty(100, 64).data_ptr() == place


@pytest.mark.parametrize("shape", [(0, 16), (1, 1), (3, 16), (1000, 1024)])
def test_empty(shape):
    x = _engine.empty(*shape)
    assert x.shape == shape
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    assert x.data_ptr() % 64 == 0 or x.numel() == 0
    assert torch.isnan(x).all(), "NEXTSTATE_POISON fills with NaN"


def test_trim():
    x = _engine.empty(512, 512)
    del x
    assert _engine.info()["cached_bytes"] > 0
    _engine.trim()
    assert _engine.info()["cached_bytes"] == 0


def test_info():
    info = _engine.info()
    assert info["isa"] == info["available"][0] or os.environ.get("NEXTSTATE_ISA")
    assert info["available"][-1] == "portable"
    assert info["lanes"] in (4, 8, 16)


@pytest.mark.parametrize("isa", ISAS)
def test_environment_chooses_the_isa(isa):
    code = "from nextstate import _engine; print(_engine.info()['isa'], _engine.Program({'buffers': []}).isa)"
    out = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"NEXTSTATE_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.split() == [isa, isa]


def test_unknown_isa():
    with pytest.raises(ValueError, match="available"):
        _engine.Program({"buffers": []}, "sse9")


def test_row_block():
    for threads in (1, 2, 4):
        for batch in (1, 2, 5, 17, 32, 33, 64, 100, 1000):
            height = _engine.row_block(batch, threads)
            assert 1 <= height <= 64
            assert height * threads >= min(batch, threads) or height == 1


def test_wrong_number_of_pointers():
    program = _engine.Program(programs.gru_forward(3, 5))
    with pytest.raises(ValueError, match="weights given"):
        program.pack([])
    weights = [np.zeros((15, 3), np.float32), np.zeros((15, 5), np.float32)]
    packed = program.pack([w.ctypes.data for w in weights])
    with pytest.raises(ValueError, match="buffers given"):
        program.run(packed, [], [], [], [], T=1, B=1)
