"""Asking a served model: four ways, one answer; errors in the server's words."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.errors import ServerError
from enginepress.recipe import Prompt
from enginepress.serving.client import Answer, Question, ask_connection, ask_grpc, ask_http
from enginepress.serving.http_connection import HttpConnection
from enginepress.serving.sse import sse_data
from enginepress.serving.tritonserver import TritonServer
from tests.serving.toy_model import Fault, toy_answer, write_model

Ask = Callable[[TritonServer, Question], Answer]
WAYS: dict[str, Ask] = {
    "HTTP": lambda s, q: ask_http(s.http, "toy", q, stream=False),
    "HTTP streamed": lambda s, q: ask_http(s.http, "toy", q, stream=True),
    "gRPC": lambda s, q: ask_grpc(s.grpc, "toy", q, stream=False),
    "gRPC streamed": lambda s, q: ask_grpc(s.grpc, "toy", q, stream=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("prompt", ["red green blue", 'naïve "quotes" \\ und Ümläute', "日本 🎈 zwölf"])
def test_every_way_gives_the_models_text_version_and_count(way: str, prompt: str, toy_server: TritonServer) -> None:
    answer = WAYS[way](toy_server, Question(text=prompt, max_tokens=7))
    assert answer.text == toy_answer(prompt, 7) == "".join(answer.pieces)
    assert (answer.model_version, answer.tokens, answer.finish_reason) == ("1", 7, "length")
    assert len(answer.pieces) == (7 if "streamed" in way else 1)
    assert 0 < answer.first_token_s <= answer.total_s


@pytest.mark.parametrize("way", WAYS)
def test_a_chat_is_sent_as_messages(way: str, toy_server: TritonServer) -> None:
    prompt = Prompt(messages=[{"role": "system", "content": "x"}, {"role": "user", "content": "one two"}], max_tokens=3)
    assert WAYS[way](toy_server, Question.of(prompt)).text == " one two one"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("error", "too many requests: 64 are running"),
        pytest.param("die", "Stub process 'toy_0_0' is not healthy", marks=pytest.mark.slow),
        ("no text", "without any response|exactly 1 response"),
        ("broken utf-8", "not UTF-8|not JSON in UTF-8"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said_every_way(fault: Fault, said: str, tmp_path: Path, log: Path) -> None:
    repository = write_model(tmp_path / "r", fault=fault)
    with TritonServer(repository, log=log, exit_timeout_s=0, ready_timeout_s=30) as server:
        for ask in WAYS.values():
            with pytest.raises(ServerError, match=said) as caught:
                ask(server, Question(text="a b", max_tokens=3))
            assert "toy" in (caught.value.where or "")


@pytest.mark.parametrize("ask", [ask_http, ask_grpc])
def test_an_unknown_model_is_named(ask: Callable[..., Answer], toy_server: TritonServer) -> None:
    address = toy_server.http if ask is ask_http else toy_server.grpc
    with pytest.raises(ServerError, match="unknown model: 'nobody'"):
        ask(address, "nobody", Question(text="a"), stream=False)


@pytest.mark.parametrize("ask", [ask_http, ask_grpc])
def test_a_server_that_is_not_there_cannot_be_reached(ask: Callable[..., Answer]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ServerError, match="cannot be reached"):
            ask(address, "toy", Question(text="a"), stream=False, timeout_s=10)


@pytest.mark.slow
def test_an_answer_that_takes_too_long_is_given_up(tmp_path: Path, log: Path) -> None:
    with TritonServer(write_model(tmp_path / "r", pace_s=0.2), log=log, exit_timeout_s=0, ready_timeout_s=30) as server:
        for ask in WAYS.values():
            ask(server, Question(text="a", max_tokens=1))
        slow = Question(text="a", max_tokens=20)
        for stream in (False, True):
            with pytest.raises(ServerError, match=r"did not answer within 1 s|not complete after 1 s"):
                ask_http(server.http, "toy", slow, stream=stream, timeout_s=1)
            with pytest.raises(ServerError, match="did not answer within 1 s"):
                ask_grpc(server.grpc, "toy", slow, stream=stream, timeout_s=1)


def test_one_connection_serves_many_questions_and_survives_a_refused_one(toy_server: TritonServer) -> None:
    with HttpConnection(toy_server.http, timeout_s=10) as connection:
        ask_connection(connection, "toy", Question(text="a b", max_tokens=3), stream=True)
        first = connection._connection.sock
        for stream in (True, False, True):
            assert ask_connection(connection, "toy", Question(text="a b", max_tokens=3), stream=stream).text == " a b a"
        assert connection._connection.sock is first
        with pytest.raises(ServerError, match="nobody"):
            ask_connection(connection, "nobody", Question(text="a"), stream=True)
        assert ask_connection(connection, "toy", Question(text="c", max_tokens=1), stream=False).text == " c"


# A server that says exactly what a test wants --------------------------------------------------------------------------


@contextmanager
def canned(response: bytes) -> Iterator[str]:
    """Answers the first request on a real socket with these bytes and closes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(response)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


def http(body: bytes, *, status: str = "200 OK", length: int | None = None) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def chunked(chunk: bytes) -> bytes:
    """A chunk without the empty one that ends a body."""
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n"


PIECE = b'data: {"text_output": " a", "model_version": "1"}\n\n'


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (http(PIECE, length=5000), "closed the connection in the middle of an answer"),
        (chunked(PIECE), "closed the connection in the middle of an answer"),
        (chunked(PIECE)[:-12], "closed the connection in the middle of an answer"),
        (http(PIECE + b'data: {"error": "cache is full"}\n\n'), "cache is full"),
        (http(PIECE + b"data: {nonsense\n\n"), "not JSON"),
        (http(b'data: {"other": 1}\n\n'), "no text_output"),
        (http(b"", status="503 Busy"), "HTTP status 503"),
        (http(b"<html>", status="502 Bad Gateway"), "HTTP status 502"),
        (http(b'{"error": "no such thing"}', status="400 Bad Request"), "no such thing"),
        (b"not http at all\r\n\r\n", "cannot be reached: not http"),
        (b"", "closed the connection"),
    ],
)
def test_an_answer_that_is_cut_off_or_nonsense_is_an_error(response: bytes, said: str) -> None:
    with canned(response) as address, pytest.raises(ServerError, match=said):
        ask_http(address, "toy", Question(text="a"), stream=True, timeout_s=5)


# Server-sent events -----------------------------------------------------------------------------------------------------


def lines_of(data: bytes) -> list[bytes]:
    return [line + b"\n" for line in data.split(b"\n")]


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers())), st.sampled_from([b"\n", b"\r\n"]))
def test_events_of_json_come_out_as_they_went_in(events: list[dict[str, str | int]], end: bytes) -> None:
    written = b"".join(b"data: " + json.dumps(e).encode() + end + end for e in events)
    assert [json.loads(data) for data in sse_data(lines_of(written))] == events


@given(st.binary())
def test_any_bytes_can_be_read_as_events(data: bytes) -> None:
    assert all(b"\r" not in event[-1:] for event in sse_data(lines_of(data)))


@pytest.mark.parametrize(
    ("written", "events"),
    [
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b": comment\nevent: x\ndata:a\n\n\n\n", [b"a"]),
        (b"data: whole\n\ndata: cut off\n", [b"whole"]),
        (b"data:  two spaces\n\n", [b" two spaces"]),
        (b"", []),
    ],
)
def test_events_follow_the_rules(written: bytes, events: list[bytes]) -> None:
    assert list(sse_data(written.splitlines(keepends=True))) == events


def test_a_server_is_reached_at_an_ipv6_address() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hosts.append(self.headers["Host"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    class Server(HTTPServer):
        address_family = socket.AF_INET6

    hosts: list[str] = []
    try:
        server = Server(("::1", 0), Handler)
    except OSError as error:
        pytest.skip(f"there is no IPv6 here: {error}")
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    address = f"[::1]:{server.server_port}"
    with server, HttpConnection(address, timeout_s=10) as connection:
        assert connection.ask("GET", "/v2") == (200, {})
        thread.join(10)
    assert hosts == [address]
