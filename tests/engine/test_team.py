"""The engine on the threads of torch's OpenMP library, and on its own where it cannot have those."""

import ctypes
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import programs
import pytest
import torch
from harness import Data, compare

from nextstate import _engine
from nextstate.engines.team import ENTRIES, openmp_entries

BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
PARALLEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
NUMBER = ctypes.CFUNCTYPE(ctypes.c_int)

needs_openmp = pytest.mark.skipif(not openmp_entries(), reason="torch has no OpenMP library to share here")


@pytest.fixture(autouse=True)
def two_torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
    _engine.share_team(openmp_entries())


class Library:
    """A library of threads as the engine sees it, with some of its entries replaced by Python."""

    def __init__(self, **replaced: Callable[..., object]) -> None:
        kinds = dict.fromkeys(ENTRIES, NUMBER) | {"GOMP_parallel": PARALLEL}
        self.held = {name: kinds[name](function) for name, function in replaced.items()}
        real = dict(zip(ENTRIES, openmp_entries() or [0] * 5, strict=True))
        cast = {name: ctypes.cast(held, ctypes.c_void_p).value for name, held in self.held.items()}
        _engine.share_team([cast.get(name) or real[name] for name in ENTRIES])


def _real(name: str) -> Callable[..., object]:
    address = openmp_entries()[ENTRIES.index(name)]
    return (PARALLEL if name == "GOMP_parallel" else NUMBER)(address)


class Counting(Library):
    """Torch's library, and how often the engine called it."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        parallel = _real("GOMP_parallel")

        def counted(fn: int, arg: int, n: int, flags: int) -> None:
            self.calls.append(n)
            parallel(fn, arg, n, flags)

        super().__init__(GOMP_parallel=counted)


def _data() -> Data:
    return Data(programs.gru_forward(8, 40), 12, 20, [12] * 9 + [7] * 11)


def _bits(data: Data, **how: object) -> bytes:
    return data.engine(**how)[9].tobytes()


@needs_openmp
def test_same_bits_on_any_team():
    data = _data()
    want = _bits(data)
    compare(data.spec, data.engine(), data.oracle())
    library = Counting()
    assert _bits(data, threads=2) == want
    assert library.calls == [2], "on torch's threads"
    assert _bits(data, threads=3) == want
    assert library.calls == [2], "three are not what torch has: the engine's own"
    _engine.share_team([])
    assert _bits(data, threads=2) == want


def _first_share_only(fn: int, arg: int, n: int, flags: int) -> None:
    BODY(fn)(arg)


def test_a_team_that_leaves_out_a_share_is_noticed():
    """The comparisons must reject a library that says two and runs one. Here no barrier waits for it."""
    spec = programs.gru_forward(8, 40)
    spec["buffers"][1]["kind"] = "seq"
    data = Data({**spec, "pre": []}, 12, 20)
    want = _bits(data)
    Library(
        GOMP_parallel=_first_share_only, omp_get_thread_num=lambda: 0, omp_get_num_threads=lambda: 2,
        omp_get_max_threads=lambda: 2, omp_in_parallel=lambda: 0,
    )  # fmt: skip
    assert _bits(data, threads=2) != want
    _engine.share_team([])
    assert _bits(data, threads=2) == want


def test_fewer_threads_than_asked():
    """The library may give one thread where it promised two: nothing has run then, and our team does it."""
    data = _data()
    want = _bits(data)
    library = Library(
        GOMP_parallel=_first_share_only, omp_get_thread_num=lambda: 0, omp_get_num_threads=lambda: 1,
        omp_get_max_threads=lambda: 2, omp_in_parallel=lambda: 0,
    )  # fmt: skip
    assert _bits(data, threads=2) == want
    assert _engine.info()["team"] >= 1
    del library


@needs_openmp
def test_inside_a_parallel_region():
    """Both threads of a region of the same library may call the engine."""
    data, program = _data(), _engine.Program(_data().spec)
    want = _bits(data, program=program)
    found = []

    def region(_: int) -> None:
        found.append(_bits(_data(), program=program, threads=2))

    body = BODY(region)
    _real("GOMP_parallel")(ctypes.cast(body, ctypes.c_void_p), None, 2, 0)
    assert found == [want, want]


@needs_openmp
def test_many_python_threads():
    data, program = _data(), _engine.Program(_data().spec)
    want = _bits(data, program=program)

    def call(n: int) -> bytes:
        torch.set_num_threads(2)
        return _bits(data, program=program, threads=1 + n % 3)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(call, range(40))) == {want}


def _child(data: Data, want: bytes) -> None:
    alone = not _engine.info()["shared_team"] and not openmp_entries()
    os._exit(0 if alone and _bits(data, threads=2) == want and _engine.info()["team"] == 1 else 1)


@needs_openmp
def test_a_child_of_fork_has_its_own_team():
    data = _data()
    library = Counting()
    want = _bits(data, threads=2)
    assert library.calls, "the parent has used the library, which a child must not"
    child = multiprocessing.get_context("fork").Process(target=_child, args=(data, want))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert _bits(data, threads=2) == want


@pytest.mark.parametrize("entries", [[1], [1] * 6])
def test_wrong_number_of_entries(entries: list[int]):
    with pytest.raises(ValueError, match="five"):
        _engine.share_team(entries)
