"""What the machines share: frozen tables, words, the stuck configuration, faults reported all at once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from nextstate.checks import refuse

Letter = Hashable
State = Hashable
Word = Sequence[Any]
"""A string (one letter a character) or any sequence of letters."""


class Stuck:
    """The configuration of a machine that had no move; it stays in it and accepts nothing."""

    def __repr__(self) -> str:
        return "STUCK"


STUCK = Stuck()


class Table(Mapping[Any, Any]):
    """A mapping that cannot be changed and can be hashed.

    >>> table = Table({("even", "1"): "odd"})
    >>> table["even", "1"], table == {("even", "1"): "odd"}
    ('odd', True)
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = ()) -> None:
        self._items = dict(items)

    def __getitem__(self, key: Any) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


def report(machine: str, faults: list[str]) -> None:
    """Refuse a machine with every fault found in it, or accept it in silence."""
    if faults:
        refuse(machine, f"{len(faults)} fault{'s' * (len(faults) > 1)}: " + "; ".join(faults))


def names(machine: str, what: str, given: Any) -> tuple[Any, ...]:
    """A list of names as a tuple; refused if it is none, or if one of them cannot be hashed."""
    try:
        listed = tuple(given)
        hash(listed)
    except TypeError:
        refuse(machine, f"{what} is {given!r}; expected a sequence of names, such as text or whole numbers")
    return listed


LARGEST = 1000
"""Counters or stacks of a machine at most; a number past it is a slip."""


def table(machine: str, what: str, given: Any) -> Table:
    """A mapping as a `Table`; refused if it is none, or if something in it cannot be hashed."""
    if not isinstance(given, Mapping):
        refuse(machine, f"{what} is {given!r}; expected a mapping")
    kept = Table(given)
    try:
        hash(kept)
    except TypeError as error:
        refuse(machine, f"{what} holds what can be no name or output ({error}): {given!r}")
    return kept


def repeated(what: str, names: Sequence[Any]) -> list[str]:
    doubles = {name for name in names if list(names).count(name) > 1}
    return [f"{what} {name!r} is listed twice" for name in sorted(doubles, key=repr)]


def unknown(what: str, names: Iterable[Any], known: Iterable[Any], where: str) -> list[str]:
    allowed = set(known)
    missing = dict.fromkeys(name for name in names if name not in allowed)
    return [f"{what} {name!r} in {where} is not among the {what}s" for name in missing]


def check_word(machine: str, word: Word, alphabet: Iterable[Any]) -> None:
    known = dict.fromkeys(alphabet)
    strange = dict.fromkeys(letter for letter in names(machine, "the word", word) if letter not in known)
    if strange:
        refuse(machine, f"the word {word!r} holds {list(strange)}, outside the alphabet {list(known)}")
