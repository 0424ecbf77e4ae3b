"""Machines as text and as JSON, and in files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nextstate.checks import refuse
from nextstate.machines.automata import DFA, Mealy, Moore
from nextstate.machines.counters import CounterMachine
from nextstate.machines.pushdown import EMPTY, PDA
from nextstate.machines.turing import TuringMachine
from nextstate.machines.words import LARGEST
from nextstate.writing import whole

Machine = DFA | Moore | Mealy | CounterMachine | PDA | TuringMachine
KINDS: dict[str, type] = {
    "dfa": DFA,
    "moore": Moore,
    "mealy": Mealy,
    "counters": CounterMachine,
    "pda": PDA,
    "turing": TuringMachine,
}
_NONE, _FREE = "-", "~"


def to_json(machine: Machine) -> str:
    """A machine as JSON: its kind, its lists, and one list a transition.

    >>> even = DFA.table("1", {0: [1], 1: [0]}, accepting=[0])
    >>> from_json(to_json(even)) == even
    True
    """
    return json.dumps(_record(machine), ensure_ascii=False)


def from_json(text: str) -> Machine:
    """The machine of a JSON text; raises InputError if it is none, with every fault of the machine."""
    try:
        record = json.loads(text)
        return _machine(record)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if type(error).__name__ == "InputError":
            raise
        refuse("from_json", f"not a machine: {type(error).__name__}: {error}")


def to_text(machine: Machine) -> str:
    """A machine in the small text format, one transition a line.

        dfa                     kinds: dfa, moore, mealy, counters, pda, turing
        alphabet 0 1            also: symbols (pda, turing), counters 2, stacks 2, output STATE VALUE (moore)
        start even
        accepting even          with tests where the kind has them: accepting q:0* p:-
        even 0 -> even          mealy:    q a -> q' output
        even 1 -> odd           counters: q a 0+ -> q' +1 -1 / output
        odd 0 -> odd            pda:      q a top -> q' push / output
        odd 1 -> even           turing:   q symbol -> q' written R

    "~" is the letter of a free move, "-" an empty stack or an empty push, "," joins pushed symbols, "*" tests
    nothing, a line that begins with "#" is a comment, and ";" stands for a line end. Names hold no spaces and
    come back as text.

    >>> even = from_text("dfa; alphabet 1; start a; accepting a; a 1 -> b; b 1 -> a")
    >>> even.accepts("11"), from_text(to_text(even)) == even
    (True, True)
    """
    record = _record(machine)
    lines = [record["kind"]]
    for field in ("counters", "stacks"):
        if record.get(field, 1) != 1:
            lines.append(f"{field} {record[field]}")
    for field in ("alphabet", "symbols", "states"):
        if field in record:
            lines.append(" ".join([field, *map(_name, record[field])]))
    lines.append(f"start {_name(record['start'])}")
    accepting = record.get("accepting", [])
    if accepting and isinstance(accepting[0], tuple):
        accepting = [f"{_name(q)}:{''.join(t or _NONE for t in tests)}" for q, tests in accepting]
    if accepting:
        lines.append(" ".join(["accepting", *map(_name, accepting)]))
    lines += [f"output {_name(q)} {_name(x)}" for q, x in record.get("outputs", [])]
    write = _WRITERS[record["kind"]]
    lines += [write(row) for row in record["transitions"]]
    text = "\n".join(lines) + "\n"
    if not _comes_back(text, record):
        refuse("to_text", "a name in this machine would be read as something else; use JSON")
    return text


def from_text(text: str) -> Machine:
    """The machine of a text in the format of `to_text`; raises InputError naming the line."""
    if not isinstance(text, str):
        refuse("from_text", f"got a {type(text).__name__}; expected text")
    lines = [line.strip() for line in text.replace(";", "\n").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    kind = lines[0] if lines else ""
    if kind not in KINDS:
        refuse("from_text", f"the first line is {kind!r}; expected one of {', '.join(KINDS)}")
    record: dict[str, Any] = {"kind": kind, "transitions": [], "accepting": [], "outputs": []}
    for line in lines[1:]:
        words = line.split()
        try:
            if "->" in words:
                record["transitions"].append(_READERS[kind](words))
            elif words[0] in ("alphabet", "symbols", "states"):
                record[words[0]] = words[1:]
            elif words[0] == "start":
                (record["start"],) = words[1:]
            elif words[0] in ("counters", "stacks"):
                record[words[0]] = int(words[1])
            elif words[0] == "accepting":
                record["accepting"] += [_accept(word, kind) for word in words[1:]]
            elif words[0] == "output":
                record["outputs"].append((words[1], words[2]))
            else:
                raise ValueError
        except (ValueError, IndexError):
            refuse(
                "from_text", f"the line {line!r} is not of a {kind} machine; see nextstate.machines.to_text"
            )
    if kind in ("counters", "pda"):
        count = record.get("counters", record.get("stacks", 1))
        always = ["*"] * min(count, LARGEST + 1)  # the machine refuses more
        record["accepting"] = [(q, always) if isinstance(q, str) else q for q in record["accepting"]]
    if "states" not in record:
        ends = [q for row in record["transitions"] for q in _ends(kind, row)]
        named = [
            record.get("start"),
            *ends,
            *(q if isinstance(q, str) else q[0] for q in record["accepting"]),
        ]
        record["states"] = list(dict.fromkeys(q for q in named if q is not None))
    missing = [f for f in ("alphabet", "symbols", "start") if f in _FIELDS[kind] and f not in record]
    if missing:
        refuse("from_text", f"a {kind} machine needs the lines: {', '.join(missing)}")
    return _machine(record)


def save(machine: Machine, path: str | Path) -> None:
    """Write a machine to a file: JSON if its name ends so, else text. Nothing half-written is left."""
    path = Path(path)
    text = to_json(machine) if path.suffix == ".json" else to_text(machine)
    with whole("save", path) as aside:
        aside.write_text(text, encoding="utf-8")


def load(path: str | Path) -> Machine:
    """Read a machine from a file: JSON if it begins with a brace, else text.

    Raises InputError if there is no such file or no machine in it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        refuse("load", f"{path} is no machine: {error}")
    return from_json(text) if text.lstrip().startswith("{") else from_text(text)


_FIELDS = {
    "dfa": ("alphabet", "states", "start", "accepting"),
    "moore": ("alphabet", "states", "start", "outputs"),
    "mealy": ("alphabet", "states", "start"),
    "counters": ("alphabet", "states", "start", "accepting", "counters"),
    "pda": ("alphabet", "symbols", "states", "start", "accepting", "stacks"),
    "turing": ("symbols", "states", "start", "accepting"),
}


def _record(machine: Machine) -> dict[str, Any]:
    kind = next((kind for kind, cls in KINDS.items() if type(machine) is cls), None)
    if kind is None:
        refuse("to_json", f"a {type(machine).__name__} is no machine")
    record: dict[str, Any] = {"kind": kind}
    for field in _FIELDS[kind]:
        value: Any = getattr(machine, field)
        if isinstance(value, Mapping):
            value = [
                (q, list(x) if isinstance(x, tuple | str) and kind != "moore" else x)
                for q, x in value.items()
            ]
        elif isinstance(value, frozenset):
            value = [q for q in machine.states if q in value]
        record[field] = list(value) if isinstance(value, tuple) else value
    strange = [q for q in machine.states if not isinstance(q, str | int)]
    if strange:
        refuse(
            "to_json", f"states must be text or whole numbers, got {strange[0]!r}; minimise() numbers them"
        )
    record["transitions"] = [_row(kind, key, value) for key, value in machine.transitions.items()]
    return record


def _row(kind: str, key: tuple[Any, ...], value: Any) -> list[Any]:
    if kind in ("dfa", "moore"):
        return [*key, value]
    if kind == "mealy" or kind == "turing":
        return [*key, *value]
    q, a, tests = key
    target, change, output = value
    nested = [list(part) for part in change] if kind == "pda" else list(change)
    return [q, a, list(tests), target, nested, output]


def _machine(record: Mapping[str, Any]) -> Machine:
    kind = record["kind"]
    if kind not in KINDS:
        refuse("from_json", f"the kind is {kind!r}; expected one of {', '.join(KINDS)}")
    fields: dict[str, Any] = {field: record[field] for field in _FIELDS[kind] if field in record}
    if kind in ("counters", "pda"):
        join: Callable[[Any], Any] = "".join if kind == "counters" else tuple
        fields["accepting"] = {q: join(tests) for q, tests in fields["accepting"]}
        change = (lambda c: tuple(c)) if kind == "counters" else (lambda c: tuple(tuple(p) for p in c))
        fields["transitions"] = {
            (q, a, join(tests)): (target, change(c), output)
            for q, a, tests, target, c, output in record["transitions"]
        }
    elif kind in ("dfa", "moore"):
        fields["transitions"] = {(q, a): target for q, a, target in record["transitions"]}
    else:
        fields["transitions"] = {(q, a): tuple(rest) for q, a, *rest in record["transitions"]}
    if kind == "moore":
        fields["outputs"] = dict(map(tuple, fields["outputs"]))
    machine: Machine = KINDS[kind](**fields)
    return machine


def _ends(kind: str, row: list[Any]) -> tuple[Any, Any]:
    return row[0], row[3 if kind in ("counters", "pda") else 2]


def _name(name: Any) -> str:
    text = str(name)
    if not text or any(sign in text for sign in " ;\n\t") or text in ("->", "/"):
        refuse("to_text", f"the name {name!r} cannot stand in text; use JSON")
    return text


def _comes_back(text: str, record: Any) -> bool:
    """Whether a text is read as the machine of a record, with all its names as text."""

    def spoken(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: spoken(value) for key, value in part.items()}
        if isinstance(part, list | tuple):
            return [spoken(value) for value in part]
        return None if part is None else str(part)

    try:
        return bool(spoken(_record(from_text(text))) == spoken(record))
    except ValueError:
        return False


def _accept(word: str, kind: str) -> Any:
    state, mark, tests = word.rpartition(":")
    if not mark or kind not in ("counters", "pda"):
        return word
    return state, [EMPTY if t == _NONE else t for t in tests]


def _read_plain(words: list[str]) -> list[Any]:
    q, a, arrow, target = words
    return _only(arrow, [q, a, target])


def _read_mealy(words: list[str]) -> list[Any]:
    q, a, arrow, target, output = words
    return _only(arrow, [q, a, target, output])


def _read_turing(words: list[str]) -> list[Any]:
    q, symbol, arrow, target, written, move = words
    return _only(arrow, [q, symbol, target, written, move])


def _read_counters(words: list[str]) -> list[Any]:
    words, output = _split_output(words)
    q, a, tests, arrow, target, *steps = words
    return _only(arrow, [q, a, list(tests), target, [int(step) for step in steps], output])


def _read_pda(words: list[str]) -> list[Any]:
    words, output = _split_output(words)
    at = words.index("->")
    q, a, *tops = words[:at]
    target, *pushes = words[at + 1 :]
    tops = [EMPTY if top == _NONE else top for top in tops]
    pushed = [[] if push == _NONE else push.split(",") for push in pushes]
    return [q, None if a == _FREE else a, tops, target, pushed, output]


def _split_output(words: list[str]) -> tuple[list[str], str | None]:
    if len(words) > 2 and words[-2] == "/":
        return words[:-2], words[-1]
    return words, None


def _only(arrow: str, row: list[Any]) -> list[Any]:
    if arrow != "->":
        raise ValueError
    return row


def _write_plain(row: list[Any]) -> str:
    q, a, *rest = map(_name, row)
    return " ".join([q, a, "->", *rest])


def _write_counters(row: list[Any]) -> str:
    q, a, tests, target, steps, output = row
    moved = [f"{step:+d}" for step in steps]
    return " ".join([_name(q), _name(a), "".join(tests), "->", _name(target), *moved, *_output(output)])


def _write_pda(row: list[Any]) -> str:
    q, a, tops, target, pushes, output = row
    heard = _FREE if a is None else _name(a)
    seen = [top or _NONE for top in tops]
    pushed = [",".join(map(_name, push)) or _NONE for push in pushes]
    return " ".join([_name(q), heard, *seen, "->", _name(target), *pushed, *_output(output)])


def _output(output: Any) -> list[str]:
    return [] if output is None else ["/", _name(output)]


_READERS: dict[str, Callable[[list[str]], list[Any]]] = {
    "dfa": _read_plain,
    "moore": _read_plain,
    "mealy": _read_mealy,
    "counters": _read_counters,
    "pda": _read_pda,
    "turing": _read_turing,
}
_WRITERS: dict[str, Callable[[list[Any]], str]] = {
    **dict.fromkeys(("dfa", "moore", "mealy", "turing"), _write_plain),
    "counters": _write_counters,
    "pda": _write_pda,
}
