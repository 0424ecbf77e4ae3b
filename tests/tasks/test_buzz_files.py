"""Many files scored, here and on Ray's workers: every row once, in order, with the model's own answer."""

import csv
import gzip
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from nextstate import InputError
from nextstate.buzzometer import Buzzometer
from nextstate.recipes.buzz_files import pairs_of, score_file, score_here, score_on_ray
from web.tiny import save_tiny

WORDS = ["good", "lovely", "awful", "bad", "table", "walk", "the", "is"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


def write_files(folder, files, rows):
    """CSV files of texts; the second row of each has too few fields."""
    draw = random.Random(0)
    folder.mkdir()
    for number in range(files):
        with (folder / f"part-{number}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "text"])
            for row in range(rows):
                text = " ".join(draw.choices(WORDS, k=draw.randint(1, 30)))
                writer.writerow([f"{number}-{row}"] if row == 1 else [f"{number}-{row}", text])


def read(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def check(model, folder, out):
    """Every file of `folder` stands in `out` with all its rows, scored as by the model in this process."""
    buzz = Buzzometer.load(model)
    sources = sorted(folder.glob("*.csv"))
    assert [path.name for path in sorted(out.iterdir())] == [path.name for path in sources]
    for source in sources:
        given = read(source)[1:]
        found = read(out / source.name)
        assert found.pop(0) == ["id", "text", "label", "score", "probability"]
        assert [row[0] for row in found] == [row[0] for row in given]
        assert found[1][1:] == ["", "", "", ""]
        del given[1], found[1]
        for row, answer in zip(found, buzz.score([row[1] for row in given]), strict=True):
            assert row[2] == answer.label
            assert float(row[3]) == pytest.approx(answer.score, abs=2e-6)


def test_many_files_here(model, tmp_path):
    write_files(tmp_path / "in", 3, 50)
    (tmp_path / "out").mkdir()
    pairs = pairs_of(str(tmp_path / "in" / "*.csv"), tmp_path / "out")
    done = list(score_here(pairs, model))
    assert [(one.rows, one.unread, one.problem) for one in done] == [(50, 1, "")] * 3
    check(model, tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("damage", ["lost row", "repeated row", "other score", "lost file", "left over"])
def test_the_comparison_rejects(model, tmp_path, damage):
    write_files(tmp_path / "in", 2, 20)
    (tmp_path / "out").mkdir()
    list(score_here(pairs_of(str(tmp_path / "in" / "*.csv"), tmp_path / "out"), model))
    path = tmp_path / "out" / "part-1.csv"
    lines = path.read_text().splitlines(keepends=True)
    if damage == "lost row":
        del lines[5]
    elif damage == "repeated row":
        lines.insert(5, lines[5])
    elif damage == "other score":
        lines[5] = ",".join([*lines[5].split(",")[:3], "0.123", "0.5\n"])
    elif damage == "left over":
        (tmp_path / "out" / ".writing-1-x").touch()
    path.write_text("".join(lines))
    if damage == "lost file":
        path.unlink()
    with pytest.raises((AssertionError, ValueError)):
        check(model, tmp_path / "in", tmp_path / "out")


def test_what_cannot_be_scored(model, tmp_path):
    with pytest.raises(InputError, match="no file is called"):
        pairs_of(str(tmp_path / "*.csv"), tmp_path / "out")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.csv").write_text("text\ngood\n")
    with pytest.raises(InputError, match=r"a/x.csv and .*b/x.csv would both be written to .*out/x.csv"):
        pairs_of(str(tmp_path / "*" / "x.csv"), tmp_path / "out")
    (tmp_path / "b" / "x.csv.gz").write_bytes(gzip.compress(b"text\nbad\n"))
    with pytest.raises(
        InputError, match=r"b/x.csv and .*b/x.csv.gz would both .*score them into two folders"
    ):
        pairs_of(str(tmp_path / "b" / "*"), tmp_path / "out")
    (tmp_path / "a" / "y.csv").write_text("what,else\n1,2\n")
    done = list(score_here(pairs_of(str(tmp_path / "a" / "*.csv"), tmp_path / "out"), model))
    assert done[0].rows == 1
    assert "which column holds the text" in done[1].problem
    with pytest.raises(InputError, match="no column 'b'"):
        score_file(Buzzometer.load(model), tmp_path / "a" / "x.csv", tmp_path / "out" / "x.csv", "b")
    assert not (tmp_path / "out" / "y.csv").exists()


def test_a_damaged_file_stops_no_other(model, tmp_path):
    packed = gzip.compress("".join(f"{n * n}\n" for n in range(9000)).encode())
    (tmp_path / "a.txt.gz").write_bytes(packed[:-100])
    (tmp_path / "b.txt").write_text("good\n")
    damaged, good = score_here(pairs_of(str(tmp_path / "*"), tmp_path / "out"), model)
    assert "a.txt.gz beyond row " in damaged.problem
    assert (good.rows, good.problem) == (1, "")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.txt"]


def test_many_files_of_a_given_format(model, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "part-0").write_text("text,n\ngood,1\n")
    (tmp_path / "in" / "part-1.dat").write_text('{"text": "a"}\n{"text": "b", "n": 1}\n')
    for name, format in (("part-0", "csv"), ("part-1.dat", "jsonl")):
        pairs = pairs_of(str(tmp_path / "in" / name), tmp_path / "out", format)
        [done] = score_here(pairs, model, format=format)
        assert done.problem == ""
    assert read(tmp_path / "out" / "part-0")[1][:3] == ["good", "1", "positive"]
    assert json.loads((tmp_path / "out" / "part-1.dat").read_text().splitlines()[1])["n"] == 1


class RayInThisProcess(ModuleType):
    """As much of Ray as is needed to see what is handed to it; workers are here."""

    def __init__(self):
        super().__init__("ray")
        self.started = 0
        context = SimpleNamespace(get_current=SimpleNamespace)
        self.data = SimpleNamespace(DataContext=context, from_items=self.from_items)
        self.put = self.get = lambda value: value

    def is_initialized(self):
        return False

    def init(self, **options):
        self.started += 1

    def shutdown(self):
        self.started -= 1

    def cluster_resources(self):
        return {"CPU": 2.0}

    def from_items(self, items, override_num_blocks):
        def map_batches(worker, fn_constructor_args, **options):
            made = worker(*fn_constructor_args)

            def rows():
                for item in items:
                    batch = {name: SimpleNamespace(tolist=lambda v=v: [v]) for name, v in item.items()}
                    yield {name: values[0] for name, values in made(batch).items()}

            return SimpleNamespace(iter_rows=rows)

        return SimpleNamespace(map_batches=map_batches)


@pytest.fixture
def ray(monkeypatch):
    ray = RayInThisProcess()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ray.data)
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    monkeypatch.setattr("nextstate.engines.threads.set_threads", lambda count: None)
    return ray


def test_workers_leave_nothing_behind(ray, model, tmp_path):
    write_files(tmp_path / "in", 2, 20)
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "in" / "x.csv").write_text("what,else\n1,2\n")
    scored = score_on_ray(pairs_of(str(tmp_path / "in" / "*.csv"), out), model)
    done = [next(scored)]
    [aside] = [path for path in out.iterdir() if path.is_dir()]
    (aside / ".writing-1-part-1.csv").touch()  # of a worker that was killed
    done += scored
    assert [(one.rows, one.unread) for one in done] == [(20, 1), (20, 1), (0, 0)]
    assert "which column holds the text" in done[2].problem
    (tmp_path / "in" / "x.csv").unlink()
    check(model, tmp_path / "in", out)
    assert ray.started == 0


def test_a_wrong_model_is_refused_before_ray_starts(ray, tmp_path):
    (tmp_path / "a.csv").write_text("text\ngood\n")
    ray.init = None
    with pytest.raises(InputError, match="cannot read a model"):
        next(score_on_ray(pairs_of(str(tmp_path / "a.csv"), tmp_path), tmp_path / "missing"))


def workers_of(pid):
    """Ids of Ray's scoring workers among the processes that descend from one."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                parents[int(folder.name)] = int(fields[1])
                names[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue

    def descends(one):
        while one in parents and one != pid:
            one = parents[one]
        return one == pid

    return [
        one for one, name in names.items() if name.startswith("ray::") and "Worker" in name and descends(one)
    ]


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed (pip install 'nextstate[ray]')"
)
def test_a_worker_killed_on_the_way_loses_no_row(model, tmp_path):
    write_files(tmp_path / "in", 8, 1500)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "nextstate", "buzz", "--file", str(tmp_path / "in" / "*.csv")]
    command += ["--engine", "ray", "--workers", "2", "--out", str(out), "--model", str(model), "--json"]
    # its workers are nice to everything else, and on a busy machine would never have their turn
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    pipe = subprocess.PIPE
    running = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
    end, killed = time.monotonic() + 400, 0
    while running.poll() is None:
        if time.monotonic() > end:
            running.terminate()
        whole = len(list(out.glob("part-*.csv"))) if out.exists() else 0
        if not killed and whole >= 1 and (workers := workers_of(running.pid)):
            os.kill(workers[0], signal.SIGKILL)
            killed = workers[0]
            assert whole < 8, "all was done before a worker could be killed"
        time.sleep(0.02)
    told, complaint = running.communicate(timeout=60)
    assert running.returncode == 0, complaint[-3000:]
    assert killed
    assert all(line.startswith("{") for line in told.splitlines()), told
    assert sorted(Path(json.loads(line)["source"]).name for line in told.splitlines()) == [
        f"part-{number}.csv" for number in range(8)
    ]
    check(model, tmp_path / "in", out)
