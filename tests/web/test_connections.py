"""The service on real sockets: bad clients are sent away, good ones are answered, also while it stops."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from nextstate import InputError
from nextstate.cli.serve import _listen
from nextstate.web.limits import Limits
from nextstate.web.models import Models
from web.browser import serving
from web.tiny import Watched

POST = b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def address(buzz):
    with serving(Models(buzz=buzz), Limits(patience=0.6, connections=8)) as address:
        yield address


def connect(address):
    return socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1].strip("/"))), timeout=20)


def all_of(connection):
    """What comes until the service closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01 this is no HTTP\r\n\r\n", b" 400 "),
        (POST + b"content-length: 99999999999\r\n\r\n", b" 413 "),
        (POST + b"content-length: 90\r\n\r\n{", b" 408 "),
        (POST + b"transfer-encoding: chunked\r\n\r\n300000\r\n" + b"a" * 0x300000, b" 413 "),
        (POST + b"content-length: 1\r\nconnection: close\r\n\r\n{", b" 422 "),
        (b"GET /score HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b" 405 "),
        (b"", b""),
        (b"POST /score HT", b""),
    ],
)
def test_bad_requests_are_answered_or_closed(address, sent, status):
    with connect(address) as connection:
        try:
            connection.sendall(sent)
        except (ConnectionResetError, BrokenPipeError):
            assert status == b" 413 "  # closed while it was still being sent
        said = all_of(connection)
        assert status in said[:30] or (status == b" 413 " and not said)
    assert httpx.post(f"{address}score", json={"text": "good"}, timeout=20).status_code == 200


def test_clients_that_leave_half_way_hold_nothing(address):
    for half in (True, False) * 3:
        with connect(address) as connection:
            connection.sendall(POST + b'content-length: 500\r\n\r\n{"text": "')
            if half:  # nothing more will come, but an answer would be read
                connection.shutdown(socket.SHUT_WR)
                assert all_of(connection) == b""
    end = time.monotonic() + 20
    while httpx.get(f"{address}health", timeout=20).json()["open"] > 1:
        assert time.monotonic() < end, "requests of clients that have gone are still open"
        time.sleep(0.05)


def test_more_connections_than_are_taken_are_closed(address):
    idle = [connect(address) for _ in range(12)]
    closed = [connection for connection in idle if all_of(connection) == b""]
    assert len(closed) == 12, "connections that send nothing are closed"
    for connection in idle:
        connection.close()
    assert httpx.get(f"{address}health", timeout=20).status_code == 200


def test_what_was_accepted_is_finished_before_it_stops(buzz):
    watched, found = Watched(buzz), []

    def ask(address):
        found.append(httpx.post(f"{address}score", json={"text": "wait good"}, timeout=30))

    with serving(Models(buzz=watched)) as address:
        asking = threading.Thread(target=ask, args=(address,))
        asking.start()
        while httpx.get(f"{address}health", timeout=20).json()["open"] < 2:
            time.sleep(0.02)
        threading.Timer(0.3, watched.go.set).start()  # when the service has been told to stop
    asking.join()
    [expected] = buzz.score(["wait good"])
    assert found[0].status_code == 200
    assert json.loads(found[0].content)["results"][0]["label"] == expected.label
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)


def test_who_asks_before_the_service_runs_waits():
    with _listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        with pytest.raises(InputError, match=f"port {port}: Address already in use"):
            _listen("127.0.0.1", port)


def test_answers_are_sent_without_delay():
    """An accepted connection does not wait for acknowledgements between the parts of an answer."""
    found = []

    async def accept_one():
        done = asyncio.Event()

        async def accepted(_reader, writer):
            connection = writer.get_extra_info("socket")
            found.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()
            done.set()

        with _listen("127.0.0.1", 0) as listening:
            server = await asyncio.start_server(accepted, sock=listening)
            _, writer = await asyncio.open_connection(*listening.getsockname())
            await asyncio.wait_for(done.wait(), 5)
            writer.close()
            server.close()

    asyncio.run(accept_one())
    assert found == [1]


def test_the_command_answers_as_soon_as_it_says_where_and_stops_at_a_signal(buzz, tiny):
    command = [sys.executable, "-m", "nextstate", "serve", "--port", "0", "--json", "--buzz", str(tiny)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            address = json.loads(process.stdout.readline())["address"]
            connect(f"{address}/").close()  # at once
            answer = httpx.post(f"{address}/score", json={"text": "good"}, timeout=20).json()
            assert answer["results"][0]["score"] == pytest.approx(buzz.score(["good"])[0].score, abs=1e-5)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
