"""Machines as text, JSON, pictures and models come back as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nextstate import GRU, InputError
from nextstate.machines import (
    Compiled,
    Mealy,
    Moore,
    Recogniser,
    compile,
    draw,
    from_json,
    from_text,
    load,
    load_model,
    save,
    save_model,
    to_json,
    to_text,
)
from nextstate.machines.library import (
    busy_beaver,
    counting_sort,
    equal_blocks,
    marked_palindromes,
    palindromes,
    tomita,
)

MACHINES: dict[str, Any] = {
    "dfa": tomita(3),
    "moore": Moore.table("ab", {"p": ["q", None], "q": ["p", "q"]}, outputs={"p": "x", "q": "y"}),
    "mealy": Mealy("01", ("p", "q"), "p", {("p", "0"): ("q", "x"), ("q", "1"): ("p", "y")}),
    "counters": equal_blocks(),
    "counters with output": counting_sort(3),
    "pda": marked_palindromes(),
    "turing": palindromes(),
    "beaver": busy_beaver(4),
}


@pytest.mark.parametrize("name", MACHINES)
def test_json_round_trip(name: str) -> None:
    assert from_json(to_json(MACHINES[name])) == MACHINES[name]


@pytest.mark.parametrize("name", MACHINES)
def test_text_round_trip(name: str, tmp_path: Path) -> None:
    machine = MACHINES[name]
    text = to_text(from_json(to_json(machine)))
    back = from_text(text)
    assert to_text(back) == text
    if all(isinstance(q, str) for q in machine.states):
        assert back == machine
    save(back, tmp_path / "m.txt")
    save(back, tmp_path / "m.json")
    assert load(tmp_path / "m.txt") == load(tmp_path / "m.json") == back
    assert {p.name for p in tmp_path.iterdir()} == {"m.txt", "m.json"}, "a half-written file was left"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nfa; start a",
        "dfa; alphabet 0; start a; a 0 b",
        "dfa; start a; a 0 -> a",
        "dfa; alphabet 0; start a; a 1 -> a",
        "counters; alphabet a; start p; p a 0 -> p x",
        "pda; alphabet a; symbols x; start p; p a -> p",
        "turing; symbols _; start p; p _ -> p _ U",
    ],
)
def test_bad_text_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        from_text(text)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"kind": "dfa"}', '{"kind": "x"}', '{"kind": "dfa", "alphabet": 3}']
)
def test_bad_json_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        from_json(text)


@pytest.mark.parametrize("name", MACHINES)
def test_pictures(name: str, tmp_path: Path) -> None:
    draw(MACHINES[name], tmp_path / "m.svg", title=name)
    draw(MACHINES[name], tmp_path / "m.png")
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "m.svg").read_text()
    assert text.count("<path") > len(MACHINES[name].states)


def test_models_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Recogniser(GRU(2, 6), "01")
    save_model(network, tmp_path / "r.safetensors")
    back = load_model(tmp_path / "r.safetensors")
    assert isinstance(back, Recogniser)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), back.parameters(), strict=True))
    for options in ({"cell": "lstm"}, {"activation": "tanh", "gain": 7.0}, {"dtype": torch.float16}):
        save_model(compile(tomita(5), **options), tmp_path / "c.safetensors")  # type: ignore[arg-type]
        again = load_model(tmp_path / "c.safetensors")
        assert isinstance(again, Compiled)
        assert again.run("0011").accepted
    for memory in ("grow", "cantor", "digital"):
        save_model(compile(marked_palindromes(), memory=memory), tmp_path / "p.safetensors")
        pushed = load_model(tmp_path / "p.safetensors")
        assert isinstance(pushed, Compiled)
        assert pushed.run("ab#ba").accepted


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError):
        load_model(tmp_path / "x.safetensors")
