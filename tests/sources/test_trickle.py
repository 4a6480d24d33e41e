"""Servers that send a byte now and then, for ever: no socket's time-out ends that, so deadlines have to."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from enginepress.errors import SourceError
from enginepress.s3_access import S3Settings
from enginepress.sources import Interrupted
from enginepress.sources.hub_client import HubClient
from enginepress.sources.s3_client import S3Client
from enginepress.sources.transfer.http import HttpClient, rate_limit, retry_after
from enginepress.sources.transfer.pace import Trickle

TIMEOUT = 1.0
ENOUGH = 20.0
"""Far more than any deadline here, far less than what such a server would take."""


@contextlib.contextmanager
def trickling(head: bytes) -> Iterator[str]:
    """A server that answers with `head` at once and with a byte every quarter of a second from then on."""
    over = threading.Event()
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(5)
    server.settimeout(0.1)

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(head)
            while not over.wait(0.25):
                connection.sendall(b" ")

    def accept() -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                connection.settimeout(5)
                threads.append(threading.Thread(target=answer, args=(connection,)))
                threads[-1].start()

    threads = [threading.Thread(target=accept)]
    threads[0].start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        over.set()
        for thread in threads:
            thread.join()
        server.close()


def _client() -> HttpClient:
    return HttpClient("test", timeout=TIMEOUT)


OK = b"HTTP/1.1 200 OK\r\n"


def test_headers_that_trickle_are_given_up() -> None:
    with trickling(OK + b"X-Long: ") as url:
        start = time.monotonic()
        with pytest.raises(Interrupted, match="no answer within"), _client().get(url):
            pass
        assert time.monotonic() - start < ENOUGH


@pytest.mark.parametrize("length", [200_000, 10_000_000], ids=["little left", "much left"])
def test_who_leaves_a_stream_that_stands_still_does_not_wait_for_its_rest(length: int) -> None:
    with trickling(OK + b"Content-Length: %d\r\n\r\n" % length) as url:
        start = time.monotonic()
        trickle = Trickle(seconds=TIMEOUT)

        def read() -> None:
            with _client().get(url) as answer:
                for block in answer.blocks:
                    if trickle.is_stalled(len(block)):
                        raise Interrupted("almost nothing")

        with pytest.raises(Interrupted, match="almost nothing"):
            read()
        assert time.monotonic() - start < ENOUGH


def test_the_body_of_a_refusal_is_not_waited_for() -> None:
    with trickling(b"HTTP/1.1 503 Busy\r\nContent-Length: 200000\r\n\r\n") as url:
        start = time.monotonic()
        with _client().get(url) as answer:
            assert answer.status == 503
        assert time.monotonic() - start < ENOUGH


def test_a_hub_whose_json_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with trickling(OK + b"Content-Length: 100000\r\n\r\n") as url:
        hub = HubClient(url, "org/name", pauses=(), http=_client())
        for ask in (lambda: hub.commit("main"), lambda: hub.json("revision", "main")):
            start = time.monotonic()
            with pytest.raises(SourceError, match="almost nothing arrives"):
                ask()
            assert time.monotonic() - start < ENOUGH


def test_an_object_that_trickles_is_seen_to(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with trickling(OK + b'ETag: "x"\r\nContent-Length: 10000000\r\n\r\n') as url:
        client = S3Client("bucket", S3Settings(endpoint=url, region="us-east-1"))
        start, trickle = time.monotonic(), Trickle(seconds=TIMEOUT)
        with client.open_range("key", 0, 10_000_000) as body:
            assert any(trickle.is_stalled(len(block)) for block in body.blocks)
        assert time.monotonic() - start < ENOUGH


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("7", "", 7.0),
        ("Sat, 21 Nov 2026 12:00:30 GMT", "Sat, 21 Nov 2026 12:00:10 GMT", 20.0),
        ("Sat, 21 Nov 2026 12:00:00 GMT", "Sat, 21 Nov 2026 12:00:10 GMT", 0.0),
        ("Sat, 21 Nov 2099 12:00:00 GMT", "", 300.0),
        ("999999999", "", 300.0),
        ("soon", "", None),
        ("", "", None),
        ("-3", "", None),
    ],
)
def test_retry_after_is_read_in_both_of_its_forms(value: str, date: str, seconds: float | None) -> None:
    assert retry_after(value, date) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ('"api";r=0;t=55', 56.0),
        ('"resolvers" ; r = 0 ; t = 9', 10.0),
        ('"api";r=0;t=999999999', 300.0),
        ('"api";r=7;t=55', None),
        ('"api";r=0', None),
        ("", None),
    ],
)
def test_what_a_rate_limit_header_says_is_kept_when_nothing_is_left(value: str, seconds: float | None) -> None:
    assert rate_limit(value) == seconds
