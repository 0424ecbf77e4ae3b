"""The service under load, under attack, and a file of a million rows: what docs/service.md states.

    python benchmarks/serve.py load --seconds 5       requests a second and 99th percentile, 1/16/128 clients
    python benchmarks/serve.py abuse --requests 10000  malformed, oversized, slow and half-closed ones
    python benchmarks/serve.py file --rows 1000000     `nextstate buzz --file`: seconds and memory

`--model FILE` instead of the package's. The service runs as `nextstate serve` in a process of its own; the
clients, in this one, take time of the same cores. One JSON object a line on stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

WORDS = (
    *("the", "a", "it", "was", "good", "bad", "lovely", "awful", "film", "flight", "bag", "phone", "battery"),
    *(
        "service",
        "again",
        "never",
        "really",
        "not",
        "very",
        "best",
        "worst",
        "of",
        "my",
        "and",
        "but",
        "with",
    ),
)
POST = b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
LENGTHS = {"short": (5, 30), "long": (500, 700)}
WRONG = (200, 400, 404, 405, 408, 411, 413, 422, 501, 503)
"""Statuses that an answer to a request of `abuse` may have."""


def texts(kind: str, count: int, seed: int = 0) -> list[str]:
    """Texts of so many words as `LENGTHS` says."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(*LENGTHS[kind]))) for _ in range(count)]


@contextmanager
def service(model: Path | None):
    """(port, process id) of a `nextstate serve` that ends with the block."""
    command = [sys.executable, "-m", "nextstate", "serve", "--port", "0", "--json"]
    command += [] if model is None else ["--buzz", str(model)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = json.loads(process.stdout.readline())["address"]
        yield int(address.rsplit(":", 1)[1]), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait(60) not in (0, -signal.SIGTERM):  # it ends by the signal once all is finished
            raise SystemExit("the service did not stop well")


def memory(pid: int, field: str = "VmRSS") -> int:
    """MB that a process holds; `VmHWM` is the most that it ever held."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) // 1024
    raise KeyError(field)


class Client:
    """One kept connection that asks and reads answers."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def open(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def ask(self, body: bytes) -> tuple[int, bytes]:
        self.writer.write(POST + b"content-length: %d\r\n\r\n" % len(body) + body)
        return await answer(self.reader)


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split()[1])
    if "content-length:" not in head:  # what is no HTTP is answered so
        return status, await reader.read()
    return status, await reader.readexactly(int(head.split("content-length:")[1].split("\r\n")[0]))


async def load(port: int, clients: int, asked: list[str], right: list[float], seconds: float) -> dict:
    """`clients` ask one text after the other; every answer is compared with that of the model in process."""
    bodies = [json.dumps({"text": text}).encode() for text in asked]
    took: list[float] = []
    counts: Counter[str] = Counter()
    end = time.perf_counter() + seconds

    async def one(number: int) -> None:
        client, place = await Client(port).open(), number * 37
        while time.perf_counter() < end:
            place = (place + 1) % len(bodies)
            before = time.perf_counter()
            status, body = await client.ask(bodies[place])
            took.append(time.perf_counter() - before)
            good = status == 200 and abs(json.loads(body)["results"][0]["score"] - right[place]) < 1e-4
            counts["right" if good else "wrong"] += 1
        client.writer.close()

    began = time.perf_counter()
    ended = await asyncio.gather(*(one(n) for n in range(clients)), return_exceptions=True)
    spent = time.perf_counter() - began
    took.sort()
    return {
        "requests": len(took),
        "per_second": round(len(took) / spent, 1),
        "p50_ms": round(1000 * took[len(took) // 2], 1),
        "p99_ms": round(1000 * took[min(len(took) - 1, int(0.99 * len(took)))], 1),
        "wrong": counts["wrong"],
        "lost": sum(isinstance(end, Exception) for end in ended),
    }


def measure_load(model: Path | None, seconds: float) -> None:
    from nextstate.buzzometer import Buzzometer

    buzz = Buzzometer.load(model)
    with service(model) as (port, pid):
        for kind in LENGTHS:
            asked = texts(kind, 400)
            right = [score.score for score in buzz.score(asked)]
            for clients in (1, 16, 128):
                asyncio.run(load(port, clients, asked, right, 0.5))  # the first ones of a kind are slower
                found = asyncio.run(load(port, clients, asked, right, seconds))
                print(json.dumps({"texts": kind, "clients": clients, **found}), flush=True)
        print(json.dumps({"service_mb_most": memory(pid, "VmHWM")}), flush=True)


def abuses(draw: random.Random) -> tuple[str, list[bytes], float]:
    """(kind, parts to send, pause between them)."""
    kind = draw.choice(
        ("no HTTP", "no JSON", "wrong fields", "oversized", "lying length", "slow", "half closed", "left")
    )
    if kind == "no HTTP":
        return kind, [draw.randbytes(draw.randint(1, 400)) + b"\r\n\r\n"], 0
    if kind in ("no JSON", "wrong fields"):
        wrong = [b'{"text": 3}', b'{"texts": [null]}', b"[]", b'{"colour": "x"}', b'{"texts": {"a": 1}}']
        body = draw.randbytes(draw.randint(1, 300)) if kind == "no JSON" else draw.choice(wrong)
        return kind, [POST + b"content-length: %d\r\n\r\n" % len(body) + body], 0
    if kind == "oversized":
        size = 3 << 20
        head = POST + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % size
        return kind, [head] + [b"a" * (size // 8)] * 8, 0
    if kind == "lying length":
        return kind, [POST + b"content-length: 9%d\r\n\r\n" % draw.randint(0, 10**12)], 0
    if kind == "slow":
        return kind, [POST + b"content-length: 900\r\n\r\n"] + [b" "] * 40, 0.5
    return kind, [POST + b"content-length: 500\r\n\r\n" + b'{"text": "' + b"a" * draw.randint(0, 400)], 0


async def abuse(port: int, pid: int, requests: int, at_once: int) -> dict:
    """Bad requests, many at a time, while a good client asks on; memory is looked at all the time."""
    draw, counts, most, waits = random.Random(0), Counter(), memory(pid), []
    gate, before, stop = asyncio.Semaphore(at_once), memory(pid), False

    async def one() -> None:
        kind, parts, pause = abuses(draw)
        async with gate:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(pause)
                    if pause and reader.at_eof():
                        break
                if kind == "half closed":
                    writer.write_eof()
                if kind == "left":
                    writer.close()
                    counts[kind, "closed"] += 1
                    return
                status, _ = await asyncio.wait_for(answer(reader), 60)
                counts[kind, status if status in WRONG else f"unexpected {status}"] += 1
                writer.close()
            except (OSError, asyncio.IncompleteReadError):
                counts[kind, "cut off"] += 1
            except (TimeoutError, IndexError, ValueError) as error:
                counts[kind, f"stuck: {type(error).__name__}"] += 1

    async def watch() -> None:
        nonlocal most
        client = await Client(port).open()
        while not stop:
            most = max(most, memory(pid))
            begun = time.perf_counter()
            try:
                status, _ = await client.ask(b'{"text": "what a good day"}')
            except (OSError, asyncio.IncompleteReadError):  # kept connections end with a refusal
                client = await Client(port).open()
                continue
            counts["a good client meanwhile", status] += 1
            waits.append(time.perf_counter() - begun)
            if status != 200:
                client = await Client(port).open()
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(requests)))
    spent, stop = time.perf_counter() - began, True
    await watching
    waits.sort()
    return {
        "requests": requests,
        "seconds": round(spent, 1),
        "mb_before": before,
        "mb_most": most,
        "good_client_p99_ms": round(1000 * waits[int(0.99 * (len(waits) - 1))]),
        "answers": {" ".join(map(str, key)): counts[key] for key in sorted(counts, key=str)},
    }


def measure_abuse(model: Path | None, requests: int, at_once: int) -> None:
    with service(model) as (port, pid):
        print(json.dumps(asyncio.run(abuse(port, pid, requests, at_once))), flush=True)


def measure_file(model: Path | None, rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "rows.csv", Path(folder) / "scored.csv"
        draw = random.Random(0)
        with source.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "text"])
            for number in range(rows):
                writer.writerow([number, " ".join(draw.choices(WORDS, k=draw.randint(5, 30)))])
        command = [sys.executable, "-m", "nextstate", "buzz", "--file", str(source), "--out", str(out)]
        command += [] if model is None else ["--model", str(model)]
        began = time.perf_counter()
        process = subprocess.Popen(command)
        _, status, used = os.wait4(process.pid, 0)
        spent = time.perf_counter() - began
        with out.open() as file:
            written = sum(1 for _ in file) - 1
        found = {
            "rows": rows,
            "written": written,
            "seconds": round(spent, 1),
            "rows_per_second": round(rows / spent),
        }
        print(json.dumps({**found, "mb_most": used.ru_maxrss // 1024, "status": status}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["load", "abuse", "file"])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args()
    if given.what == "load":
        measure_load(given.model, given.seconds)
    elif given.what == "abuse":
        measure_abuse(given.model, given.requests, given.at_once)
    else:
        measure_file(given.model, given.rows)


if __name__ == "__main__":
    main()
