"""Let the CPU engine run on torch's own OpenMP threads: two teams would wait for each other's processors."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch

from nextstate import _engine

ENTRIES = (
    "GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads", "omp_get_max_threads", "omp_in_parallel",
)  # fmt: skip
NOLOAD = 4
"""Mode of dlopen on Linux: a library that is loaded already, or none."""


def openmp_entries() -> list[int]:
    """Addresses of the entry points of the OpenMP library that torch runs on; none if it cannot be shared."""
    if not sys.platform.startswith("linux") or not torch.backends.openmp.is_available() or _forked():
        return []
    # Names are looked up as for torch: first those of the whole process.
    places = (None, str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    for place in places:
        try:
            library = ctypes.CDLL(place, mode=NOLOAD)
            return [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in ENTRIES]
        except (OSError, AttributeError):
            continue
    return []


def _forked() -> bool:
    """Whether this process came by fork, without a program of its own: OpenMP may have lost its threads."""
    forked_without_exec = 0x40
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return bool(int(fields[6]) & forked_without_exec)
    except (OSError, ValueError, IndexError):
        return True


def share() -> None:
    """Run the engine on torch's threads where they can be had."""
    _engine.share_team(openmp_entries())
