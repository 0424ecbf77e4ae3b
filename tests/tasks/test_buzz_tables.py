"""Every row of every format comes out again, in order, with its answer or with the reason why it has none."""

import csv
import gzip
import json
import threading

import pytest

from nextstate import InputError
from nextstate.tasks.buzz.scored import ADDED, output_names, with_answer, writing
from nextstate.tasks.buzz.tables import Row, arriving, format_of, read_table


def rows_of(path, column=None, **kw):
    return list(read_table(path, column, **kw).rows)


def test_csv_with_quotes_line_breaks_and_a_mark_of_byte_order(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffid,text\n1,"a ""b"",\nc"\n2,é\n'.encode())
    assert [(row.number, row.text, row.problem) for row in rows_of(path)] == [
        (1, 'a "b",\nc', ""),
        (2, "é", ""),
    ]
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [row.text for row in rows_of(packed)] == ['a "b",\nc', "é"]


def test_bad_rows_are_kept_with_their_reason(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,text\n1,good\n2\n3,a,b\n4,\xff\n")
    few, many, odd = rows_of(path, "text")[1:]
    assert (few.text, few.fields) == (None, {"id": "2", "text": ""})
    assert "1 fields" in few.problem
    assert (many.text, many.fields) == (None, {"id": "3", "text": "a,b"})
    assert odd.text == "\ufffd"
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "a"}\nnonsense\n{"text": 3}\n{}\n[1]\n')
    found = rows_of(lines)
    assert [row.text for row in found] == ["a", None, None, None, None]
    assert all(row.problem for row in found[1:])


def test_lines_and_tabs(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("one\r\n\ntwo\u0085still two".encode())
    assert [row.text for row in rows_of(path)] == ["one", "", "two\u0085still two"]
    path = tmp_path / "a.tsv"
    path.write_text("label\treview\nx\ta b\n")
    assert rows_of(path)[0].text == "a b"


def test_parquet_keeps_its_types(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path, out = tmp_path / "a.parquet", tmp_path / "b.parquet"
    table = arrow.table({"n": [1, 2, 3], "text": ["a", None, "c"], "at": [[1], [], [2]]})
    parquet.write_table(table, path)
    read = read_table(path)
    rows = list(read.rows)
    assert [row.text for row in rows] == ["a", None, "c"]
    assert rows[1].problem
    with writing(out, read, "parquet") as writer:
        writer.write([with_answer(row.fields, output_names(read.names), ("x", 0.5, 0.9)) for row in rows])
    back = parquet.read_table(out)
    assert back.select(["n", "text", "at"]).equals(table)
    assert back.column_names == ["n", "text", "at", *ADDED]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_what_is_written_can_be_read(tmp_path, ending):
    path, out = tmp_path / "a.csv", tmp_path / f"b.{ending}"
    path.write_text('text,label\n"a,\tb\n""c""",1\nd,2\n')
    table = read_table(path)
    names = output_names(table.names)
    with writing(out, table, ending) as writer:
        writer.write([with_answer(row.fields, names, ("good", 0.25, 1.0)) for row in table.rows])
        assert not out.exists(), "a file appears when it is whole"
    back = rows_of(out, "text")
    assert [row.text for row in back] == ['a,\tb\n"c"', "d"]
    assert [str(row.fields["input_label"]) for row in back] == ["1", "2"]
    assert {str(row.fields["label"]) for row in back} == {"good"}
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_failure_leaves_no_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text\na\n")
    table = read_table(path)
    assert len(list(table.rows)) == 1
    with pytest.raises(KeyError), writing(tmp_path / "b.csv", table, "csv"):
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(
    ("name", "content", "column", "complaint"),
    [
        ("a.csv", "x,y\n1,2\n", None, "which column"),
        ("a.csv", "x,text\n1,2\n", "nope", "no column 'nope'; its columns are 'x', 'text'"),
        ("a.csv", "", None, "is empty"),
        ("a.csv", "a,a\n", None, "one name"),
        ("a.jsonl", "3\n", None, "no JSON object"),
        ("a.doc", "x", None, "ending"),
    ],
)
def test_tables_that_cannot_be_right_are_refused(tmp_path, name, content, column, complaint):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=complaint):
        read_table(tmp_path / name, column)
    with pytest.raises(InputError, match=r"cannot read|ending"):
        read_table(tmp_path / f"missing-{name}", column)


def test_formats_by_name():
    assert [format_of(name) for name in ("a.CSV", "b.ndjson.gz", "c.pq")] == ["csv", "jsonl", "parquet"]
    with pytest.raises(InputError, match="no format"):
        format_of("a.csv", "xml")


def test_rows_of_a_stream_are_answered_before_the_next_arrives():
    may_go_on = threading.Event()

    def stream():
        yield Row(1, {}, "a")
        assert may_go_on.wait(10)
        yield Row(2, {}, "b")
        raise RuntimeError("broken")

    groups = arriving(stream(), 8)
    assert [row.number for row in next(groups)] == [1]
    may_go_on.set()
    with pytest.raises(RuntimeError, match="broken"):
        assert [row.number for group in groups for row in group] == [2]


def test_names_that_collide():
    assert output_names(["label", "input_label"]) == {
        "label": "input_input_label",
        "input_label": "input_label",
    }


def test_csv_cells_that_are_not_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a", "n": None, "deep": {"k": [1]}}) + "\n")
    table = read_table(path)
    with writing(tmp_path / "b.csv", table, "csv") as writer:
        writer.write(
            [with_answer(row.fields, output_names(table.names), ("x", None, 0.5)) for row in table.rows]
        )
    [names, values] = csv.reader((tmp_path / "b.csv").read_text().splitlines())
    assert dict(zip(names, values, strict=True)) == {
        "text": "a", "n": "", "deep": '{"k": [1]}', "label": "x", "score": "", "probability": "0.5",
    }  # fmt: skip
