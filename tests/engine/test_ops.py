"""Every pointwise instruction against float64, with its stated error, on ordinary and on special values."""

import re
from pathlib import Path

import numpy as np
import pytest
from harness import ISAS, B, Data, buf
from oracle import ARITY, OPS

# Largest error relative to the result; everything not listed is exact to one rounding.
ERROR = {
    "exp": 2e-7,
    "sigmoid": 2e-7,
    "tanh": 2e-7,
    "silu": 3e-7,
    "sigmoid_add": 2e-7,
    "sigmoid_add3": 2e-7,
    "tanh_add": 2e-7,
    "tanh_fma": 2e-7,
    "log": 3e-7,
    "log1p": 4e-7,
    "expm1": 4e-7,
    "softplus": 4e-7,
    "erf": 4e-7,
    "sin": 3e-7,
    "cos": 3e-7,
    "pow": 3e-7,
    "rsqrt": 2e-7,
}
SPECIAL = np.array(
    [
        0.0,
        -0.0,
        1.0,
        -1.0,
        np.inf,
        -np.inf,
        np.nan,
        1e-30,
        -1e-30,
        3e38,
        -3e38,
        88.0,
        -87.0,
        1e-42,
        100.0,
        -100.0,
        20.5,
        -20.5,
    ]
)


def evaluate(op, arguments, isa):
    """The engine's value of op on float32 arrays of equal length."""
    n, width = len(arguments), 21
    count = len(arguments[0])
    rows = -(-count // width)
    spec = {
        "buffers": [buf("seq", width, f"a{i}") for i in range(n)] + [buf("seq", width, "out")],
        "weights": [],
        "pre": [],
        "post": [],
        "tn": [],
        "reverse": False,
        "step": [
            {"width": width, "gemms": [], "code": [(op, B(n), *[B(i) for i in range(n)], *[None] * (3 - n))]}
        ],
    }
    given = {i: np.resize(x, rows * width).reshape(rows, width) for i, x in enumerate(arguments)}
    data = Data(spec, 1, rows, given=given | {n: np.zeros((rows, width))})
    return data.engine(isa=isa)[n].reshape(-1)[:count]


def expected(op, arguments):
    with np.errstate(all="ignore"):
        return OPS[op](*[a.astype(np.float64) for a in arguments])


def samples(op):
    rng = np.random.default_rng(hash(op) % 2**32)
    n = 4000
    wide = rng.normal(size=n) * 10.0 ** rng.uniform(-4, 1.3, n)
    if op in ("log", "sqrt", "rsqrt"):
        wide = 10.0 ** rng.uniform(-37, 38, n)
    elif op == "log1p":
        wide = np.where(rng.random(n) < 0.3, 10.0 ** rng.uniform(-6, 30, n), np.clip(wide, -0.999, 50))
    elif op == "pow":
        return [(10.0 ** rng.uniform(-3, 3, n)).astype(np.float32), rng.uniform(-8, 8, n).astype(np.float32)]
    elif op in ("sin", "cos"):
        wide = np.where(rng.random(n) < 0.5, wide, rng.uniform(-1e5, 1e5, n))
    elif op in ("exp", "expm1"):
        wide = np.where(rng.random(n) < 0.5, wide, rng.uniform(-80, 88, n))
    return [rng.permutation(wide).astype(np.float32) for _ in range(ARITY[op])]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", OPS)
def test_error(op, isa):
    arguments = samples(op)
    got, want = evaluate(op, arguments, isa).astype(np.float64), expected(op, arguments)
    # Ops of several roundings may cancel: measure those against their largest term.
    scale = np.abs(want)
    if op not in ERROR:
        for a in arguments:
            scale = np.maximum(scale, np.abs(a))
        if op in ("fma", "fms", "fnma", "lerp", "mul3", "dsigmoid", "dtanh"):
            scale = np.maximum(scale, np.prod([np.abs(a.astype(float)) for a in arguments[:2]], axis=0) * 2)
            scale = (
                np.maximum(scale, expected("mul", [arguments[0], arguments[1] ** 2]).__abs__())
                if op.startswith("d")
                else scale
            )
            scale = (
                np.maximum(scale, np.prod([np.abs(a.astype(float)) + 1 for a in arguments], axis=0))
                if op in ("lerp", "mul3")
                else scale
            )
    elif op in ("sigmoid_add", "sigmoid_add3", "tanh_add", "tanh_fma"):
        pytest.skip("the inner sum's rounding is measured by test_fused")
    if op in ("sin", "cos"):
        scale = np.ones_like(want)
    ok = np.isfinite(want) & (np.abs(want) < 3e38) & (scale > 1e-36)
    if op == "sigmoid" or op == "silu":
        ok &= arguments[0] > -87
    error = (np.abs(got - want) / np.maximum(scale, 1e-36))[ok].max()
    assert error <= ERROR.get(op, 3e-7), error


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("op", "inner"),
    [("sigmoid_add", "add"), ("sigmoid_add3", "add3"), ("tanh_add", "add"), ("tanh_fma", "fma")],
)
def test_fused(op, inner, isa):
    """A fused op is its outer function of the inner one, up to the rounding of the inner result."""
    arguments = [np.random.default_rng(i).normal(size=3000).astype(np.float32) for i in range(ARITY[op])]
    got, want = evaluate(op, arguments, isa), expected(op, arguments)
    assert np.abs(got - want).max() < 6e-7
    outer = op.split("_")[0]
    parts = evaluate(outer, [evaluate(inner, arguments, isa)], isa)
    assert np.abs(got - parts).max() < 3e-7


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", OPS)
def test_special_values(op, isa):
    """NaN, infinities, zeros and huge arguments give what numpy (and torch) give."""
    grid = np.meshgrid(*[SPECIAL] * ARITY[op], indexing="ij")
    arguments = [g.reshape(-1).astype(np.float32) for g in grid]
    got = evaluate(op, arguments, isa)
    with np.errstate(all="ignore"):
        want = (
            OPS[op](*arguments).astype(np.float32)
            if op not in ("sin", "cos", "erf")
            else expected(op, arguments).astype(np.float32)
        )
    if (
        op == "dsigmoid"
        or op == "dtanh"
        or op == "mul3"
        or op in ("fma", "fms", "fnma", "lerp", "tanh_fma", "add3", "sigmoid_add3")
    ):
        # Overflow of an inner result depends on fusing: only ask for NaN where an operand is NaN.
        nan = np.any([np.isnan(a) for a in arguments], axis=0)
        assert np.isnan(got[nan]).all()
        small = np.all([np.abs(np.nan_to_num(a, nan=0.0)) < 1e3 for a in arguments], axis=0) & ~nan
        assert np.allclose(got[small], want[small], rtol=1e-5, atol=1e-6)
        return
    wrong = np.isnan(got) != np.isnan(want)
    assert not wrong.any(), [tuple(a[wrong][0] for a in arguments), got[wrong][0], want[wrong][0]]
    with np.errstate(all="ignore"):
        close = (got == want) | np.isnan(want) | (np.abs(got - want) <= 1e-6 * np.abs(want) + 1e-37)
    assert close.all(), [tuple(a[~close][0] for a in arguments), got[~close][0], want[~close][0]]


@pytest.mark.parametrize("isa", ISAS)
def test_saturation(isa):
    x = np.array([10, 20, 50, 90, 200, 1e10, np.inf], np.float32)
    assert (evaluate("tanh", [x], isa) == 1).all()
    assert (evaluate("tanh", [-x], isa) == -1).all()
    assert (evaluate("sigmoid", [x[1:]], isa) == 1).all()
    assert (evaluate("sigmoid", [-x[3:]], isa) == 0).all()


def test_every_op_has_a_meaning():
    """The oracle's table and the engine's are the same list."""

    table = Path(__file__).parents[2] / "csrc" / "ops.def"
    names = re.findall(r'^OP\(\w+, "(\w+)", (\d)', table.read_text(), re.M)
    assert {name: int(n) for name, n in names} == ARITY
