"""Every row of every format comes out again, in order, with its answer or with the reason why it has none."""

import csv
import gzip
import json
import os
import sys
import threading
from itertools import islice

import pytest

from nextstate import InputError
from nextstate.tasks.buzz.scored import ADDED, output_names, with_answer, writing
from nextstate.tasks.buzz.tables import Row, arriving, count_rows, format_of, read_table


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


def test_json_lines_whose_first_object_lacks_the_text(tmp_path):
    path = tmp_path / "a.jsonl"

    def read(*given, **options):
        table = read_table(path, *given, **options)
        return table.names, table.column, [(row.number, row.text) for row in table.rows]

    path.write_text('{"id": 1}\n{"id": 2, "said": "b"}\n{"said": "c", "more": 3}\n')
    assert read("said") == (["id", "said"], "said", [(1, None), (2, "b"), (3, "c")]), (
        "no more ahead than needed"
    )
    assert read("said", also=["more"])[0] == ["id", "said", "more"]
    assert read("id")[0] == ["id"]
    with pytest.raises(InputError, match="no column 'other'; its columns are 'id', 'said', 'more'"):
        read("other")
    path.write_text('{"id": 1}\n{"id": 2, "Text": "b"}\n')
    assert read()[1] == "Text", "the only column of the first object holds no text"
    path.write_text('{"said": "a"}\n{"text": "b"}\n')
    assert read() == (["said"], "said", [(1, "a"), (2, None)])
    path.write_text("{}\n[]\n")
    with pytest.raises(InputError, match="no JSON object with a field"):
        read()


def test_lines_and_tabs(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("one\r\n\ntwo\u0085still two".encode())
    assert [row.text for row in rows_of(path)] == ["one", "", "two\u0085still two"]
    path = tmp_path / "a.tsv"
    path.write_text("label\treview\nx\ta b\n")
    assert rows_of(path)[0].text == "a b"


def test_parquet_columns_of_one_name_are_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    import pyarrow.parquet as parquet

    table = pyarrow.table([["x"], ["y"]], names=["text", "text"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="two columns have one name"):
        read_table(tmp_path / "a.parquet")


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
    with pytest.raises(InputError, match=r"a.parquet.gz: Parquet is compressed within; expected a.parquet"):
        format_of("a.parquet.gz")
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


def written(table, out, answer=("x", 0.5, 0.9)):
    """The rows of a table in a file; the fields that are left out."""
    names = output_names(table.names)
    with writing(out, table, format_of(out)) as writer:
        writer.write([with_answer(row.fields, names, answer) for row in table.rows])
    return writer.left_out


def test_numbers_of_the_input_are_not_rounded(tmp_path):
    path, out = tmp_path / "a.jsonl", tmp_path / "b.csv"
    path.write_text('{"text": "a", "id": 16777217.25, "in": [0.123456789]}\n')
    written(read_table(path), out, ("x", 0.123456789, 0.5))
    assert out.read_text().splitlines()[1] == "a,16777217.25,[0.123456789],x,0.123457,0.5"


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_fields_that_the_first_row_does_not_name_are_counted_or_kept(tmp_path, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    path, out = tmp_path / "a.jsonl", tmp_path / f"b.{ending}"
    path.write_text(
        '{"text": "a", "input_label": 1}\n{"text": "b", "label": 2, "input_label": 3, "new": 4}\n'
    )
    assert written(read_table(path), out) == (0 if ending == "jsonl" else 2)
    second = rows_of(out, "text")[1].fields
    assert (second["label"], str(second["input_label"])) == ("x", "3")
    if ending == "jsonl":
        assert (second["input_input_label"], second["new"]) == (2, 4)


def test_a_name_that_appears_late_is_called_the_same_in_all_rows():
    names = output_names(["text"])
    rows = [{"label": 1}, {"input_label": 2, "label": 3}, {"input_label": 4}]
    assert [{k: v for k, v in with_answer(row, names, "abc").items() if k not in ADDED} for row in rows] == [
        {"input_label": 1},
        {"input_input_label": 2, "input_label": 3},
        {"input_input_label": 4},
    ]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_output_named_gz_is_packed(tmp_path, ending):
    path, out = tmp_path / "a.txt", tmp_path / f"b.{ending}.gz"
    path.write_text("good\nbad é\n")
    written(read_table(path), out)
    assert out.read_bytes()[:4] == b"\x1f\x8b\x08\x00", "packed, and no name of a file within"
    assert [row.text for row in rows_of(out, "text")] == ["good", "bad é"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.txt", out.name]


@pytest.mark.parametrize("damage", ["cut", "other bytes"])
def test_a_packed_file_that_is_damaged_is_refused_after_its_whole_rows(tmp_path, damage):
    path = tmp_path / "a.csv.gz"
    lines = "".join(f"{(n * 7919) ** 3}\n" for n in range(20_000))
    packed = bytearray(gzip.compress(f"text\n{lines}".encode()))
    if damage == "cut":
        del packed[-len(packed) // 2 :]
    else:
        packed[len(packed) // 2 :] = b"\xff" * (len(packed) - len(packed) // 2)
    path.write_bytes(packed)
    rows = read_table(path).rows
    whole = [row.text for row in islice(rows, 1000)]
    assert whole == lines.split()[:1000]
    with pytest.raises(InputError, match=r"cannot read .*a.csv.gz beyond row \d+: .*; expected a whole file"):
        list(rows)


def test_a_parquet_file_that_is_damaged_is_refused_in_one_line(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"text": [f"text {n}" for n in range(5000)]}), path)
    content = bytearray(path.read_bytes())
    content[4:2000] = b"\xff" * 1996
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a.parquet beyond row 0: .*expected a whole file") as refused:
        rows_of(path)
    assert "\n" not in str(refused.value)


def test_standard_input_that_is_waited_for_can_be_closed(monkeypatch):
    """As the interpreter does at its end, where it aborts if a thread holds what it closes."""
    end, begin = os.pipe()
    with open(end, encoding="utf-8", closefd=False) as stdin, open(begin, "wb", buffering=0) as source:
        monkeypatch.setattr(sys, "stdin", stdin)
        groups = arriving(read_table("-").rows, 8)
        source.write(b"good\n")
        assert [row.text for row in next(groups)] == ["good"]  # the next row is waited for from here on
        closing = threading.Thread(target=stdin.close, daemon=True)
        closing.start()
        closing.join(2)
        closed = not closing.is_alive()
        source.write(b"bad\n")
        source.close()
        assert closed
        assert [row.text for group in groups for row in group] == ["bad"]
        closing.join()
    os.close(end)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_half_a_character_is_kept_or_replaced(tmp_path, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    path, out = tmp_path / "a.jsonl", tmp_path / f"b.{ending}"
    path.write_text('{"text": "so good \\ud83d", "\\ude00": ["\\ud83d"]}\n{"text": "é"}\n')
    written(read_table(path), out)
    first, second = rows_of(out, "text")
    kept = ending == "jsonl"
    half, other = (chr(code if kept else 0xFFFD) for code in (0xD83D, 0xDE00))
    assert first.text == f"so good {half}"
    assert first.fields[other] == ([half] if kept else f'["{half}"]')
    assert second.text == "é"


def test_a_quotation_mark_that_is_never_closed_is_a_problem_of_its_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"a\nb"\n2,"so\n3,bad\n4,good')
    whole, open_row = rows_of(path)
    assert (whole.text, whole.problem) == ("a\nb", "")
    assert (open_row.number, open_row.text) == (2, None)
    assert open_row.problem == "a quotation mark opened in this row is never closed"
    assert open_row.fields == {"id": "2", "text": "so\n3,bad\n4,good"}
    path.write_text('id,"text\n1,bad\n')
    with pytest.raises(InputError, match="first line, the names of the columns, is never closed"):
        read_table(path)


def test_what_a_pipe_holds_is_not_used_up_to_count_its_rows(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text\na\n")
    assert count_rows(path) == 2
    end, begin = os.pipe()
    os.write(begin, b"text\nb\n")
    os.close(begin)
    assert count_rows(f"/dev/fd/{end}", "csv") is None
    with open(end, "rb") as left:
        assert left.read() == b"text\nb\n"
