"""The rest of the language: stages, row reductions, tokens, column offsets, flat read-outs."""

import numpy as np
import pytest
from harness import ISAS, B, Data, P, W, buf, compare, gemm, offsets, padded

from nextstate import _engine

LENGTHS = [None, [5, 5, 4, 2, 0, 0]]


def original_gru(I, H):
    """Reset before the product: n = tanh(xn + U (r h)); two stages, the second reads scratch."""
    X, S, RH, Z, V = range(5)
    return {
        "buffers": [
            buf("seq", I, "x"),
            buf("state", H, "h"),
            buf("scratch", H, "rh"),
            buf("scratch", H, "z"),
            buf("seq", H, "v"),
        ],
        "weights": [{"rows": 3 * H, "cols": I, "ld": I}, {"rows": 3 * H, "cols": H, "ld": H}],
        "pre": [],
        "post": [],
        "tn": [],
        "reverse": False,
        "step": [
            {
                "width": H,
                "gemms": [gemm([0, 1], (B(X), I, [W(0), W(0, H)]), (B(S, "prev"), H, [W(1), W(1, H)]))],
                "code": [
                    ("sigmoid", P(0), P(0), None, None),
                    ("mul", B(RH), P(0), B(S, "prev"), None),
                    ("sigmoid", B(Z), P(1), None, None),
                ],
            },
            {
                "width": H,
                "gemms": [gemm([2], (B(X), I, [W(0, 2 * H)])), gemm([3], (B(RH), H, [W(1, 2 * H)]))],
                "code": [
                    ("tanh_add", P(4), P(2), P(3), None),
                    ("lerp", P(5), P(4), B(S, "prev"), B(Z)),
                    ("mov", B(S, "next"), P(5), None, None),
                    ("mov", B(V), P(5), None, None),
                ],
            },
        ],
    }


def layer_norm_cell(I, H):
    """h' = tanh(g (a - mean) / sqrt(var + eps) + b), a = W x + U h; keeps the sum and the largest a."""
    X, S, A, SUM, SQ, TOP, G, BIAS, V = range(9)
    return {
        "buffers": [
            buf("seq", I, "x"),
            buf("state", H, "h"),
            buf("scratch", H, "a"),
            buf("seqscalar", 1, "sum"),
            buf("rowscalar", 1, "sq"),
            buf("seqscalar", 1, "top"),
            buf("vec", H, "g"),
            buf("vec", H, "b"),
            buf("seq", H, "v"),
        ],
        "weights": [{"rows": H, "cols": I, "ld": I}, {"rows": H, "cols": H, "ld": H}],
        "pre": [],
        "post": [],
        "tn": [],
        "reverse": False,
        "step": [
            {
                "width": H,
                "gemms": [gemm([0], (B(X), I, [W(0)]), (B(S, "prev"), H, [W(1)]))],
                "code": [
                    ("mov", B(A), P(0), None, None),
                    ("rowsum", B(SUM), P(0), None, None),
                    ("rowmax", B(TOP), P(0), None, None),
                ],
            },
            {
                "width": H,
                "gemms": [],
                "code": [
                    ("fnma", P(0), B(SUM), ("const", 1 / H), B(A)),
                    ("mov", B(A), P(0), None, None),
                    ("mul", P(1), P(0), P(0), None),
                    ("rowsum", B(SQ), P(1), None, None),
                ],
            },
            {
                "width": H,
                "gemms": [],
                "code": [
                    ("fma", P(0), B(SQ), ("const", 1 / H), ("const", 1e-5)),
                    ("rsqrt", P(0), P(0), None, None),
                    ("mul3", P(1), B(A), P(0), B(G)),
                    ("tanh_add", P(2), P(1), B(BIAS), None),
                    ("mov", B(S, "next"), P(2), None, None),
                    ("mov", B(V), P(2), None, None),
                ],
            },
        ],
    }


def tokens(V, H):
    """A token's row of the table is the input; the gradient goes back by scatter."""
    TABLE, S, OUT = range(3)
    return {
        "buffers": [buf("gather", H, "table"), buf("state", H, "h"), buf("seq", H, "v")],
        "weights": [{"rows": H, "cols": H, "ld": H}],
        "pre": [],
        "post": [],
        "tn": [],
        "reverse": False,
        "step": [
            {
                "width": H,
                "gemms": [gemm([0], (B(S, "prev"), H, [W(0)]))],
                "code": [
                    ("tanh_add", P(1), P(0), B(TABLE), None),
                    ("mov", B(S, "next"), P(1), None, None),
                    ("mov", B(OUT), P(1), None, None),
                ],
            }
        ],
    }


def embedding_gradient(V, H):
    return {
        "buffers": [
            buf("gather", H, "table"),
            buf("seq", H, "g"),
            buf("grad", H, "out", rows=V, ld=H),
            buf("chunk", H, "d"),
            buf("grad", H, "sum", rows=1, ld=H),
        ],
        "weights": [],
        "pre": [{"width": H, "gemms": [], "code": [("mul", B(3), B(1), B(0), None)]}],
        "step": [],
        "post": [],
        "tn": [{"out": 4, "row0": 0, "col0": 0, "g": B(3), "a": None}],
        "scatter": [{"out": 2, "g": B(3), "ids": 0}],
        "reverse": True,
    }


def columns(H):
    """Blocks at column offsets that are no multiple of the lanes stay inside their columns."""
    X, OUT, C = range(3)
    code = lambda src, dst, c: [  # noqa: E731
        ("mul", P(0), B(X, "", src), ("const", c), None),
        ("mov", B(OUT, "", dst), P(0), None, None),
    ]
    return {
        "buffers": [buf("seq", 3 * H, "x"), buf("seq", 3 * H, "out"), buf("chunk", 3 * H, "c")],
        "weights": [],
        "tn": [],
        "reverse": False,
        "pre": [
            {"width": H, "gemms": [], "code": [("neg", B(C, "", H), B(X), None, None)]},
            {"width": H, "gemms": [], "code": [("mov", B(C), B(X, "", 2 * H), None, None)]},
            {"width": H, "gemms": [], "code": [("add", B(C, "", 2 * H), B(C), B(C, "", H), None)]},
        ],
        "step": [
            {"width": H, "gemms": [], "code": code(2 * H, 0, 2.0)},
            {"width": H, "gemms": [], "code": code(0, 2 * H, 3.0)},
            {"width": H, "gemms": [], "code": code(H, H, 4.0)},
        ],
        "post": [{"width": 3 * H, "gemms": [], "code": [("add", B(OUT), B(OUT), B(C), None)]}],
    }


def read_out(I, H, O):
    """Elman with v = W h' as one product after the loop; two gemms of different width sit in one block."""
    X, S, V, D = range(4)
    return {
        "buffers": [buf("seq", I, "x"), buf("state", H, "h"), buf("seq", O, "v"), buf("seq", H, "d")],
        "weights": [
            {"rows": H, "cols": I, "ld": I},
            {"rows": 3 * H, "cols": H, "ld": H},
            {"rows": O, "cols": H, "ld": H},
        ],
        "pre": [],
        "tn": [],
        "reverse": False,
        "step": [
            {
                "width": H,
                "gemms": [
                    gemm([0], (B(X), I, [W(0)])),
                    gemm([1, 2, 3], (B(S, "prev"), H, [W(1), W(1, H), W(1, 2 * H)])),
                ],
                "code": [
                    ("add3", P(4), P(1), P(2), P(3)),
                    ("tanh_add", P(4), P(4), P(0), None),
                    ("mov", B(D), P(4), None, None),
                    ("mov", B(S, "next"), P(4), None, None),
                ],
            }
        ],
        "post": [
            {
                "width": O,
                "gemms": [gemm([0], (B(S, "next"), H, [W(2)]))],
                "code": [("mov", B(V), P(0), None, None)],
            }
        ],
    }


def many_gates(I, H, G):
    X, S, V = range(3)
    code = [("add", P(G), P(0), P(1), None)] + [("add", P(G), P(G), P(g), None) for g in range(2, G)]
    return {
        "buffers": [buf("seq", I, "x"), buf("state", H, "h"), buf("seq", H, "v")],
        "weights": [{"rows": G * H, "cols": I, "ld": I}],
        "pre": [],
        "post": [],
        "tn": [],
        "reverse": False,
        "step": [
            {
                "width": H,
                "gemms": [gemm(list(range(G)), (B(X), I, [W(0, g * H) for g in range(G)]))],
                "code": [*code, ("tanh", B(S, "next"), P(G), None, None), ("mov", B(V), P(G), None, None)],
            }
        ],
    }


PROGRAMS = {
    "original_gru": original_gru(3, 17),
    "original_gru_wide": original_gru(16, 70),
    "layer_norm": layer_norm_cell(5, 21),
    "layer_norm_wide": layer_norm_cell(5, 100),
    "layer_norm_one": layer_norm_cell(2, 1),
    "tokens": tokens(7, 19),
    "embedding": embedding_gradient(7, 37),
    "columns": columns(21),
    "columns_5": columns(5),
    "columns_16": columns(16),
    "read_out": read_out(3, 20, 9),
    "many_gates": many_gates(6, 18, 7),
    "five_gates": many_gates(6, 33, 5),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("how", [{}, {"threads": 2, "chunk_rows": 3}, {"row_block": 4}])
def test_program(name, lengths, isa, how):
    spec = PROGRAMS[name]
    data = Data(spec, 5, 6, lengths)
    compare(spec, data.engine(isa=isa, **how), data.oracle())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("B_", [1, 2])
@pytest.mark.parametrize("name", PROGRAMS)
def test_few_rows(name, isa, B_):
    spec = PROGRAMS[name]
    data = Data(spec, 3, B_)
    compare(spec, data.engine(isa=isa, threads=2), data.oracle())


def test_neighbours_survive():
    """Columns a program does not name keep their contents, pads of gradients included."""
    spec = {
        "buffers": [buf("seq", 40, "x"), buf("seq", 40, "out"), buf("grad", 7, "g", rows=9, ld=11)],
        "weights": [],
        "pre": [],
        "post": [],
        "reverse": False,
        "step": [{"width": 5, "gemms": [], "code": [("mov", B(1, "", 3), B(0, "", 11), None, None)]}],
        "tn": [{"out": 2, "row0": 2, "col0": 1, "g": B(0, "", 1), "a": B(0, "", 8), "n": 4, "k": 5}],
    }
    data = Data(spec, 3, 4)
    data.start[1][...] = 5.0
    for isa in ISAS:
        got = data.engine(isa=isa)
        compare(
            spec, {k: v for k, v in got.items() if k != 2}, {k: v for k, v in data.oracle().items() if k != 2}
        )
        kept = np.ones((9, 7), bool)
        kept[2:6, 1:6] = False
        assert (got[2][kept] == 0).all()
        assert np.isnan(data.raw[2][:, 7:]).all()


def test_long_sums():
    """Weight gradients over many chunks and blocks of rows."""
    H, I = 30, 50
    spec = {
        "buffers": [
            buf("seq", H, "g"),
            buf("seq", I, "a"),
            buf("grad", I, "w", rows=H, ld=I),
            buf("grad", H, "b", rows=1, ld=H),
        ],
        "weights": [],
        "pre": [],
        "step": [],
        "post": [],
        "reverse": True,
        "tn": [
            {"out": 2, "row0": 0, "col0": 0, "g": B(0), "a": B(1)},
            {"out": 3, "row0": 0, "col0": 0, "g": B(0), "a": None},
        ],
    }
    data = Data(spec, 150, 21)
    want = data.oracle()
    results = [data.engine(threads=n) for n in (1, 2, 3)]
    compare(spec, results[0], want, tol=1e-5)
    for r in results[1:]:
        assert r[2].tobytes() == results[0][2].tobytes()
        assert r[3].tobytes() == results[0][3].tobytes()


def test_offsets_helper():
    assert offsets([3, 1, 0], 3).tolist() == [0, 2, 3, 4]
    assert padded(17) == 32


def _spec(**change):
    base = {
        "buffers": [
            buf("seq", 5, "x"),
            buf("seq", 5, "y"),
            buf("state", 5, "s"),
            buf("tiled", 40, "t"),
            buf("grad", 5, "g", rows=2, ld=5),
        ],
        "weights": [{"rows": 5, "cols": 5, "ld": 5}],
        "pre": [],
        "post": [],
        "tn": [],
        "reverse": False,
        "step": [],
    }
    return base | change


def _block(*code, gemms=(), width=5):
    return [{"width": width, "gemms": list(gemms), "code": list(code)}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": _block(("nonsense", B(1), B(0)))}, "unknown op"),
        ({"step": _block(("add", B(1), B(0)))}, "operands"),
        ({"step": _block(("mov", B(9), B(0)))}, "no buffer 9"),
        ({"step": _block(("mov", B(1), B(2)))}, "prev or next"),
        ({"step": _block(("mov", B(1, "next"), B(0)))}, "not a state"),
        ({"step": _block(("mov", B(1), B(0)), width=6)}, "exceed"),
        ({"step": _block(("mov", B(1), B(3, "", 4)))}, "multiples of 16"),
        ({"pre": _block(("mov", B(1), B(3)))}, "needs a step"),
        ({"step": _block(("mov", B(1), P(64)))}, "plane"),
        ({"step": _block(gemms=[gemm([0], (B(0), 6, [W(0)]))])}, "exceed"),
        ({"step": _block(gemms=[gemm([0], (B(0), 5, [W(1)]))])}, "no weight"),
        ({"step": _block(gemms=[gemm([0], (B(0), 5, [W(0, 1)]))])}, "exceed its shape"),
        ({"step": _block(gemms=[gemm([0, 1], (B(0), 5, [W(0)]))])}, "one weight"),
        ({"tn": [{"out": 4, "row0": 0, "col0": 0, "g": B(0), "a": B(1)}]}, "exceeds"),
        ({"tn": [{"out": 1, "row0": 0, "col0": 0, "g": B(0), "a": B(1)}]}, "grad"),
        ({"buffers": [buf("seq", 5, ld=5)]}, "multiple of 16"),
        ({"buffers": [{"kind": "magic", "width": 5, "ld": 16}]}, "unknown buffer kind"),
    ],
)
def test_mistakes_are_reported(change, message):
    with pytest.raises(ValueError, match=message):
        _engine.Program(_spec(**change))
