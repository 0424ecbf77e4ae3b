"""Tracked posts count once whatever happens; the index marks what changed and little else."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta

import pytest

from nextstate import InputError
from nextstate.cli.buzz_report import _print
from nextstate.cli.buzz_track import _posts
from nextstate.tasks.buzz.tables import Row
from nextstate.tasks.tracking import Day, Post, Store, moment, read_report, report_of
from nextstate.tasks.tracking.draw import PANELS, draw_report, largest
from nextstate.tasks.tracking.index import FALSE_ALARMS, quantile
from nextstate.tasks.tracking.store import Scored
from web.tiny import save_tiny

pytest.importorskip("duckdb", reason="the extra `track` is not installed")
START = date(2024, 1, 1)


def days_of(scores, topic="tea"):
    """Days from lists of scores."""
    return [
        Day(topic, START + timedelta(n), len(found), sum(found), sum(score * score for score in found))
        for n, found in enumerate(scores)
    ]


def drawn(generator, mean, count):
    return [max(-1.0, min(1.0, generator.gauss(mean, 0.5))) for _ in range(count)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tue Oct 18 21:53:25 +0000 2011", "2011-10-18T21:53:25+00:00"),
        ("2011-10-18", "2011-10-18T00:00:00+00:00"),
        ("2015-02-24 11:35:52 -0800", "2015-02-24T19:35:52+00:00"),
        ("2011-10-18T23:53:25+02:00", "2011-10-18T21:53:25+00:00"),
        ("Tue, 18 Oct 2011 21:53:25 GMT", "2011-10-18T21:53:25+00:00"),
        ("10/18/2011", "2011-10-18T00:00:00+00:00"),
        ("18.10.2011", "2011-10-18T00:00:00+00:00"),
        ("1318974805", "2011-10-18T21:53:25+00:00"),
        (1318974805000, "2011-10-18T21:53:25+00:00"),
        (datetime(2011, 10, 18), "2011-10-18T00:00:00+00:00"),
    ],
)
def test_times_as_posts_state_them(text, expected):
    assert moment(text).isoformat() == expected


@pytest.mark.parametrize("text", ["", None, "yesterday", "2011", "99/99/2011", "1e400", "٣", "0" * 400])
def test_what_states_no_time(text):
    assert moment(text) is None


def test_quantiles_against_scipy():
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    for freedom in (5, 8, 20, 1000):
        assert quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.01)
    for freedom in (30, 1000):
        assert quantile(1 - 1e-5, freedom) == pytest.approx(stats.t.ppf(1 - 1e-5, freedom), rel=0.01)


def test_intervals_hold_the_truth_as_often_as_they_say():
    generator, held, total = random.Random(0), 0, 0
    for _ in range(150):
        report = report_of(days_of([[generator.gauss(0.1, 0.2) for _ in range(n)] for n in (1, 3, 30, 8)]))
        for entry in report.topics["tea"]:
            held, total = held + (entry.low <= 0.1 <= entry.high), total + 1
    assert 0.92 < held / total < 0.98


def test_false_marks_are_rare_and_a_shift_is_found_on_its_day():
    generator, alarms, found = random.Random(1), 0, 0
    for _ in range(200):
        quiet = [drawn(generator, 0.2, generator.randint(1, 40)) for _ in range(20)]
        alarms += any(entry.change is not None for entry in report_of(days_of(quiet)).topics["tea"])
        moved = [drawn(generator, 0.3 if n < 12 else -0.3, 30) for n in range(20)]
        marks = [n for n, e in enumerate(report_of(days_of(moved)).topics["tea"]) if e.change is not None]
        found += marks == [12]
    assert alarms / 200 <= FALSE_ALARMS + 0.03
    assert found / 200 > 0.9


def test_the_index_by_hand():
    report = report_of(days_of([[0.5, 0.7, 0.6, 0.8], [0.1, 0.3]]) + days_of([[1.0]], "alone"))
    first, second = report.topics["tea"]
    assert first.mean == pytest.approx(0.65)
    assert second.mean == pytest.approx(0.2)
    assert first.low is None, "four degrees of freedom are too few"
    assert report.topics["alone"][0].low is None
    entries = report_of(days_of([[0.5, 0.7, 0.6, 0.8], [0.1, 0.3, 0.2]])).topics["tea"]
    deviation = ((4 * 0.0125 + 3 * 0.02 / 3) / 5) ** 0.5
    assert entries[0].high - entries[0].mean == pytest.approx(2.5706 * deviation / 2, rel=0.01)
    assert entries[1].high - entries[1].mean == pytest.approx(2.5706 * deviation / 3**0.5, rel=0.01)
    assert entries[1].change == pytest.approx(-0.45)


def test_equal_scores_are_no_change_and_order_is_of_no_account():
    days = days_of([[0.1] * 7, [0.1] * 3, [0.1] * 11])
    assert [entry.change for entry in report_of(days).topics["tea"]] == [None] * 3
    halves = [day for n, day in enumerate(days_of([[0.1] * 4, [0.1] * 2, [0.1] * 6])) if n != 3]
    rest = days_of([[0.1] * 3, [0.1], [0.1] * 5])
    joined = report_of([*reversed(halves), *rest])
    assert [entry.posts for entry in joined.topics["tea"]] == [7, 3, 11]
    assert report_of([]).topics == {}


def posts(count):
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    return [Post("tea", begin + timedelta(hours=n), f"good {n}") for n in range(count)]


def test_a_post_counts_once(tmp_path):
    answer = Scored("positive", 0.5, 0.9)
    with Store(tmp_path / "x.duckdb", "model") as store:
        assert store.missing(posts(5) + posts(5)) == posts(5)
        assert store.add(posts(5), [answer] * 5) == 5
        assert store.add(posts(7), [Scored("negative", -1.0, 0.9)] * 7) == 2
        assert store.missing(posts(8)) == posts(8)[7:]
    with Store(tmp_path / "x.duckdb", "model") as store:
        assert store.count() == 7
        assert store.add([], []) == 0
    [entry] = read_report(tmp_path / "x.duckdb").topics["tea"]
    assert (entry.posts, entry.mean) == (7, pytest.approx((5 * 0.5 - 2) / 7))
    assert Post("a", moment("2024-01-01"), "bc").id != Post("ab", moment("2024-01-01"), "c").id


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="no file"):
        read_report(tmp_path / "x.duckdb")
    (tmp_path / "bad").write_bytes(b"nonsense" * 1000)
    with pytest.raises(InputError, match="cannot open"):
        read_report(tmp_path / "bad")
    Store(tmp_path / "x.duckdb", "one").__exit__()
    with pytest.raises(InputError, match="another model"):
        Store(tmp_path / "x.duckdb", "two")
    (tmp_path / "posts.csv").write_text("text,created\ngood,2024-01-01\n")
    with pytest.raises(InputError, match=r"buzz track: cannot open .* no file of tracked posts"):
        Store(tmp_path / "posts.csv", "one")  # DuckDB would read it as a table and keep the posts nowhere
    assert (tmp_path / "posts.csv").read_text() == "text,created\ngood,2024-01-01\n"
    with pytest.raises(InputError, match="buzz report: cannot open"):
        read_report(tmp_path / "posts.csv")
    with pytest.raises(InputError, match=r"posts\.csv is a file; name a folder"):
        Store(tmp_path / "posts.csv" / "x" / "kept.duckdb", "one")
    with pytest.raises(InputError, match="no posts on 'coffee'"):
        read_report(tmp_path / "x.duckdb", ["coffee"])


def test_a_file_is_meant_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Store(":memory:", "model") as store:
        store.add(posts(3), [Scored("positive", 0.5, 0.9)] * 3)
    assert sum(entry.posts for entry in read_report(tmp_path / ":memory:").topics["tea"]) == 3


def test_topics_are_shown_as_they_are_written(tmp_path, capsys):
    names = ["[bold]tea[/x]", "$TEA ^^ $MILK^^"]  # rich and matplotlib would take them for something else
    report = report_of([day for name in names for day in days_of([[0.1, 0.2, 0.4, 0.9]] * 3, name)])
    _print(report)
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)
    draw_report(report, tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_of_many_topics_those_with_most_posts_are_drawn():
    days = [Day(f"t{n:03}", START, n + 1, 0.0, 0.0) for n in range(60)]
    assert list(largest(report_of(days))) == [f"t{n:03}" for n in range(60 - PANELS, 60)]
    assert list(largest(report_of(days[:3]))) == ["t000", "t001", "t002"]


def test_posts_without_a_topic_are_named_as_on_the_page():
    given = [{"brand": "tea"}, {"brand": ""}, {"brand": None}, {}, {"brand": 0}]
    rows = [Row(n, fields | {"created": "2024-01-01"}, "good", "") for n, fields in enumerate(given)]
    found = _posts(rows, "created", "brand", {"unread": 0})
    assert [post.topic for post in found] == ["tea", "no topic", "no topic", "no topic", "0"]
    assert [post.topic for post in _posts(rows[:1], "created", None, {"unread": 0})] == ["all"]


def nextstate(*arguments, start=subprocess.run, **options):
    command = [sys.executable, "-m", "nextstate", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return start(command, stdout=pipe, stderr=pipe, text=True, env=environment, **options)


def test_tracking_killed_half_way_loses_nothing_and_repeats_nothing(tmp_path):
    model = save_tiny(tmp_path)
    rows = [
        (f"{'good' if n % 3 else 'awful'} table {n}", f"2024-01-{1 + n % 9:02}T10:00:00", "tea")
        for n in range(6_000)
    ]
    with (tmp_path / "posts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "created", "brand"), *rows, rows[0], ("good", "no time", "tea")])
    options = ("--db", tmp_path / "kept.duckdb", "--file", tmp_path / "posts.csv", "--time", "created")
    options += ("--topic", "brand", "--model", model, "--json")
    killed = nextstate("buzz", "track", *options, start=subprocess.Popen)
    wal = tmp_path / "kept.duckdb.wal"
    while killed.poll() is None and not (wal.exists() and wal.stat().st_size > 100_000):
        time.sleep(0.01)
    assert killed.poll() is None, "the run ended before it could be killed"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    done = nextstate("buzz", "track", *options, timeout=100)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["total"] == 6_000
    assert counts["known"] > 500
    assert counts["added"] + counts["known"] == 6_001
    assert counts["unread"] == 1
    assert "'no time'" in done.stderr
    drawn = tmp_path / "report.png"
    shown = nextstate("buzz", "report", "--db", tmp_path / "kept.duckdb", "--json", "--out", drawn)
    assert shown.returncode == 0, shown.stderr
    entries = json.loads(shown.stdout)["topics"]["tea"]
    assert sum(entry["posts"] for entry in entries) == 6_000
    assert [entry["day"] for entry in entries] == [f"2024-01-{n:02}" for n in range(1, 10)]
    assert drawn.read_bytes().startswith(b"\x89PNG")
    refused = nextstate("buzz", "report", "--db", tmp_path / "kept.duckdb", "--out", drawn / "x.png")
    assert refused.returncode == 2
    assert "report.png is a file; name a folder" in refused.stderr
    bad = nextstate("buzz", "track", *options[:5], "when", "--model", model)
    assert bad.returncode == 2
    assert "no column 'when'" in bad.stderr
