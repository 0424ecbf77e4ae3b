"""What a client of the service sees: answers equal to those in process, refusals in words, nothing stuck."""

import asyncio
import json

import httpx
import pytest

from nextstate.recipes.sorter import load_sorter
from nextstate.web.app import create_app
from nextstate.web.batching import Batcher
from nextstate.web.limits import Limits
from nextstate.web.models import Models
from web.tiny import Watched


def client(models, **limits):
    transport = httpx.ASGITransport(create_app(models, Limits(**limits)), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://service", timeout=30)


def ask(models, path, sent, **limits):
    async def asked():
        async with client(models, **limits) as service:
            return await service.post(path, json=sent)

    return asyncio.run(asked())


def test_scores_are_those_of_the_model(buzz):
    texts = ["good", "the table is awful", "", "🙂 lovely", "bad " * 900, "x\ny\0z"]
    answer = ask(Models(buzz=buzz), "/score", {"texts": texts})
    assert answer.status_code == 200
    expected = buzz.score(texts)
    for got, wanted in zip(answer.json()["results"], expected, strict=True):
        assert got["label"] == wanted.label
        assert got["score"] == pytest.approx(wanted.score, abs=1e-6)
        assert got["probability"] == pytest.approx(wanted.probability, abs=1e-6)
        assert got["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-6)
    [alone] = ask(Models(buzz=buzz), "/score", {"text": "good"}).json()["results"]
    first, second = answer.json()["results"][:2]
    assert alone["label"] == first["label"]
    # the read-out is torch's, which rounds by the size of its batch
    assert alone["probabilities"] == pytest.approx(first["probabilities"], abs=1e-6)
    assert alone["probabilities"] != pytest.approx(second["probabilities"], abs=1e-3)
    assert ask(Models(buzz=buzz), "/score", {"texts": []}).json() == {"results": []}


def test_an_explanation_is_that_of_the_model(buzz):
    text = "🙂 the lovely table"
    answer = ask(Models(buzz=buzz), "/explain", {"text": text}).json()
    expected = buzz.explain(text)
    assert answer["score"] == pytest.approx(expected.score, abs=1e-6)
    assert [text[w["start"] : w["end"]] for w in answer["words"]] == [w.word for w in expected.words]
    strongest = max(answer["words"], key=lambda word: word["contribution"])
    assert strongest["word"] == "lovely"
    total = answer["without"] + sum(word["contribution"] for word in answer["words"])
    assert total == pytest.approx(answer["score"], abs=0.01)


def test_requests_that_arrive_together_are_one_batch(buzz):
    watched = Watched(buzz)
    words = ["good", "bad", "table", "walk"]

    async def together():
        async with client(Models(buzz=watched)) as service:
            answers = await asyncio.gather(
                *(service.post("/score", json={"text": words[n % 4]}) for n in range(40))
            )
            return [answer.json()["results"][0]["label"] for answer in answers]

    labels = asyncio.run(together())
    assert labels == [answer.label for answer in buzz.score([words[n % 4] for n in range(40)])]
    assert len(watched.batches) < 10
    assert sum(watched.batches) == 40


def test_long_work_does_not_block_short_work(buzz):
    watched = Watched(buzz)

    async def one_after_another():
        async with client(Models(buzz=watched)) as service:
            long = asyncio.create_task(service.post("/score", json={"text": "wait" + " good" * 500}))
            await asyncio.sleep(0.05)
            short = await service.post("/score", json={"text": "good"})
            waited = not long.done()
            watched.go.set()
            return short.status_code, waited, (await long).status_code

    assert asyncio.run(one_after_another()) == (200, True, 200)


def test_callers_take_turns():
    order = []

    async def two():
        batcher = Batcher(lambda batch: order.extend(batch) or batch, items=2)
        many = asyncio.create_task(batcher([f"a{n}" for n in range(6)]))
        few = asyncio.create_task(batcher(["b"]))
        done = [await few, await many]
        await batcher.close()
        return done

    assert asyncio.run(two()) == [["b"], [f"a{n}" for n in range(6)]]
    assert order.index("b") == 1


def test_a_bad_item_is_its_own_trouble(buzz):
    async def two():
        async with client(Models(buzz=Watched(buzz))) as service:
            return await asyncio.gather(
                *(service.post("/score", json={"text": text}) for text in ("good", "fail", "bad"))
            )

    good, failed, bad = asyncio.run(two())
    assert (good.status_code, failed.status_code, bad.status_code) == (200, 500, 200)
    assert "log" in failed.json()["error"]


def test_text_is_written_as_the_model_writes_it(text_model):
    body = {"prime": "To be", "length": 50, "seed": 3, "temperature": 1.0}
    answer = ask(Models(text=text_model), "/generate", body)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    written = b"".join(text_model.generate("To be", length=50, seed=3))
    assert answer.text == written.decode(errors="replace")
    assert answer.text != ask(Models(text=text_model), "/generate", body | {"seed": 4}).text


def test_lists_are_sorted_as_the_network_sorts_them():
    sorter = load_sorter()
    lists = [[3, 1, 2], [5], [9, 9, 1, 30]]
    assert ask(Models(sorter=sorter), "/sort", {"lists": lists}).json() == {"lists": sorter.sort(lists)}
    assert ask(Models(sorter=sorter), "/sort", {"numbers": [2, 1]}).json() == {"lists": [[1, 2]]}
    refused = ask(Models(sorter=sorter), "/sort", {"numbers": [77]})
    assert refused.status_code == 422
    assert "77" in refused.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/score", {}, 422, "either"),
        ("/score", {"text": "a", "texts": ["a"]}, 422, "either"),
        ("/score", {"text": 3}, 422, "text: Input should be a valid string"),
        ("/score", {"texts": ["a", None]}, 422, "texts.1"),
        ("/score", {"text": "a", "colour": "red"}, 422, "colour"),
        ("/score", {"texts": ["a"] * 11}, 413, "at most 10"),
        ("/score", {"text": "a" * 301}, 413, "301 characters"),
        ("/score", {"text": "a" * 4000}, 413, "bytes"),
        ("/explain", {"text": "a" * 201}, 413, "at most 200"),
        ("/generate", {"length": 10**9}, 413, "tokens"),
        ("/generate", {"length": -1}, 422, "length"),
        ("/generate", {"temperature": -1}, 422, "temperature"),
        ("/sort", {"numbers": [1] * 200}, 413, "numbers"),
        ("/sort", {"numbers": [1.5]}, 422, "numbers.0"),
        ("/nowhere", {}, 404, "Not Found"),
    ],
)
def test_refusals_say_what_would_be_right(buzz, text_model, path, body, status, says):
    models = Models(buzz=buzz, text=text_model, sorter=load_sorter())
    limits = {"texts": 10, "text": 300, "body": 4000, "explained": 200, "numbers": 100}
    answer = ask(models, path, body, **limits)
    assert answer.status_code == status
    assert says in answer.json()["error"]


def test_what_is_no_json_is_refused(buzz):
    async def asked():
        answers = []
        async with client(Models(buzz=buzz)) as service:
            for content in (b"", b"{", b"\xff\xfe", b'{"text": "\\ud800"}', b"[" * 100_000, b"null", b'"x"'):
                headers = {"content-type": "application/json"}
                answers.append(await service.post("/score", content=content, headers=headers))
            answers.append(await service.post("/score", content=b'{"text": "a"}'))
            answers.append(await service.get("/score"))
        return answers

    *bodies, untyped, got = asyncio.run(asked())
    assert {answer.status_code for answer in bodies} <= {400, 422}
    assert untyped.status_code == 422
    assert got.status_code == 405
    assert all(answer.json()["error"] for answer in (*bodies, untyped, got))


def test_the_days_of_times(buzz):
    times = ["Tue Oct 18 23:53:25 -0200 2011", "2024-02-30", "", "1318974805", "2011-10-18 21:53"]
    answer = ask(Models(), "/days", {"times": times})
    assert answer.json() == {"days": ["2011-10-19", None, None, "2011-10-18", "2011-10-18"]}
    assert ask(Models(), "/days", {"times": ["a"] * 11}, texts=10).status_code == 413


def test_models_that_are_not_there():
    for path, body in [
        ("/score", {"text": ""}),
        ("/explain", {"text": ""}),
        ("/generate", {}),
        ("/sort", {"numbers": [1]}),
    ]:
        answer = ask(Models(), path, body)
        assert answer.status_code == 404
        assert "no" in answer.json()["error"]


def test_a_declared_body_that_never_comes_and_one_that_comes_slowly(buzz):
    async def parts(count):
        for _ in range(count):
            yield b" " * 10
            await asyncio.sleep(0.05)

    async def asked():
        async with client(Models(buzz=buzz), patience=0.2, body=60) as service:
            slow = await service.post("/score", content=parts(6))
            large = await service.post("/score", content=parts(9))
            headers = {"content-length": "1000000000000"}
            declared = await service.post("/score", content=parts(1), headers=headers)
            return slow, large, declared

    slow, large, declared = asyncio.run(asked())
    assert slow.status_code == 408
    assert large.status_code in (408, 413)
    assert declared.status_code == 413
    assert "1000000000000" in declared.json()["error"]


def test_too_much_at_once_and_too_slow_an_answer(buzz):
    watched = Watched(buzz)

    async def asked():
        async with client(Models(buzz=watched), open=3, seconds=0.3) as service:
            waiting = [asyncio.create_task(service.post("/score", json={"text": "wait"})) for _ in range(3)]
            await asyncio.sleep(0.05)
            refused = await service.post("/score", json={"text": "good"})
            late = await asyncio.gather(*waiting)
            watched.go.set()
            for _ in range(20):  # 0.3 s are short on a busy machine: it is back once one answer is in time
                after = await service.post("/score", json={"text": "good"})
                if after.status_code == 200:
                    break
            return refused, late, after

    refused, late, after = asyncio.run(asked())
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert {answer.status_code for answer in late} == {503}
    assert "took longer" in late[0].json()["error"]
    assert after.status_code == 200


def test_bodies_held_at_once_are_bounded(buzz):
    body = {"text": "a" * 50}
    assert ask(Models(buzz=buzz), "/score", body, held=40).status_code == 503
    assert ask(Models(buzz=buzz), "/score", body, held=100).status_code == 200


def test_health_pages_and_reference(buzz):
    async def asked():
        async with client(Models(buzz=buzz)) as service:
            return [
                await service.get(path) for path in ("/health", "/", "/docs", "/openapi.json", "/favicon.ico")
            ]

    health, page, docs, reference, icon = asyncio.run(asked())
    assert health.json()["answers"] == ["score", "explain"]
    for answer in (page, docs):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "://" not in answer.text.replace("http://www.w3.org", ""), (
            "the page refers to something outside"
        )
        assert len(answer.content) <= 60_000
    paths = reference.json()["paths"]
    assert {"/score", "/explain", "/generate", "/sort", "/track", "/health"} <= set(paths)
    assert json.dumps(paths).count("413") >= 4
    assert icon.status_code == 204
