"""Tables and plots of benchmark rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Row = dict[str, Any]


def _case(row: Row) -> tuple[str, ...]:
    shape = ", ".join(map(str, row.get("shape", ())))
    return row.get("cell", ""), shape, str(row.get("threads", "")), row.get("mode", "")


def _figure(row: Row) -> str:
    if "refused" in row:
        return "refused: " + row["refused"].replace("|", "/")
    if "ms" in row:
        faster = next((f" ({v:.2f}x)" for k, v in row.items() if k.startswith("times faster")), "")
        return f"{row['ms']:.3f} ms{faster}"
    if "MiB" in row:
        return f"{row['MiB']:.0f} MiB"
    return f"{row['worst']:.1e}" if "worst" in row else f"{row['gflops']:.0f} GF/s"


def markdown(about: Row, rows: list[Row]) -> str:
    """One table a benchmark: cases down, contenders across."""
    lines = ["# Benchmarks", "", *(f"- {k}: {v}" for k, v in about.items())]
    for name in dict.fromkeys(row["benchmark"] for row in rows):
        own = [row for row in rows if row["benchmark"] == name]
        across = list(dict.fromkeys(row["contender"] for row in own))
        lines += ["", f"## {name}", "", "| cell | B, T, I, H | threads | mode | " + " | ".join(across) + " |"]
        lines.append("|---" * (4 + len(across)) + "|")
        for case in dict.fromkeys(map(_case, own)):
            found = {row["contender"]: _figure(row) for row in own if _case(row) == case}
            lines.append("| " + " | ".join((*case, *(found.get(who, "") for who in across))) + " |")
    return "\n".join(lines) + "\n"


def plots(rows: list[Row], folder: Path) -> None:
    """Bars for every benchmark that timed or weighed something."""
    for name in dict.fromkeys(row["benchmark"] for row in rows):
        for key, label in (
            ("ms", "milliseconds, lower is better"),
            ("MiB", "MiB, lower is better"),
            ("worst", "largest relative error"),
        ):
            own = [row for row in rows if row["benchmark"] == name and key in row]
            if own:
                _bars(own, key, label, name, folder / f"{name}.png")


def _bars(rows: list[Row], key: str, label: str, title: str, path: Path) -> None:
    cases = list(dict.fromkeys(map(_case, rows)))
    across = list(dict.fromkeys(row["contender"] for row in rows))
    height = 0.8 / len(across)
    figure, axes = plt.subplots(figsize=(9, 1 + 0.22 * len(cases) * (1 + len(across))))
    for place, who in enumerate(across):
        found = {_case(row): row[key] for row in rows if row["contender"] == who}
        at = [k + place * height for k, case in enumerate(cases) if case in found]
        axes.barh(at, [found[case] for case in cases if case in found], height, label=who)
    axes.set_yticks(
        [k + 0.4 - height / 2 for k in range(len(cases))], [" · ".join(filter(None, case)) for case in cases]
    )
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_title(title.replace("_", " "))
    axes.legend(fontsize=8)
    figure.tight_layout()
    fresh = path.with_suffix(".new.png")
    figure.savefig(fresh, dpi=120)
    fresh.replace(path)
    plt.close(figure)
