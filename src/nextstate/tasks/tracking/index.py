"""The index of a topic a day: its mean score, how sure that is, and whether it changed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date
from statistics import NormalDist
from typing import Any, NamedTuple

CONFIDENCE = 0.95
"""Of the intervals."""

FALSE_ALARMS = 0.05
"""At most the chance that a report of which no day changed marks any day."""

LEAST_FREEDOM = 5
"""Degrees of freedom below which a topic has no intervals."""

ROUNDING = 1e-6
"""What sums of equal scores may differ by, so that rounding is never taken for a change."""


class Day(NamedTuple):
    """The scores of one topic on one day: how many, their sum, the sum of their squares."""

    topic: str
    day: date
    posts: int
    total: float
    squares: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One day of a topic: mean score of its posts, interval (None: too little is known), change.

    `change` is by how much the mean differs from that of all posts since the last change (or the start),
    where that is too much to be chance, else None.
    """

    day: date
    posts: int
    mean: float
    low: float | None
    high: float | None
    change: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """Entries a topic, in order of time."""

    topics: dict[str, list[Entry]]

    def to_json(self) -> dict[str, Any]:
        """As plain values: {"topics": {topic: [{"day": "2011-10-18", "posts": ..., ...}]}, ...}."""
        return {
            "confidence": CONFIDENCE,
            "false_alarms": FALSE_ALARMS,
            "topics": {
                topic: [asdict(entry) | {"day": entry.day.isoformat()} for entry in entries]
                for topic, entries in self.topics.items()
            },
        }


def report_of(days: Iterable[Day]) -> Report:
    """The index of every topic and day.

    report_of : [Day] -> Report

        m_d     = mean score of day d,  n_d posts
        s^2     = sum over days of sum (score - m_d)^2 / nu,   nu = posts - days        of the topic
        m_d  +- t(nu, 0.975) s / sqrt(n_d),   cut at -1 and 1
        changed:  |m_d - m| > t(nu, 1 - 0.05 / 2k) s sqrt(1 / n_d + 1 / n)

    One variance within days for a topic, as in an analysis of variance, so that a day of one post has an
    interval too. m and n are the mean and number of the posts of all days since the last one that changed;
    k counts the days of all topics that are compared, so that over the whole report a false mark comes at
    most once in twenty reports (Bonferroni), posts being independent. Topics with nu < 5 have no intervals
    and no marks. Order of `days` does not matter; days of one topic and date are added up.

    >>> from datetime import timedelta
    >>> days = [Day("tea", date(2024, 1, 1) + timedelta(n), 50, 40 if n < 6 else -20, 45) for n in range(9)]
    >>> [(entry.day.day, round(entry.change, 2)) for entry in report_of(days).topics["tea"] if entry.change]
    [(7, -1.2)]
    """
    topics: dict[str, dict[date, Day]] = {}
    for day in days:
        if day.posts > 0:
            found = topics.setdefault(day.topic, {})
            old = found.get(day.day, Day(day.topic, day.day, 0, 0.0, 0.0))
            found[day.day] = Day(
                day.topic, day.day, old.posts + day.posts, old.total + day.total, old.squares + day.squares
            )
    ordered = {topic: sorted(topics[topic].values(), key=lambda day: day.day) for topic in sorted(topics)}
    compared = sum(len(found) - 1 for found in ordered.values())
    return Report({topic: _entries(found, compared) for topic, found in ordered.items()})


def _entries(days: list[Day], compared: int) -> list[Entry]:
    freedom = sum(day.posts for day in days) - len(days)
    within = sum(max(0.0, day.squares - day.total**2 / day.posts) for day in days)
    known = freedom >= LEAST_FREEDOM
    deviation = math.sqrt(within / freedom) + ROUNDING if known else math.inf
    half = quantile(0.5 + CONFIDENCE / 2, freedom) * deviation if known else math.inf
    limit = quantile(1 - FALSE_ALARMS / 2 / max(1, compared), freedom) * deviation if known else math.inf
    entries: list[Entry] = []
    total, posts = 0.0, 0
    for day in days:
        mean, change = day.total / day.posts, None
        low = max(-1.0, mean - half / math.sqrt(day.posts)) if known else None
        high = min(1.0, mean + half / math.sqrt(day.posts)) if known else None
        if posts and abs(mean - total / posts) > limit * math.sqrt(1 / day.posts + 1 / posts):
            change = mean - total / posts
            total, posts = 0.0, 0
        total, posts = total + day.total, posts + day.posts
        entries.append(Entry(day.day, day.posts, mean, low, high, change))
    return entries


def quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t for 5 degrees of freedom or more, from that of the normal distribution.

    The expansion of Abramowitz and Stegun 1964, 26.7.5: within 1 % of the exact value at 0.975.

    >>> round(quantile(0.975, 10), 2), round(quantile(0.975, 1e9), 2)
    (2.23, 1.96)
    """
    z = NormalDist().inv_cdf(probability)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / freedom + g2 / freedom**2 + g3 / freedom**3 + g4 / freedom**4
