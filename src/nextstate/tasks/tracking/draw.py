"""The index over time as a picture: one panel a topic."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from nextstate.tasks.tracking.index import CONFIDENCE, Entry, Report
from nextstate.writing import whole

PANELS = 24
"""Topics that are drawn at most."""


def draw_report(report: Report, path: Path) -> None:
    """Write a PNG: the mean score a day with its interval, days that changed marked.

    Of more than `PANELS` topics those with most posts are drawn, which the title says.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    topics = largest(report)
    figure = Figure(figsize=(9, 1 + 2.2 * max(1, len(topics))), layout="constrained")
    panels = figure.subplots(max(1, len(topics)), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (topic, entries) in zip(panels, topics.items(), strict=False):
        days, means = [entry.day for entry in entries], [entry.mean for entry in entries]
        panel.axhline(0, color="0.8", linewidth=1)
        for part in _without_gaps(entries):
            known = [entry for entry in part if entry.low is not None]
            shown = [entry.day for entry in known]
            bounds = [[entry.low for entry in known], [entry.high for entry in known]]
            panel.fill_between(shown, *bounds, alpha=0.2, color="tab:blue", linewidth=0)
            panel.plot([e.day for e in part], [e.mean for e in part], color="tab:blue")
        panel.scatter(days, means, s=12, color="tab:blue")
        for entry in entries:
            if entry.change is not None:
                colour = "tab:green" if entry.change > 0 else "tab:red"
                panel.axvline(entry.day, color=colour, linestyle=":")
                panel.annotate(f"{entry.change:+.2f}", (entry.day, 0.88), color=colour, ha="left")
        panel.set(ylim=(-1, 1), ylabel="mean score")
        panel.set_title(f"{topic} ({_posts(entries)} posts)", parse_math=False)  # $AAPL is no formula
    locator = AutoDateLocator()
    panels[-1].xaxis.set_major_locator(locator)
    panels[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))
    title = f"Sentiment a day, {100 * CONFIDENCE:g} % intervals; dotted: days that changed"
    if len(topics) < len(report.topics):
        title += f"\nthe {len(topics)} of {len(report.topics)} topics with most posts"
    figure.suptitle(title)
    with whole("draw", path) as aside:
        figure.savefig(aside, format="png", dpi=120)


def largest(report: Report) -> dict[str, list[Entry]]:
    """The topics that are drawn, in the order of the report."""
    kept = sorted(report.topics, key=lambda topic: -_posts(report.topics[topic]))[:PANELS]
    return {topic: entries for topic, entries in report.topics.items() if topic in kept}


def _posts(entries: list[Entry]) -> int:
    return sum(entry.posts for entry in entries)


def _without_gaps(entries: list[Entry]) -> list[list[Entry]]:
    """Runs of days that follow each other within a week: a line is not drawn over longer gaps."""
    runs: list[list[Entry]] = []
    for entry in entries:
        if runs and entry.day - runs[-1][-1].day <= timedelta(7):
            runs[-1].append(entry)
        else:
            runs.append([entry])
    return runs
