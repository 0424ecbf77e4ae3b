"""Layers and cells of `torch.nn` that no file or stream is made of as they stand: refused with a way out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import nextstate as ns


def onnx(module: nn.Module, folder: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    ns.export.onnx(module, folder / "m.onnx")


EXPORTS: dict[str, Callable[[Any, Path], Any]] = {
    "onnx": onnx,
    "c": lambda module, folder: ns.export.c(module, folder / "m.c"),
}
exports = pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)


class Own(nn.GRU):
    def forward(self, input: Any, hx: Any = None) -> Any:
        return super().forward(2 * input, hx)


def doubled(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (2 * inputs[0],)


def hooked(layer: nn.GRU, register: str, hook: Callable[..., Any]) -> nn.GRU:
    getattr(layer, register)(hook)
    return layer


OTHER_FUNCTIONS: dict[str, tuple[Callable[[], nn.GRU], str]] = {
    "own class": (lambda: Own(3, 4), "Own is a class of its own, derived from a torch layer"),
    "before": (lambda: hooked(nn.GRU(3, 4), "register_forward_pre_hook", doubled), r"hooks \(doubled\)"),
    "after": (lambda: hooked(ns.nn.GRU(3, 4), "register_forward_hook", print), r"hooks \(print\)"),
    "weight norm": (
        lambda: nn.utils.weight_norm(nn.GRU(3, 4), "weight_hh_l0"),
        r"hooks \(WeightNorm\).*remove_weight_norm",
    ),
    "pruned": (
        lambda: prune.l1_unstructured(nn.GRU(3, 4), "weight_hh_l0", 0.5),
        r"hooks \(L1Unstructured\).*prune\.remove",
    ),
}
pytestmark = pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated")


@exports
@pytest.mark.parametrize("name", OTHER_FUNCTIONS)
def test_a_layer_that_is_not_its_parameters(export, name: str, tmp_path: Path) -> None:
    make, words = OTHER_FUNCTIONS[name]
    with pytest.raises(ns.InputError, match=words):
        export(make(), tmp_path)
    assert not list(tmp_path.iterdir())


@exports
def test_with_its_hooks_off_it_is_written(export, tmp_path: Path) -> None:
    export(nn.utils.remove_weight_norm(OTHER_FUNCTIONS["weight norm"][0](), "weight_hh_l0"), tmp_path)
    assert list(tmp_path.iterdir())


@exports
def test_a_cell_with_weight_norm_is_written(export, tmp_path: Path) -> None:
    """Its step is traced, hooks included: the weights of now, not those that the last call left behind."""
    cell = nn.utils.weight_norm(ns.GRU(3, 4), "weight_hh")
    with torch.no_grad():
        cell.weight_hh_g.mul_(3)
    export(cell, tmp_path)
    written = tmp_path / "m.c"
    if written.exists():
        norms = cell.weight_hh_v.norm(dim=1, keepdim=True)
        now = (cell.weight_hh_g * cell.weight_hh_v / norms).detach()[0, 0]
        numbers = [float(x) for x in re.findall(r"(-?\d+\.\d+(?:e-?\d+)?)f?", written.read_text())]
        assert any(abs(x - now) < 1e-6 for x in numbers)


TAKERS = EXPORTS | {
    "Session": lambda cell, folder: ns.Session(cell),
    "Streams": lambda cell, folder: ns.Streams(cell),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("made", [nn, ns.nn], ids=["torch", "ours"])
@pytest.mark.parametrize("kind", ["GRUCell", "LSTMCell", "RNNCell", "GRU", "LSTM, two layers"])
def test_the_way_out_works(kind: str, made: Any, taker: str, tmp_path: Path) -> None:
    name, _, more = kind.partition(", ")
    if taker in EXPORTS and not name.endswith("Cell"):
        pytest.skip("a layer is written as it is")
    it = getattr(made, name)(3, 4, **({"num_layers": 2} if more else {}))
    with pytest.raises(ns.InputError, match=f"is a {name}; expected.*; .* is one$") as refused:
        TAKERS[taker](it, tmp_path)
    assert "RNNBase" not in str(refused.value)
    way = str(refused.value).rpartition("; ")[2].removesuffix(" is one")
    TAKERS[taker](eval(way, {"nextstate": ns, "it": it}), tmp_path)


def test_there_is_not_always_a_way_out() -> None:
    with pytest.raises(ns.InputError, match=r"which a layer that reads backward too is not$"):
        ns.Session(nn.GRU(3, 4, bidirectional=True))  # type: ignore[arg-type]
    with pytest.raises(ns.InputError, match=r"such as nextstate\.GRU$"):
        ns.Session(Own(3, 4))  # type: ignore[arg-type]
