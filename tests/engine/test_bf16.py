"""Programs whose products take bfloat16 operands and add in float32."""

import programs
import pytest
from harness import Data, compare
from test_programs import PROGRAMS

from nextstate import _engine
from training import train

needs_bf16 = pytest.mark.skipif(not _engine.info()["bf16"], reason="no AVX-512 BF16 instructions")
CELLS = {
    "gru": (programs.gru_forward, programs.gru_backward),
    "lstm": (programs.lstm_forward, programs.lstm_backward),
}


@needs_bf16
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("T", "B", "I", "H"), [(1, 1, 8, 16), (7, 5, 3, 17), (3, 33, 16, 48), (4, 20, 33, 64), (9, 2, 5, 100)]
)
def test_training(cell, T, B, I, H):
    """A relative step of 2^-9 in each operand: outputs and gradients within 2 % of the largest."""
    forward, backward = CELLS[cell]
    train(forward(I, H), backward(I, H), T, B, precision="bf16", tol=2e-2)


@needs_bf16
@pytest.mark.parametrize("lengths", [None, [9, 9, 8, 5, 3, 1, 1, 0]])
def test_same_bits(lengths):
    fs, bs = programs.gru_forward(5, 33), programs.gru_backward(5, 33)
    how = {"precision": "bf16", "tol": 2e-2}
    first = train(fs, bs, 9, 8, lengths, **how)
    for more in ({"threads": 2}, {"row_block": 3}, {"chunk_rows": 10}):
        again = train(fs, bs, 9, 8, lengths, **how, **more)
        for spec, a, b in zip((fs, bs), first, again, strict=True):
            for i in a:
                kind = spec["buffers"][i]["kind"]
                if kind != "tiled" and not (kind == "grad" and "chunk_rows" in more):
                    assert a[i].tobytes() == b[i].tobytes(), (more, spec["buffers"][i])


@needs_bf16
@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name):
    data = Data(PROGRAMS[name], 5, 6)
    compare(PROGRAMS[name], data.engine(precision="bf16", threads=2), data.oracle(), tol=4e-2)


@needs_bf16
def test_it_is_bf16():
    data = Data(programs.gru_forward(16, 64), 4, 8)
    want, got = data.oracle(), data.engine(precision="bf16")
    with pytest.raises(AssertionError):
        compare(data.spec, got, want, tol=1e-5)


def test_refusals():
    with pytest.raises(ValueError, match="precision"):
        _engine.Program({"buffers": []}, "", "fp8")
    with pytest.raises(ValueError, match="bf16"):
        _engine.Program({"buffers": []}, "portable", "bf16")
