"""The cells once more, gate by gate and row by row in plain Python floats, from their papers' equations.

Nothing here is shared with the library. Each function is (parameters, input row, state rows) -> (output,
state rows), with the parameters as nested lists.
"""

from __future__ import annotations

import math

Vector = list[float]
Matrix = list[Vector]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def product(w: Matrix, x: Vector) -> Vector:
    return [sum(a * b for a, b in zip(row, x, strict=True)) for row in w]


def norm(x: Vector, gain: Vector, bias: Vector) -> Vector:
    mean = sum(x) / len(x)
    var = sum((a - mean) ** 2 for a in x) / len(x)
    return [g * (a - mean) / math.sqrt(var + 1e-5) + b for a, g, b in zip(x, gain, bias, strict=True)]


def gate(p: dict, k: int, u: Vector, h: Vector, size: int) -> Vector:
    """W u + b + U h + c of the k-th block."""
    rows = slice(k * size, (k + 1) * size)
    from_u = product(p["weight_ih"][rows], u)
    from_h = product(p["weight_hh"][rows], h)
    return [sum(x) for x in zip(from_u, p["bias_ih"][rows], from_h, p["bias_hh"][rows], strict=True)]


def elman(p, u, s):
    h = [math.tanh(x) for x in gate(p, 0, u, s[0], len(s[0]))]
    return h, [h]


def gru_from(a: list[Vector], candidate, h: Vector):
    r, z = ([sigmoid(x) for x in block] for block in a)
    n = [math.tanh(x) for x in candidate(r)]
    h = [(1 - zi) * ni + zi * hi for zi, ni, hi in zip(z, n, h, strict=True)]
    return h, [h]


def gru(p, u, s):
    h, size = s[0], len(s[0])
    rows = slice(2 * size, 3 * size)
    from_u = [a + b for a, b in zip(product(p["weight_ih"][rows], u), p["bias_ih"][rows], strict=True)]
    from_h = [a + b for a, b in zip(product(p["weight_hh"][rows], h), p["bias_hh"][rows], strict=True)]
    return gru_from(
        [gate(p, 0, u, h, size), gate(p, 1, u, h, size)],
        lambda r: [a + ri * b for a, ri, b in zip(from_u, r, from_h, strict=True)],
        h,
    )


def reset_before_gru(p, u, s):
    h, size = s[0], len(s[0])
    return gru_from(
        [gate(p, 0, u, h, size), gate(p, 1, u, h, size)],
        lambda r: gate(p, 2, u, [ri * hi for ri, hi in zip(r, h, strict=True)], size),
        h,
    )


def layer_norm_gru(p, u, s):
    h, size = s[0], len(s[0])
    a = norm(product(p["weight_ih"], u), p["gain_ih"], p["bias_ih"])
    d = norm(product(p["weight_hh"], h), p["gain_hh"], p["bias_hh"])
    blocks = [
        [x + y for x, y in zip(a[k * size : (k + 1) * size], d[k * size : (k + 1) * size], strict=True)]
        for k in range(2)
    ]
    return gru_from(
        blocks,
        lambda r: [x + ri * y for x, ri, y in zip(a[2 * size :], r, d[2 * size :], strict=True)],
        h,
    )


def min_gru(p, u, s):
    h, size = s[0], len(s[0])
    x = [a + b for a, b in zip(product(p["weight_ih"], u), p["bias_ih"], strict=True)]
    z = [sigmoid(a) for a in x[:size]]
    h = [(1 - zi) * hi + zi * gi for zi, hi, gi in zip(z, h, x[size:], strict=True)]
    return h, [h]


def memory(i: Vector, f: Vector, g: Vector, c: Vector) -> Vector:
    return [fi * ci + ii * math.tanh(gi) for ii, fi, gi, ci in zip(i, f, g, c, strict=True)]


def lstm(p, u, s):
    h, c = s
    i, f, g, o = (gate(p, k, u, h, len(c)) for k in range(4))
    c = memory([sigmoid(x) for x in i], [sigmoid(x) for x in f], g, c)
    h = [sigmoid(x) * math.tanh(y) for x, y in zip(o, c, strict=True)]
    return h, [h, c]


def mogrifier_lstm(p, u, s):
    """Two tables of matrices below each other: Q of len(u) rows each, R of len(h) rows each."""
    h, c = s
    us, hs = len(u), len(h)
    for number in range(len(p["weight_q"]) // us + len(p["weight_r"]) // hs):
        k = number // 2
        if number % 2 == 0:
            q = p["weight_q"][k * us : (k + 1) * us]
            u = [2 * sigmoid(a) * b for a, b in zip(product(q, h), u, strict=True)]
        else:
            r = p["weight_r"][k * hs : (k + 1) * hs]
            h = [2 * sigmoid(a) * b for a, b in zip(product(r, u), h, strict=True)]
    return lstm(p, u, [h, c])


def projected_lstm(p, u, s):
    h, (_, c) = lstm(p, u, s)
    h = product(p["weight_hr"], h)
    return h, [h, c]


def peephole_lstm(p, u, s):
    h, c = s
    size = len(c)
    i, f, g, o = (gate(p, k, u, h, size) for k in range(4))
    p_i, p_f, p_o = (p["peephole"][k * size : (k + 1) * size] for k in range(3))
    i = [sigmoid(x + w * y) for x, w, y in zip(i, p_i, c, strict=True)]
    f = [sigmoid(x + w * y) for x, w, y in zip(f, p_f, c, strict=True)]
    c = memory(i, f, g, c)
    h = [sigmoid(x + w * y) * math.tanh(y) for x, w, y in zip(o, p_o, c, strict=True)]
    return h, [h, c]


def coupled_lstm(p, u, s):
    h, c = s
    i, g, o = (gate(p, k, u, h, len(c)) for k in range(3))
    i = [sigmoid(x) for x in i]
    c = memory(i, [1 - x for x in i], g, c)
    h = [sigmoid(x) * math.tanh(y) for x, y in zip(o, c, strict=True)]
    return h, [h, c]


def layer_norm_lstm(p, u, s):
    h, c = s
    size = len(c)
    a = norm(product(p["weight_ih"], u), p["gain_ih"], p["bias_ih"])
    d = norm(product(p["weight_hh"], h), p["gain_hh"], p["bias_hh"])
    x = [y + z for y, z in zip(a, d, strict=True)]
    i, f, g, o = (x[k * size : (k + 1) * size] for k in range(4))
    c = memory([sigmoid(y) for y in i], [sigmoid(y) for y in f], g, c)
    seen = norm(c, p["gain_c"], p["bias_c"])
    h = [sigmoid(y) * math.tanh(z) for y, z in zip(o, seen, strict=True)]
    return h, [h, c]


def stack_rnn(p, u, s):
    h, stack = s
    width = len(p["bias_push"])
    cells = [stack[k : k + width] for k in range(0, len(stack), width)]
    top = product(p["weight_top"], cells[0])
    h = [math.tanh(x + y) for x, y in zip(gate(p, 0, u, h, len(h)), top, strict=True)]
    powers = [math.exp(x + b) for x, b in zip(product(p["weight_action"], h), p["bias_action"], strict=True)]
    push, pop, keep = (x / sum(powers) for x in powers)
    pushed = [sigmoid(x + b) for x, b in zip(product(p["weight_push"], h), p["bias_push"], strict=True)]
    below, above = [pushed, *cells[:-1]], [*cells[1:], [0.0] * width]
    mixed = [
        push * a + pop * b + keep * c
        for three in zip(below, above, cells, strict=True)
        for a, b, c in zip(*three, strict=True)
    ]
    return h, [h, mixed]


BY_NAME = {
    "Elman": elman,
    "GRU": gru,
    "ResetBeforeGRU": reset_before_gru,
    "LayerNormGRU": layer_norm_gru,
    "MinGRU": min_gru,
    "LSTM": lstm,
    "PeepholeLSTM": peephole_lstm,
    "ProjectedLSTM": projected_lstm,
    "CoupledLSTM": coupled_lstm,
    "LayerNormLSTM": layer_norm_lstm,
    "MogrifierLSTM": mogrifier_lstm,
    "StackRNN": stack_rnn,
}
