"""A slow reading of engine programs in float64, written from the description of the program alone.

`run(spec, buffers, ...)` follows the program one row and one block at a time, with whole-array numpy
expressions for the columns. It knows nothing of tiles, panels, chunks, threads or padding.
"""

from __future__ import annotations

import math

import numpy as np

_erf = np.vectorize(math.erf, otypes=[float])


def _sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _flag(x):
    return np.asarray(x).astype(float)


OPS = {
    "mov": lambda a: a,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "recip": lambda a: 1 / a,
    "fma": lambda a, b, c: a * b + c,
    "fms": lambda a, b, c: a * b - c,
    "fnma": lambda a, b, c: c - a * b,
    "lerp": lambda a, b, c: a + c * (b - a),
    "min": np.minimum,
    "max": np.maximum,
    "abs": np.abs,
    "sign": lambda a: np.where(np.isnan(a), 0.0, np.sign(a)),
    "sqrt": np.sqrt,
    "rsqrt": lambda a: 1 / np.sqrt(a),
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "softplus": lambda a: np.logaddexp(a, 0.0),
    "silu": lambda a: a * _sigmoid(a),
    "relu": lambda a: np.maximum(a, 0.0),
    "erf": lambda a: _erf(a),
    "sin": np.sin,
    "cos": np.cos,
    "pow": np.power,
    "floor": np.floor,
    "gt": lambda a, b: _flag(a > b),
    "ge": lambda a, b: _flag(a >= b),
    "lt": lambda a, b: _flag(a < b),
    "le": lambda a, b: _flag(a <= b),
    "eq": lambda a, b: _flag(a == b),
    "ne": lambda a, b: _flag(a != b),
    "and": lambda a, b: _flag((a != 0) & (b != 0)),
    "or": lambda a, b: _flag((a != 0) | (b != 0)),
    "not": lambda a: _flag(a == 0),
    "where": lambda a, b, c: np.where(a != 0, b, c),
    "dsigmoid": lambda a, b: a * b * (1 - b),
    "dtanh": lambda a, b: a * (1 - b * b),
    "drelu": lambda a, b: np.where(b > 0, a, 0.0),
    "add3": lambda a, b, c: a + b + c,
    "mul3": lambda a, b, c: a * b * c,
    "sigmoid_add": lambda a, b: _sigmoid(a + b),
    "sigmoid_add3": lambda a, b, c: _sigmoid(a + b + c),
    "tanh_add": lambda a, b: np.tanh(a + b),
    "tanh_fma": lambda a, b, c: np.tanh(a * b + c),
}
ARITY = {name: f.__code__.co_argcount if hasattr(f, "__code__") else f.nin for name, f in OPS.items()}


class _Machine:
    def __init__(self, spec, buffers, weights, ids, T, B, off):
        self.spec, self.buffers, self.weights, self.ids = spec, buffers, weights, ids
        self.T, self.B = T, B
        self.off = [t * B for t in range(T + 1)] if off is None else [int(o) for o in off]
        gathers = [i for i, b in enumerate(spec["buffers"]) if b["kind"] == "gather"]
        self.ids_of = {b: ids[k] for k, b in enumerate(gathers)}

    def rows(self, index, access, t, i):
        """Row of a buffer that belongs to batch row i of step t."""
        kind = self.spec["buffers"][index]["kind"]
        if kind in ("seq", "chunk", "tiled", "seqscalar"):
            return self.off[t] + i
        if kind == "state":
            slot = t if access == "prev" else t + 1
            return i if slot == 0 else self.B + self.off[slot - 1] + i
        if kind == "vec":
            return 0
        if kind == "gather":
            return self.ids_of[index][self.off[t] + i]
        return i  # row, scratch, rowscalar

    def view(self, operand, width, t, i):
        _, index, access, col = (*operand, "", 0)[:4] if len(operand) < 4 else operand
        array = self.buffers[index]
        row = array[self.rows(index, access, t, i)]
        if self.spec["buffers"][index]["kind"] in ("seqscalar", "rowscalar"):
            return row[:1]
        return row[col : col + width]

    def weight(self, ref, width, k):
        w = self.weights[ref["w"]]
        r, c = ref["row0"], ref["col0"]
        return w[r : r + k, c : c + width] if ref["trans"] else w[r : r + width, c : c + k].T

    def block(self, block, t, i):
        width = block["width"]
        planes: dict[int, np.ndarray] = {}
        for gemm in block.get("gemms", []):
            for g, plane in enumerate(gemm["dst"]):
                total = np.zeros(width)
                for seg in gemm["segments"]:
                    total = total + self.view(seg["a"], seg["k"], t, i) @ self.weight(
                        seg["w"][g], width, seg["k"]
                    )
                planes[plane] = total

        def value(operand):
            if operand[0] == "plane":
                return planes[operand[1]]
            if operand[0] == "const":
                return np.full(width, float(np.float32(operand[1])))
            return np.broadcast_to(self.view(operand, width, t, i), (width,)).copy()

        for op, dst, *args in block.get("code", []):
            if op in ("rowsum", "rowmax"):
                x = value(args[0])
                self.view(dst, 1, t, i)[0] = x.sum() if op == "rowsum" else x.max()
                continue
            result = OPS[op](*[value(a) for a in args[: ARITY[op]]])
            if dst[0] == "plane":
                planes[dst[1]] = result
            else:
                self.view(dst, width, t, i)[:] = result

    def run(self):
        spec = self.spec
        every = [(t, i) for t in range(self.T) for i in range(self.off[t + 1] - self.off[t])]
        for block in spec.get("pre", []):
            for t, i in every:
                self.block(block, t, i)
        for t in range(self.T)[:: -1 if spec.get("reverse") else 1]:
            for block in spec.get("step", []):
                for i in range(self.off[t + 1] - self.off[t]):
                    self.block(block, t, i)
        for block in spec.get("post", []):
            for t, i in every:
                self.block(block, t, i)
        for e in spec.get("tn", []):
            out = self.buffers[e["out"]]
            n = e.get("n", spec["buffers"][e["g"][1]]["width"] - e["g"][3])
            g = np.array([self.view(e["g"], n, t, i) for t, i in every]).reshape(len(every), n)
            if e["a"] is None:
                out.reshape(-1)[e["row0"] : e["row0"] + n] = g.sum(0)
                continue
            k = e.get("k", spec["buffers"][e["a"][1]]["width"] - e["a"][3])
            a = np.array([self.view(e["a"], k, t, i) for t, i in every]).reshape(len(every), k)
            out[e["row0"] : e["row0"] + n, e["col0"] : e["col0"] + k] = g.T @ a
        for e in spec.get("scatter", []):
            out = self.buffers[e["out"]]
            n = e.get("n", spec["buffers"][e["out"]]["width"])
            for t, i in every:
                out[self.ids_of[e["ids"]][self.off[t] + i], :n] += self.view(e["g"], n, t, i)


def run(spec, buffers, weights=(), ids=(), T=1, B=1, off=None):
    """Carry the program out on `buffers` (float64, changed in place); states hold slot 0 already."""
    with np.errstate(all="ignore"):
        _Machine(spec, buffers, weights, ids, T, B, off).run()
