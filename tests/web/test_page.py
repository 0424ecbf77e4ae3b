"""The page in a real browser: type and see the gauge, drop a file and see the chart, errors in words."""

import csv
import io
import json
import random
import time

import pytest

from nextstate.tasks.tracking import Day, Post, Store, moment, read_report, report_of
from nextstate.tasks.tracking.store import Scored
from nextstate.web.limits import Limits
from nextstate.web.models import Models
from web.browser import absent, chromium, serving
from web.page import Page

if absent():
    pytest.skip(absent(), allow_module_level=True)

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

ROWS = 900


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def driver(folder):
    with chromium(folder) as driver:
        yield driver


@pytest.fixture(scope="module")
def tracked(folder):
    path = folder / "kept.duckdb"
    pytest.importorskip("duckdb", reason="the extra `track` is not installed")
    draw = random.Random(0)
    posts = [Post("tea", moment(f"2024-01-{1 + n % 9:02}"), f"post {n}") for n in range(360)]
    scores = [(0.6 if n % 9 < 5 else -0.4) + draw.uniform(-0.3, 0.3) for n in range(360)]
    with Store(path, "model") as store:
        store.add(posts, [Scored("positive", score, 0.9) for score in scores])
    return path


@pytest.fixture(scope="module")
def address(buzz, tracked):
    with serving(Models(buzz=buzz, tracked=tracked)) as address:
        yield address


@pytest.fixture
def page(driver, address):
    return Page(driver, address)


def test_the_gauge_moves_and_the_words_are_coloured(page, buzz):
    text = "🙂 the lovely table"
    page.driver.execute_script("document.getElementById('text').value = arguments[0]; typed()", text)
    page.wait(lambda: page.all("#words b"))
    [expected] = buzz.score([text])
    assert page.score() == pytest.approx(expected.score, abs=0.006)
    assert page["verdict"].text == "positive"
    assert "rotate(" in page.all(".needle")[0].get_attribute("style")
    coloured = {word.text: word.get_attribute("class") for word in page.all("#words b")}
    assert coloured["lovely"] == "up"
    assert page["words"].text == text
    assert "lovely +" in page["strongest"].text
    page.wait(lambda: page["told"].get_attribute("textContent").startswith("positive, +"))
    page.type("awful table")
    page.wait(lambda: page.score() < -0.3)
    page.wait(lambda: page.all("#words .down"))
    assert page["verdict"].text == "negative"
    page["text"].send_keys(Keys.CONTROL, "a")
    page["text"].send_keys(Keys.BACKSPACE)
    page.wait(lambda: page["verdict"].text == "no text yet")
    assert page.score() == 0
    assert not page.all("#words b")


def test_an_example_needs_no_typing(page):
    page.all("#examples button")[0].click()
    page.wait(lambda: page["verdict"].text in ("negative", "neutral", "positive"))


def posts_file(path):
    """Posts whose feeling turns on 6 January; two rows are broken, texts hold marks and line ends."""
    draw = random.Random(1)
    rows = []
    for n in range(ROWS):
        day = 1 + n % 9
        word = "good" if draw.random() < (0.8 if day < 6 else 0.2) else "awful"
        rows.append(
            [f'the {word}, "table"\nis {n}', f"2024-01-{day:02} 10:00", "tea" if n % 3 else "coffee", "x"]
        )
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["comment", "created", "brand", "label"])
        writer.writerows(rows)
        file.write("too,few\nfar,too,many,of,them\n")
    return rows


def check_download(page, folder, rows, buzz):
    """The file that is downloaded has every row in its place, with the model's own answer."""
    written = folder / "posts-scored.csv"
    written.unlink(missing_ok=True)
    page["download"].click()
    page.wait(lambda: written.exists() and not list(folder.glob("*.crdownload")))
    found = list(csv.reader(io.StringIO(written.read_text(), newline="")))
    assert found[0] == ["comment", "created", "brand", "input_label", "label", "score", "probability"]
    assert [record[:4] for record in found[1:-2]] == rows
    assert [record[4:] for record in found[-2:]] == [["", "", ""]] * 2
    assert [record[0] for record in found[-2:]] == ["too", "far"]
    for record, answer in zip(found[1:-2], buzz.score([row[0] for row in rows]), strict=True):
        assert record[4] == answer.label
        assert float(record[5]) == pytest.approx(answer.score, abs=2e-5)
        assert float(record[6]) == pytest.approx(answer.probability, abs=2e-5)


def test_a_file_dropped_is_scored_drawn_and_downloaded(page, folder, buzz):
    rows = posts_file(folder / "posts.csv")
    page.driver.execute_script(
        """const moved = new DataTransfer();
        moved.items.add(new File([arguments[0]], "posts.csv"));
        document.dispatchEvent(new DragEvent("drop", {dataTransfer: moved, cancelable: true}));""",
        (folder / "posts.csv").read_text(encoding="utf-8"),
    )
    told = page.outcome()
    assert told.startswith(f"{ROWS + 2} rows scored: ")
    assert "2 rows could not be read" in told
    answers = buzz.score([row[0] for row in rows])
    mean = sum(answer.score for answer in answers) / ROWS
    assert f"Mean score {'+' if mean > 0 else '−'}{abs(mean):.2f}" in told
    bars = page.all("#distribution rect title")
    counts = [int(bar.get_attribute("textContent").split(": ")[1].split()[0]) for bar in bars]
    assert sum(counts) == ROWS
    best = [float(row.text.split()[0]) for row in page.all("#best li")]
    assert best == sorted(best, reverse=True)
    assert best[0] == pytest.approx(max(answer.score for answer in answers), abs=0.006)
    assert len(page.all("#worst li")) == 5
    days = [
        Day(row[2], moment(row[1]).date(), 1, a.score, a.score**2)
        for row, a in zip(rows, answers, strict=True)
    ]
    check_topics(page, "#buzz", report_of(days))
    check_download(page, folder, rows, buzz)


def check_topics(page, place, report):
    """What is drawn and listed under `place` is the report: topics, days, means, intervals, marks."""
    figures = page.all(f"{place} .topic")
    assert {figure.find_element(By.TAG_NAME, "h3").text for figure in figures} == set(report.topics)
    for figure in figures:
        entries = report.topics[figure.find_element(By.TAG_NAME, "h3").text]
        cells = [
            [
                cell.get_attribute("textContent").replace("−", "-")
                for cell in row.find_elements(By.TAG_NAME, "td")
            ]
            for row in figure.find_elements(By.CSS_SELECTOR, "tbody tr")
        ]
        expected = [
            [
                str(e.day),
                str(e.posts),
                f"{e.mean:+.2f}",
                f"{e.low:+.2f} to {e.high:+.2f}",
                "" if e.change is None else f"{e.change:+.2f}",
            ]
            for e in entries
        ]
        assert cells == expected
        assert len(figure.find_elements(By.CSS_SELECTOR, ".dot")) == len(entries)
        marked = [entry for entry in entries if entry.change is not None]
        assert marked, "the posts were made to turn"
        assert len(figure.find_elements(By.CSS_SELECTOR, ".mark")) == len(marked)


def test_the_comparison_rejects_another_models_scores(driver, address, folder, buzz):
    class Turned:
        def score(self, texts):
            turned = [text.replace("good", "x").replace("awful", "good") for text in texts]
            return buzz.score(turned)

        def explain(self, text):
            return buzz.explain(text)

    rows = posts_file(folder / "posts.csv")
    with serving(Models(buzz=Turned())) as other:
        page = Page(driver, other)
        page.choose(folder / "posts.csv")
        with pytest.raises(AssertionError):
            check_download(page, folder, rows, buzz)
        with pytest.raises(AssertionError):
            check_topics(page, "#buzz", report_of([]))


def test_another_column_is_chosen_and_the_work_begun_again(page, folder):
    path = folder / "two.tsv"
    path.write_text("text\tcomment\n" + "good\tawful\n" * 30)
    assert "100 % positive" in page.choose(path)
    assert page["text-column"].get_attribute("value") == "0"
    page.driver.execute_script(
        "const select = document.getElementById('text-column'); select.value = 1; select.onchange()"
    )
    page.wait(lambda: "100 % negative" in page["summary"].text)
    assert not page.all("#buzz .topic")


def test_rows_that_state_no_time_are_counted(page, folder):
    path = folder / "times.csv"
    path.write_text("text,date\n" + "good,2024-01-01 9:00\n" * 8 + "good,soon\n" * 2)
    assert "2 rows state no time" in page.choose(path)
    page.wait(lambda: page.all("#buzz .topic"))
    assert "8 posts on 1 day" in page["buzz"].text


def test_the_same_is_shown_of_tracked_posts(page, tracked):
    page.wait(lambda: page.all("#tracked .topic"))
    check_topics(page, "#tracked", read_report(tracked))
    assert page["tracked-told"].text == "360 posts on 1 topics."


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"text": "good"}\n', "is no CSV"),
        ("a.csv", b"", "is empty"),
        ("b.csv", b"text,text\na,b\n", "two columns of one name"),
        ("c.csv", b"PAR1\0\0", "is no CSV"),
        ("d.csv.gz", b"nonsense", "cannot be read"),
        (
            "e.csv",
            b"text,date,brand\n" + b"".join(b"good,2024-01-01,%d\n" % n for n in range(300)),
            "more than 200 different values",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_words(page, folder, name, content, says):
    (folder / name).write_bytes(content)
    assert says in page.choose(folder / name)
    assert not page["results"].is_displayed()
    assert page["file-error"].get_attribute("role") == "alert"


def test_refusals_and_a_service_that_is_gone_are_said_in_words(driver, buzz, folder):
    with serving(Models(buzz=buzz), Limits(text=40)) as address:
        page = Page(driver, address)
        page.type("good " * 20)
        page.wait(lambda: "100 characters; at most 40" in page["type-error"].text)
        (folder / "long.txt").write_text("good\n" + "bad " * 30 + "\n")
        assert "1 rows could not be read" in page.choose(folder / "long.txt")
    page.type("good")
    page.wait(lambda: "does not answer" in page["type-error"].text)
    with serving(Models()) as address:
        page = Page(driver, address)
        page.wait(lambda: "no model of sentiment" in page["trouble"].text)
        assert not page["text"].is_enabled()


def test_csv_is_read_as_python_reads_it(page):
    draw, texts = random.Random(2), []
    for _ in range(200):
        stream = io.StringIO()
        rows = [
            ["".join(draw.choices('ab,"\n\r é', k=draw.randint(0, 5))) for _ in range(3)]
            for _ in range(draw.randint(1, 4))
        ]
        csv.writer(stream, lineterminator=draw.choice(["\n", "\r\n"])).writerows(rows)
        texts.append(stream.getvalue())
    script = """const found = [];
        for (const text of arguments_[0]) {
          const rows = [], parts = text.match(/[^]{1,3}/g);
          for await (const row of records(parts, ",")) rows.push(row);
          found.push(rows);
        }
        return found;"""
    found = page.run(script.replace("arguments_[0]", json.dumps(texts)))
    read = [[row for row in csv.reader(io.StringIO(text, newline="")) if row] for text in texts]
    assert found == read  # but for blank lines, which are no rows on the page


def test_narrow_dark_keyboard_and_names(page):
    emulate = page.driver.execute_cdp_cmd
    width = {"width": 340, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        emulate("Emulation.setEmulatedMedia", {"features": features})
        emulate("Emulation.setDeviceMetricsOverride", width)
        time.sleep(0.2)
        assert page.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        for variable, least in (("ink", 7), ("soft", 4.5), ("good", 4.5), ("bad", 4.5), ("link", 4.5)):
            ratio = contrast(page, f"--{variable}", "--card")
            assert ratio >= least, f"{variable} on a card in {scheme}: {ratio:.1f}"
    emulate("Emulation.clearDeviceMetricsOverride", {})
    emulate("Emulation.setEmulatedMedia", {"features": []})
    reached = []
    for _ in range(12):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        reached.append(page.driver.switch_to.active_element.get_attribute("id"))
    assert {"text", "file"} <= set(reached)
    nodes = emulate("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"textbox", "button", "link", "combobox", "meter", "image", "progressbar"}
    named = [
        (node["role"]["value"], node.get("name", {}).get("value"))
        for node in nodes
        if node.get("role", {}).get("value") in roles and not node["ignored"]
    ]
    assert len(named) >= 6
    assert all(name for _, name in named), named


def contrast(page, ink, paper):
    """The WCAG 2 ratio of two colours of the page."""

    def luminance(variable):
        script = """const probe = document.createElement("i");
            probe.style.color = `var(${arguments[0]})`;
            document.body.append(probe);
            const found = getComputedStyle(probe).color.match(/[0-9.]+/g).map(Number);
            probe.remove();
            return found;"""
        parts = [part / 255 for part in page.driver.execute_script(script, variable)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_reference_shows_every_endpoint_and_nothing_comes_from_elsewhere(page, address):
    page.wait(lambda: page["tracked-told"].text)
    for path in ("", "docs"):
        page.driver.get(address + path)
        if path:
            page.wait(lambda: len(page.all("#endpoints section")) >= 8)
            shown = {title.text.split()[-1] for title in page.all("#endpoints h2")}
            assert {
                "/score",
                "/explain",
                "/generate",
                "/sort",
                "/days",
                "/index",
                "/track",
                "/health",
            } == shown
        names = page.driver.execute_script(
            "return performance.getEntriesByType('resource').map(entry => entry.name)"
        )
        assert all(name.startswith(address) for name in names)
        assert page.driver.get_log("browser") == []
