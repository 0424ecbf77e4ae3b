"""Recurrent cells written by hand as engine programs."""

from __future__ import annotations

from harness import B, P, W, buf, gemm


def gru_forward(I: int, H: int) -> dict:
    """torch.nn.GRU: h' = n + z (h - n), n = tanh(xn + r (Un h + c)). Saves r, z, n, q = Un h + c."""
    X, XP, BW, BU, S, R, Z, N_, Q, V = range(10)
    return {
        "buffers": [
            buf("seq", I, "x"),
            buf("chunk", 3 * H, "xp"),
            buf("vec", 3 * H, "b"),
            buf("vec", H, "c"),
            buf("state", H, "h"),
            buf("tiled", H, "r"),
            buf("tiled", H, "z"),
            buf("tiled", H, "n"),
            buf("tiled", H, "q"),
            buf("seq", H, "v"),
        ],
        "weights": [{"rows": 3 * H, "cols": I, "ld": I}, {"rows": 3 * H, "cols": H, "ld": H}],
        "pre": [
            {
                "width": 3 * H,
                "gemms": [gemm([0], (B(X), I, [W(0)]))],
                "code": [("add", B(XP), P(0), B(BW), None)],
            }
        ],
        "step": [
            {
                "width": H,
                "gemms": [gemm([0, 1, 2], (B(S, "prev"), H, [W(1), W(1, H), W(1, 2 * H)]))],
                "code": [
                    ("sigmoid_add", P(3), P(0), B(XP), None),
                    ("sigmoid_add", P(4), P(1), B(XP, "", H), None),
                    ("add", P(5), P(2), B(BU), None),
                    ("tanh_fma", P(6), P(3), P(5), B(XP, "", 2 * H)),
                    ("lerp", P(7), P(6), B(S, "prev"), P(4)),
                    ("mov", B(S, "next"), P(7), None, None),
                    ("mov", B(V), P(7), None, None),
                    ("mov", B(R), P(3), None, None),
                    ("mov", B(Z), P(4), None, None),
                    ("mov", B(N_), P(6), None, None),
                    ("mov", B(Q), P(5), None, None),
                ],
            }
        ],
        "post": [],
        "tn": [],
        "reverse": False,
    }


def gru_backward(I: int, H: int) -> dict:
    """Gradients of gru_forward. D holds (dq, dr, dz, dn): dU needs the first three, dW the last three."""
    X, S, R, Z, N_, Q, DV, CARRY, PART, D, DX, DW, DU, DB, DC = range(15)
    k = 4 * H
    return {
        "buffers": [
            buf("seq", I, "x"),
            buf("state", H, "h"),
            buf("tiled", H, "r"),
            buf("tiled", H, "z"),
            buf("tiled", H, "n"),
            buf("tiled", H, "q"),
            buf("seq", H, "dv"),
            buf("row", H, "dh"),
            buf("scratch", H, "part"),
            buf("chunk", k, "d"),
            buf("seq", I, "dx"),
            buf("grad", I, "dw", rows=3 * H, ld=I),
            buf("grad", H, "du", rows=3 * H, ld=H),
            buf("grad", 3 * H, "db", rows=1, ld=3 * H),
            buf("grad", H, "dc", rows=1, ld=H),
        ],
        "weights": [{"rows": 3 * H, "cols": I, "ld": I}, {"rows": 3 * H, "cols": H, "ld": H}],
        "pre": [],
        "step": [
            {
                "width": H,
                "gemms": [],
                "code": [
                    ("add", P(0), B(DV), B(CARRY), None),
                    ("sub", P(1), B(S, "prev"), B(N_), None),
                    ("mul", P(2), P(0), P(1), None),
                    ("dsigmoid", B(D, "", 2 * H), P(2), B(Z), None),
                    ("mul", B(PART), P(0), B(Z), None),
                    ("sub", P(3), P(0), B(PART), None),
                    ("dtanh", P(4), P(3), B(N_), None),
                    ("mov", B(D, "", 3 * H), P(4), None, None),
                    ("mul", B(D), P(4), B(R), None),
                    ("mul", P(5), P(4), B(Q), None),
                    ("dsigmoid", B(D, "", H), P(5), B(R), None),
                ],
            },
            {
                "width": H,
                "gemms": [
                    gemm(
                        [0],
                        (B(D, "", H), H, [W(1, 0, 0, True)]),
                        (B(D, "", 2 * H), H, [W(1, H, 0, True)]),
                        (B(D), H, [W(1, 2 * H, 0, True)]),
                    )
                ],
                "code": [("add", B(CARRY), P(0), B(PART), None)],
            },
        ],
        "post": [
            {
                "width": I,
                "gemms": [gemm([0], (B(D, "", H), 3 * H, [W(0, 0, 0, True)]))],
                "code": [("mov", B(DX), P(0), None, None)],
            }
        ],
        "tn": [
            {"out": DW, "row0": 0, "col0": 0, "g": B(D, "", H), "a": B(X), "n": 3 * H, "k": I},
            {"out": DU, "row0": 0, "col0": 0, "g": B(D, "", H), "a": B(S, "prev"), "n": 2 * H, "k": H},
            {"out": DU, "row0": 2 * H, "col0": 0, "g": B(D), "a": B(S, "prev"), "n": H, "k": H},
            {"out": DB, "row0": 0, "col0": 0, "g": B(D, "", H), "a": None, "n": 3 * H},
            {"out": DC, "row0": 0, "col0": 0, "g": B(D), "a": None, "n": H},
        ],
        "reverse": True,
    }


def lstm_forward(I: int, H: int) -> dict:
    """torch.nn.LSTM, gate order i, f, g, o. Saves the gates and tanh(c')."""
    X, XP, BW, S, C, GI, GF, GG, GO, TC, V = range(11)
    return {
        "buffers": [
            buf("seq", I, "x"),
            buf("chunk", 4 * H, "xp"),
            buf("vec", 4 * H, "b"),
            buf("state", H, "h"),
            buf("state", H, "c"),
            *[buf("tiled", H, n) for n in ("i", "f", "g", "o", "tc")],
            buf("seq", H, "v"),
        ],
        "weights": [{"rows": 4 * H, "cols": I, "ld": I}, {"rows": 4 * H, "cols": H, "ld": H}],
        "pre": [
            {
                "width": 4 * H,
                "gemms": [gemm([0], (B(X), I, [W(0)]))],
                "code": [("add", B(XP), P(0), B(BW), None)],
            }
        ],
        "step": [
            {
                "width": H,
                "gemms": [gemm([0, 1, 2, 3], (B(S, "prev"), H, [W(1, g * H) for g in range(4)]))],
                "code": [
                    ("sigmoid_add", P(4), P(0), B(XP), None),
                    ("sigmoid_add", P(5), P(1), B(XP, "", H), None),
                    ("tanh_add", P(6), P(2), B(XP, "", 2 * H), None),
                    ("sigmoid_add", P(7), P(3), B(XP, "", 3 * H), None),
                    ("mul", P(8), P(4), P(6), None),
                    ("fma", P(8), P(5), B(C, "prev"), P(8)),
                    ("mov", B(C, "next"), P(8), None, None),
                    ("tanh", P(9), P(8), None, None),
                    ("mul", P(10), P(7), P(9), None),
                    ("mov", B(S, "next"), P(10), None, None),
                    ("mov", B(V), P(10), None, None),
                    *[
                        ("mov", B(b), P(p), None, None)
                        for b, p in ((GI, 4), (GF, 5), (GG, 6), (GO, 7), (TC, 9))
                    ],
                ],
            }
        ],
        "post": [],
        "tn": [],
        "reverse": False,
    }


def lstm_backward(I: int, H: int) -> dict:
    X, S, C, GI, GF, GG, GO, TC, DV, DH, DCELL, D, DX, DW, DU, DB = range(16)
    return {
        "buffers": [
            buf("seq", I, "x"),
            buf("state", H, "h"),
            buf("state", H, "c"),
            *[buf("tiled", H, n) for n in ("i", "f", "g", "o", "tc")],
            buf("seq", H, "dv"),
            buf("row", H, "dh"),
            buf("row", H, "dc"),
            buf("chunk", 4 * H, "d"),
            buf("seq", I, "dx"),
            buf("grad", I, "dw", rows=4 * H, ld=I),
            buf("grad", H, "du", rows=4 * H, ld=H),
            buf("grad", 4 * H, "db", rows=1, ld=4 * H),
        ],
        "weights": [{"rows": 4 * H, "cols": I, "ld": I}, {"rows": 4 * H, "cols": H, "ld": H}],
        "pre": [],
        "step": [
            {
                "width": H,
                "gemms": [],
                "code": [
                    ("add", P(0), B(DV), B(DH), None),
                    ("mul", P(1), P(0), B(TC), None),
                    ("dsigmoid", B(D, "", 3 * H), P(1), B(GO), None),
                    ("mul", P(2), P(0), B(GO), None),
                    ("dtanh", P(2), P(2), B(TC), None),
                    ("add", P(2), P(2), B(DCELL), None),
                    ("mul", P(3), P(2), B(GG), None),
                    ("dsigmoid", B(D), P(3), B(GI), None),
                    ("mul", P(4), P(2), B(C, "prev"), None),
                    ("dsigmoid", B(D, "", H), P(4), B(GF), None),
                    ("mul", P(5), P(2), B(GI), None),
                    ("dtanh", B(D, "", 2 * H), P(5), B(GG), None),
                    ("mul", B(DCELL), P(2), B(GF), None),
                ],
            },
            {
                "width": H,
                "gemms": [gemm([0], (B(D), 4 * H, [W(1, 0, 0, True)]))],
                "code": [("mov", B(DH), P(0), None, None)],
            },
        ],
        "post": [
            {
                "width": I,
                "gemms": [gemm([0], (B(D), 4 * H, [W(0, 0, 0, True)]))],
                "code": [("mov", B(DX), P(0), None, None)],
            }
        ],
        "tn": [
            {"out": DW, "row0": 0, "col0": 0, "g": B(D), "a": B(X), "n": 4 * H, "k": I},
            {"out": DU, "row0": 0, "col0": 0, "g": B(D), "a": B(S, "prev"), "n": 4 * H, "k": H},
            {"out": DB, "row0": 0, "col0": 0, "g": B(D), "a": None, "n": 4 * H},
        ],
        "reverse": True,
    }
