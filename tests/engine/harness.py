"""Runs one program on the engine and on the oracle with the same random data."""

from __future__ import annotations

import numpy as np
import oracle

from nextstate import _engine

ISAS = _engine.info()["available"]


def padded(width: int) -> int:
    return (width + 15) // 16 * 16


def buf(kind: str, width: int, name: str = "", rows: int = 0, ld: int | None = None) -> dict:
    return {
        "kind": kind,
        "width": width,
        "ld": padded(width) if ld is None else ld,
        "name": name,
        "rows": rows,
    }


def B(index: int, access: str = "", col: int = 0) -> tuple:
    return ("buf", index, access, col)


def P(index: int) -> tuple:
    return ("plane", index)


def W(w: int, row0: int = 0, col0: int = 0, trans: bool = False) -> dict:
    return {"w": w, "row0": row0, "col0": col0, "trans": trans}


def gemm(dst: list[int], *segments: tuple) -> dict:
    """segments: (operand, k, [weight refs])"""
    return {"dst": dst, "segments": [{"a": a, "k": k, "w": w} for a, k, w in segments]}


def offsets(lengths: list[int], T: int) -> np.ndarray:
    """off[] of rows sorted by falling length."""
    n = [sum(length > t for length in lengths) for t in range(T)]
    return np.concatenate([[0], np.cumsum(n)]).astype(np.int64)


def aligned(shape: tuple[int, ...], fill: float = np.nan) -> np.ndarray:
    size = int(np.prod(shape))
    raw = np.empty(size + 16, np.float32)
    start = (-raw.ctypes.data // 4) % 16
    out = raw[start : start + size].reshape(shape)
    out[...] = fill
    return out


class Data:
    """Random contents for a program's outside buffers, the same for every way of running it."""

    def __init__(
        self, spec, T, B, lengths=None, given=None, inits=None, ids=None, vocabulary=7, seed=0, scale=1.0
    ):
        rng = np.random.default_rng(seed)
        self.spec, self.T, self.B = spec, T, B
        self.off = None if lengths is None else offsets(sorted(lengths, reverse=True), T)
        N = T * B if self.off is None else int(self.off[-1])
        self.N = N
        given = given or {}
        rows = {
            "seq": N,
            "row": B,
            "vec": 1,
            "gather": vocabulary,
            "seqscalar": N,
            "tiled": N,
            "state": B + N,
        }
        self.start: dict[int, np.ndarray] = {}
        for i, b in enumerate(spec["buffers"]):
            n = b["rows"] if b["kind"] == "grad" else rows.get(b["kind"])
            if n is None:
                continue
            x = given.get(i)
            if x is None:
                x = (
                    np.zeros((n, b["width"]))
                    if b["kind"] in ("grad", "state", "tiled")
                    else rng.normal(size=(n, b["width"])) * scale
                )
            assert x.shape == (n, b["width"]), (i, b, x.shape, n)
            self.start[i] = np.asarray(x, np.float32)
        states = [i for i, b in enumerate(spec["buffers"]) if b["kind"] == "state"]
        if inits is None:
            inits = [rng.normal(size=(B, spec["buffers"][i]["width"])).astype(np.float32) for i in states]
        self.inits = inits
        # A backward program reads the states of the forward run: those are given whole.
        self.whole = {i for i in states if i in given}
        for k, i in enumerate(states):
            if i not in self.whole:
                self.start[i][:B] = 0 if inits[k] is None else inits[k]
            elif inits[k] is None or k in range(len(states)):
                self.inits[k] = self.start[i][:B].copy()
        gathers = [i for i, b in enumerate(spec["buffers"]) if b["kind"] == "gather"]
        self.ids = (
            ids if ids is not None else [rng.integers(0, vocabulary, N).astype(np.int64) for _ in gathers]
        )
        self.weights = [
            (rng.normal(size=(w["rows"], w["cols"])) / np.sqrt(w["cols"])).astype(np.float32)
            for w in spec["weights"]
        ]

    def oracle(self) -> dict[int, np.ndarray]:
        N, B = self.N, self.B
        arrays = {i: x.astype(np.float64) for i, x in self.start.items()}
        inner = {"chunk": N, "scratch": B, "rowscalar": max(B, N)}
        for i, b in enumerate(self.spec["buffers"]):
            if b["kind"] in inner:
                arrays[i] = np.full((inner[b["kind"]], b["width"]), np.nan)
        oracle.run(
            self.spec, arrays, [w.astype(np.float64) for w in self.weights], self.ids, self.T, B, self.off
        )
        return {i: arrays[i] for i in self.start}

    def engine(
        self,
        *,
        isa="",
        threads=1,
        chunk_rows=0,
        row_block=0,
        ring=False,
        program=None,
        skip=(),
        tiled=None,
        precision="fp32",
    ):
        """Contents of the outside buffers after a run; pads start as NaN and must not matter.

        `tiled`: raw tiled buffers of an earlier run, by index; the raw ones of this run are in `self.tiled`.
        """
        spec = self.spec
        arrays: dict[int, np.ndarray] = {}
        for i, b in enumerate(spec["buffers"]):
            if i not in self.start:
                continue
            x = self.start[i]
            if b["kind"] == "seqscalar":
                arrays[i] = aligned((max(len(x), 1),))
                arrays[i][: len(x)] = x[:, 0]
                continue
            rows = 2 * self.B if ring and b["kind"] == "state" else len(x)
            arrays[i] = aligned((max(rows, 1), b["ld"]))
            if b["kind"] == "tiled" and tiled is not None:
                arrays[i][...] = tiled[i]
            elif b["kind"] not in ("state", "tiled") or i in self.whole:
                arrays[i][: len(x), : b["width"]] = x
        weights = [np.ascontiguousarray(w) for w in self.weights]
        program = program or _engine.Program(spec, isa, precision)
        packed = program.pack([w.ctypes.data for w in weights])
        inits = [None if x is None else np.ascontiguousarray(x, np.float32) for x in self.inits]
        off = None if self.off is None else np.ascontiguousarray(self.off)
        program.run(
            packed,
            [
                0 if i in skip or i not in arrays else arrays[i].ctypes.data
                for i in range(len(spec["buffers"]))
            ],
            [0 if x is None else x.ctypes.data for x in inits],
            [spec["buffers"][i]["width"] for i, b in enumerate(spec["buffers"]) if b["kind"] == "state"],
            [x.ctypes.data for x in self.ids],
            T=self.T,
            B=self.B,
            off=0 if off is None else off.ctypes.data,
            ring=ring,
            threads=threads,
            row_block=row_block or _engine.row_block(self.B, threads),
            chunk_rows=chunk_rows,
        )
        self.tiled = {i: a for i, a in arrays.items() if spec["buffers"][i]["kind"] == "tiled"}
        self.raw = arrays
        out = {}
        for i, a in arrays.items():
            b = spec["buffers"][i]
            out[i] = (
                a[: len(self.start[i]), None]
                if b["kind"] == "seqscalar"
                else a[: len(self.start[i]), : b["width"]]
            )
        return out


def compare(spec, got, want, tol=2e-5, skip=("tiled",)):
    """Largest error of each buffer relative to its largest entry must stay below tol."""
    for i, w in want.items():
        b = spec["buffers"][i]
        if b["kind"] in skip or w.size == 0:
            continue
        g = got[i].astype(np.float64)
        assert g.shape == w.shape
        assert np.array_equal(np.isnan(g), np.isnan(w)), f"buffer {i} {b['name']}: NaN in different places"
        scale = max(1e-3, np.nanmax(np.abs(w)))
        error = np.nanmax(np.abs(g - w)) / scale
        assert error < tol, f"buffer {i} {b['name']}: error {error:.2e}"
