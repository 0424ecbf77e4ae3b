"""Pictures of machines: states on a circle, arrows between them, as SVG or PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nextstate.checks import refuse
from nextstate.machines.automata import DFA, Mealy, Moore
from nextstate.machines.counters import CounterMachine
from nextstate.machines.formats import Machine
from nextstate.machines.pushdown import PDA
from nextstate.machines.turing import TuringMachine
from nextstate.writing import whole

Point = tuple[float, float]


def draw(machine: Machine, path: str | Path, *, title: str | None = None) -> None:
    """Draw a machine into a file; the ending of its name (.svg, .png, .pdf) chooses the format.

    Accepting states have a double ring, the start state an arrow from outside; parallel arrows share one
    label. Past about 40 states the picture is of the shape only.

    Raises InputError for another ending, or where no file can be written.

    >>> import tempfile
    >>> even = DFA.table("1", {0: [1], 1: [0]}, accepting=[0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw(even, Path(folder) / "even.svg")
    ...     print((Path(folder) / "even.svg").read_text()[:5])
    <?xml
    """
    from matplotlib.figure import Figure

    path = Path(path)
    places = _places(list(machine.states))
    size = 3.2 + 0.55 * math.sqrt(len(places)) * 1.6
    figure = Figure(figsize=(size, size))
    axes = figure.add_axes((0, 0, 1, 0.94 if title else 1))
    if title:
        figure.suptitle(_plain(title))
    arrows: dict[tuple[Any, Any], list[str]] = {}
    for key, value in machine.transitions.items():
        target, text = _label(machine, key, value)
        arrows.setdefault((key[0], target), []).append(text)
    radius = min(0.28, 1.9 / max(len(places), 1))
    for (source, target), texts in arrows.items():
        both = (target, source) in arrows and source != target
        _arrow(axes, places[source], places[target], ", ".join(texts), radius, both)
    for state, (x, y) in places.items():
        _ring(axes, x, y, radius, 1.4)
        if state in getattr(machine, "accepting", ()):
            _ring(axes, x, y, radius * 0.82, 1.0)
        text = f"{state}/{machine.outputs[state]}" if isinstance(machine, Moore) else str(state)
        size = max(5, min(11, 130 * radius / max(len(text), 1)))
        axes.text(x, y, _plain(text), ha="center", va="center", fontsize=size)
        if state == machine.start:
            # from outside, turned aside so that it does not run through an arrow from the state to itself
            angle = math.atan2(y, x if (x, y) != (0, 0) else -1) + 0.7
            dx, dy = math.cos(angle), math.sin(angle)
            tip, tail = (x + radius * dx, y + radius * dy), (x + 2.2 * radius * dx, y + 2.2 * radius * dy)
            axes.annotate("", tip, tail, arrowprops={"arrowstyle": "-|>", "lw": 1.4})
    axes.set_xlim(-1.75, 1.75)
    axes.set_ylim(-1.75, 1.75)
    axes.set_aspect("equal")
    axes.axis("off")
    _write(figure, path)


def _places(states: list[Any]) -> dict[Any, Point]:
    n = len(states)
    if n == 1:
        return {states[0]: (0.0, 0.0)}
    turn = 2 * math.pi / n
    return {q: (-math.cos(i * turn), math.sin(i * turn)) for i, q in enumerate(states)}


def _plain(text: str) -> str:
    """A text shown as it is: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def _label(machine: Machine, key: tuple[Any, ...], value: Any) -> tuple[Any, str]:
    if isinstance(machine, DFA | Moore):
        return value, str(key[1])
    if isinstance(machine, Mealy):
        return value[0], f"{key[1]}/{value[1]}"
    if isinstance(machine, TuringMachine):
        return value[0], f"{key[1]}→{value[1]}{value[2]}"
    heard = "ε" if key[1] is None else str(key[1])
    if isinstance(machine, CounterMachine):
        return value[0], f"{heard} {key[2]} {' '.join(f'{step:+d}' for step in value[1])}"
    assert isinstance(machine, PDA)
    tops = " ".join(top or "∅" for top in key[2])
    return value[0], f"{heard} {tops}→{' '.join(''.join(push) or 'ε' for push in value[1])}"


def _ring(axes: Any, x: float, y: float, radius: float, width: float) -> None:
    from matplotlib.patches import Circle

    axes.add_patch(Circle((x, y), radius, facecolor="white", edgecolor="black", lw=width, zorder=3))


def _arrow(axes: Any, start: Point, end: Point, text: str, radius: float, both: bool) -> None:
    if start == end:
        x, y = start
        out = math.hypot(x, y)
        dx, dy = (x / out, y / out) if out else (0.0, 1.0)
        left = (x + radius * (0.8 * dx - 0.6 * dy), y + radius * (0.8 * dy + 0.6 * dx))
        right = (x + radius * (0.8 * dx + 0.6 * dy), y + radius * (0.8 * dy - 0.6 * dx))
        style = {
            "arrowstyle": "-|>",
            "connectionstyle": "arc3,rad=-1.6",
            "lw": 1.0,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        axes.annotate("", right, left, arrowprops=style)
        axes.text(
            x + 2.4 * radius * dx, y + 2.4 * radius * dy, _plain(text), ha="center", va="center", fontsize=8
        )
        return
    length = math.dist(start, end)
    ux, uy = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    inward = math.copysign(0.15, uy * (start[0] + end[0]) - ux * (start[1] + end[1]))
    bend = 0.22 if both else inward  # single arrows pass inside of the states they would cross
    a = (start[0] + radius * ux, start[1] + radius * uy)
    b = (end[0] - radius * ux, end[1] - radius * uy)
    style = {
        "arrowstyle": "-|>",
        "connectionstyle": f"arc3,rad={-bend}",
        "lw": 1.0,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axes.annotate("", b, a, arrowprops=style)
    # the label stands beside the curve, nearer to its source: middles meet in the centre of the picture
    t, off = 0.38, 2 * 0.38 * 0.62 * bend * length + math.copysign(0.09, bend)
    middle = (a[0] + t * (b[0] - a[0]) - uy * off, a[1] + t * (b[1] - a[1]) + ux * off)
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    axes.text(*middle, _plain(text), ha="center", va="center", fontsize=8, zorder=5, bbox=paper)


def draw_lessons(lessons: Sequence[Any], path: str | Path) -> None:
    """Draw the loss and the share of right answers of a training of the circle.

    >>> import tempfile
    >>> from nextstate.machines.circle import Lesson
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_lessons([Lesson(50, 0.5, 0.7, 1.0), Lesson(100, 0.1, 1.0, 2.0)], Path(folder) / "l.svg")
    """
    from matplotlib.figure import Figure

    path = Path(path)
    figure = Figure(figsize=(5.5, 3.5), layout="constrained")
    axes = figure.add_subplot(title="2. training the GRU", xlabel="step", ylabel="loss")
    steps = [lesson.step for lesson in lessons]
    axes.semilogy(steps, [lesson.loss for lesson in lessons], "C0")
    right = axes.twinx()
    right.plot(steps, [100 * lesson.right for lesson in lessons], "C1")
    right.set_ylabel("% of held-out prefixes right")
    _write(figure, path)


def _write(figure: Any, path: Path) -> None:
    ending = path.suffix.removeprefix(".")
    if ending not in ("svg", "png", "pdf"):
        refuse("draw", f"{path.name} does not end in .svg, .png or .pdf")
    with whole("draw", path) as aside:
        figure.savefig(aside, dpi=120, format=ending)
