"""Whatever is no machine, no word or no model is refused with the reason, never with a crash."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nextstate import GRU, InputError
from nextstate.machines import (
    DFA,
    PDA,
    CounterMachine,
    Mealy,
    Moore,
    Recogniser,
    TuringMachine,
    algebra,
    compile,
    draw,
    extract,
    from_json,
    from_text,
    load,
    load_model,
    regex,
    save,
    save_model,
    to_json,
    to_text,
)
from nextstate.machines.library import (
    busy_beaver,
    counting_sort,
    dyck,
    equal_blocks,
    marked_palindromes,
    palindromes,
    random_dfa,
    tomita,
)

TRUE: Callable[[list[Any]], list[bool]] = lambda words: [True for _ in words]  # noqa: E731


@pytest.mark.parametrize(
    "make",
    [
        lambda: DFA("01", [[1]], [1], [], {}),
        lambda: DFA("01", [1], 1, [[1]], {}),
        lambda: DFA.table("01", {0: [0, 0]}, accepting=[0]).accepts(5),  # type: ignore[arg-type]
        lambda: DFA.table("01", {}, accepting=[]),
        lambda: DFA.table("", {0: []}, accepting=[]),
        lambda: Mealy("01", (0,), 0, {0: (0, "x")}),
        lambda: CounterMachine("", ("q",), "q", (), {}),
        lambda: CounterMachine("a", ("q",), "q", (), {}, -1),
        lambda: CounterMachine("a", ("q",), "q", (), {("q", "a"): ("q", (1,))}),
        lambda: CounterMachine("a", ("q",), "q", (), {("q", "a", "*"): "q"}),
        lambda: CounterMachine("a", ("q",), "q", (), {("q", "a", "*"): ("q", ("x",))}),
        lambda: PDA("a", "x", ("q",), "q", (), {}, 0),
        lambda: PDA("a", "x", ("q",), "q", (), {("q", "a"): ("q", "")}),
        lambda: PDA("a", "x", ("q",), "q", (), {("q", "a", "*"): "q"}),
        lambda: TuringMachine("", (), "q", (), {}),
        lambda: TuringMachine.standard(""),
        lambda: DFA("0", [1], 1, [], {(1, "0"): [2]}),
        lambda: DFA("0", [1], [1], [], {}),
        lambda: DFA("0", [1], 1, [], None),  # type: ignore[arg-type]
        lambda: Moore("0", [1], 1, {1: [2]}, {}),
        lambda: Moore("0", [1], 1, None, {}),  # type: ignore[arg-type]
        lambda: Mealy("0", [1], 1, {(1, "0"): (1, [2])}),
        lambda: CounterMachine("a", "q", "q", {"q": 5}, {}),
        lambda: CounterMachine("a", "q", "q", 5, {}),
        lambda: CounterMachine("a", "q", "q", (), None),  # type: ignore[arg-type]
        lambda: CounterMachine("a", "q", "q", ("q",), {}, 10**12),
        lambda: PDA("a", "x", "q", "q", {"q": 5}, {}),
        lambda: PDA("a", "x", "q", "q", 7, {}),
        lambda: PDA("a", "x", "q", "q", ("q",), None),  # type: ignore[arg-type]
        lambda: PDA("a", "x", "q", "q", ("q",), {}, 10**12),
        lambda: TuringMachine("_1", "q", "q", (), None),  # type: ignore[arg-type]
        lambda: TuringMachine("_1", "q", "q", (), {("q", "1"): (["q"], "1", "R")}),
        lambda: from_json("[" * 100_000),
        lambda: from_text(
            "counters; counters 999999999999; alphabet a; start p; accepting p:0; p a 0 -> p +1"
        ),
        lambda: regex("(" * 4000 + ")" * 4000, "ab"),
    ],
)
def test_what_is_no_machine(make: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        make()


@pytest.mark.parametrize(
    "options",
    [
        {"epsilon": 0},
        {"delta": 0},
        {"epsilon": -1.0},
        {"longest": -1},
        {"near": 0},
        {"states": 0},
        {"rounds": 0},
        {"boxes": -1},
    ],
)
def test_numbers_no_search_can_be_run_with(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        extract(TRUE, "a", **options)


def test_functions_that_do_not_label_words() -> None:
    with pytest.raises(InputError, match="1 labels for"):
        extract(lambda words: [True], "ab")
    with pytest.raises(InputError, match="Recogniser"):
        extract(GRU(2, 3), "ab")
    found = extract(lambda words: torch.tensor([len(word) % 2 == 0 for word in words]), "a")
    assert (found.status, len(found.machine.states)) == ("pac", 2)


NAMES = ["a", "0", "->", "/", "-", "~", "*", ",", ":", "a:b", "a,b", "#x", "start", "+1", " ", "", "a b", ";"]
NAMES += ["\u00a0x", "x\u2028y", "x\ty", "x\ry", "q:", ":0", "None", "states"]


def any_machine(draw: random.Random) -> Any:
    """A machine of any kind, with names that mean something in the text format."""
    kind = draw.choice(["dfa", "mealy", "counters", "pda", "turing"])
    states, letters = draw.sample(NAMES, draw.randint(1, 3)), draw.sample(NAMES, 2)
    some = [(q, a) for q in states for a in letters if draw.random() < 0.8]
    accepting = [q for q in states if draw.random() < 0.5]
    to = {key: draw.choice(states) for key in some}
    if kind == "dfa":
        return DFA(letters, states, states[0], accepting, to)
    if kind == "mealy":
        return Mealy(letters, states, states[0], {k: (to[k], draw.choice(NAMES)) for k in some})
    if kind == "counters":
        tests = {q: draw.choice("0*") for q in accepting}
        table = {(*k, "+"): (to[k], (draw.choice([-1, 0, 1]),), draw.choice([None, "x"])) for k in some}
        return CounterMachine(letters, states, states[0], tests, table)
    symbols = [name for name in draw.sample(NAMES, 2) if name not in ("", "*")] or ["a"]
    if kind == "pda":
        pushes = {k: tuple(draw.choices(symbols, k=draw.randint(0, 2))) for k in some}
        moves = {(*k, (draw.choice(["", "*", *symbols]),)): (to[k], (pushes[k],)) for k in some}
        return PDA(letters, symbols, states, states[0], dict.fromkeys(accepting, ("",)), moves)
    tape = {(q, a): (draw.choice(states), a, "R") for q in states for a in symbols}
    return TuringMachine(symbols, states, states[0], accepting, tape)


def test_names_come_back_from_text_or_are_refused() -> None:
    kept = 0
    for seed in range(600):
        machine = any_machine(random.Random(seed))
        assert from_json(to_json(machine)) == machine
        try:
            text = to_text(machine)
        except InputError:
            continue
        assert from_text(text) == machine, text
        kept += 1
    assert 50 < kept < 550


def test_damaged_texts_are_read_or_refused() -> None:
    whole = [tomita(3), equal_blocks(), marked_palindromes(), palindromes(), counting_sort(3)]
    texts = [*map(to_text, whole), *map(to_json, whole)]
    refused = 0
    for seed in range(600):
        draw = random.Random(seed)
        signs = list(draw.choice(texts))
        for _ in range(draw.randint(1, 3)):
            signs[draw.randrange(len(signs))] = draw.choice(["", " ", "\n", ";", "->", "[]", "-1", *signs])
        text = "".join(signs)
        try:
            (from_json if text.lstrip().startswith("{") else from_text)(text)
        except InputError:
            refused += 1
    assert refused > 300


def test_files_that_hold_no_machine(tmp_path: Path) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "bytes.txt", tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError):
            load(path)


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    machine, net = tomita(1), compile(tomita(1))
    for write, end in ((save, ".txt"), (save, ".json"), (draw, ".svg"), (draw, ".xyz"), (draw, "")):
        with pytest.raises(InputError):
            write(machine, tmp_path / "none" / f"m{end}")
    with pytest.raises(InputError, match="no folder"):
        save_model(net, tmp_path / "none" / "m.safetensors")
    with pytest.raises(InputError, match="a folder has that name"):
        save_model(net, tmp_path)
    with pytest.raises(InputError, match=r"\.svg, \.png or \.pdf"):
        draw(machine, tmp_path / "m.xyz")
    assert not list(tmp_path.iterdir()), "something half-written was left"


def about(tmp_path: Path, **changes: Any) -> Path:
    """A model with parts of its description changed."""
    from safetensors import safe_open

    path = tmp_path / "model.safetensors"
    with safe_open(str(path), framework="pt") as file:
        said = json.loads(file.metadata()["about"])
    said.update(changes)
    save_file(load_file(path), tmp_path / "changed.safetensors", {"about": json.dumps(said)})
    return tmp_path / "changed.safetensors"


@pytest.mark.parametrize(
    "network", [compile(tomita(4)), Recogniser(GRU(2, 4), "01")], ids=["compiled", "gru"]
)
def test_models_that_do_not_fit_their_description(network: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(network, path)
    load_model(about(tmp_path))
    content = path.read_bytes()
    for size in (0, 7, 200, len(content) - 1):
        (tmp_path / "cut.safetensors").write_bytes(content[:size])
        with pytest.raises(InputError):
            load_model(tmp_path / "cut.safetensors")
    changes: list[dict[str, Any]] = [{"cell": "mlp"}, {"cell": None}, {"nextstate": 3}, {"cell": "LSTM"}]
    changes += [{"machine": "{}", "alphabet": "012"}, {"dtype": "int8", "alphabet": 5}]
    for change in changes:
        with pytest.raises(InputError, match=r"changed\.safetensors"):
            load_model(about(tmp_path, **change))
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors", {"about": "[]"})
    with pytest.raises(InputError, match="neither"):
        load_model(tmp_path / "other.safetensors")


@pytest.mark.parametrize("name", ["", "$", "$\\foo$", "a$_$b"])
def test_names_that_are_no_formula_are_drawn(name: str, tmp_path: Path) -> None:
    draw(DFA([name], [name], name, [], {(name, name): name}), tmp_path / "m.svg", title=name)
    assert (tmp_path / "m.svg").is_file()


MEALY = Mealy("a", [0], 0, {(0, "a"): (0, "x")})
MOORE = Moore("a", [0], 0, {0: "x"}, {(0, "a"): 0})


@pytest.mark.parametrize(
    ("attempt", "told"),
    [
        (lambda: algebra.minimise(MEALY), "minimise: the machine is a Mealy; expected a DFA or Moore"),
        (lambda: algebra.complete(MEALY), "complete: the machine is a Mealy; expected a DFA"),
        (lambda: algebra.complement(MOORE), "complement: the machine is a Moore; expected a DFA"),
        (lambda: algebra.product(tomita(4), MOORE, bool.__and__), "product: the machine is a Moore"),
        (lambda: algebra.reachable(busy_beaver(2)), "reachable: the machine is a TuringMachine"),
        (lambda: algebra.equivalent(busy_beaver(2), tomita(4)), "the machine is a TuringMachine"),
        (lambda: algebra.accepted_count(MOORE, 3), "accepted_count: the machine is a Moore"),
        (lambda: Recogniser(GRU(2, 4), "01").accepts("02"), "accepts: '2' is no letter"),
        (lambda: regex(None, "01"), "regex: the pattern is None; expected text"),
        (lambda: from_text(5), "from_text: got a int; expected text"),
        (lambda: TuringMachine.standard(5), "got 5; expected text"),
        (lambda: save_model(tomita(4), "m"), "save_model: got a DFA; expected a compiled machine"),
        (lambda: dyck(2, 9), "dyck: depth is 2 and kinds is 9"),
        (lambda: random_dfa(2, 30), "random_dfa: states is 2 and letters is 30"),
        (lambda: extract(lambda words: [None] * len(words), "01"), "extract: the function gave None"),
        (lambda: extract(lambda words: [[0]] * len(words), "01"), r"extract: the function gave \[0\]"),
    ],
)
def test_what_an_operation_is_not_for(attempt: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        attempt()


def test_labels_of_numpy_are_those_of_python() -> None:
    found = extract(lambda words: np.array([len(word) % 2 == 0 for word in words]), "01").machine
    assert isinstance(found, DFA)
    assert found.accepts("00")
    assert not found.accepts("0")
