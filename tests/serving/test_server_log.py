"""Reasons read from a Triton log."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.serving.server_log import lacks_backend, last_words, load_failures, plain_reason, port_was_taken

LOADED = "I1120 19:16:07.861687 5402 model_lifecycle.cc:839] \"successfully loaded 'echo'\"\n"
FAILED = (
    "E1120 19:23:13.416812 9510 model_lifecycle.cc:642] \"failed to load 'echo' version 1: Internal: KeyError: 'boom'"
    '\\n\\nAt:\\n  /r/echo/1/model.py(5): initialize\\n  /r/echo/1/engine.py(9): load\\n"\n'
)
POLL_DIRECTORY = (
    "E1120 19:24:26.684271 10100 model_repository_manager.cc:1460] \"Poll failed for model directory 'bad': "
    'failed to read text proto from /r/bad/config.pbtxt"\n'
)
POLL_MODEL = (
    "E1120 19:24:26.671191 10100 model_repository_manager.cc:1415] \"failed to poll model 'missing': "
    'model not found in any model repository."\n'
)
STUB = "I1120 19:24:57.006046 10252 pb_stub.cc:2105]  Failed to preinitialize Python stub: Python model file not found in 'x'\n"
PORT = "E1120 8752 main.cc:245] \"failed to start GRPC service: Unavailable - Socket '127.0.0.1:1' already in use \"\n"


def test_each_kind_of_failure_is_found_with_its_model() -> None:
    assert load_failures(LOADED + FAILED + POLL_DIRECTORY + POLL_MODEL + STUB) == {
        "echo": "KeyError: 'boom' (at /r/echo/1/model.py(5): initialize)",
        "bad": "failed to read text proto from /r/bad/config.pbtxt",
        "missing": "model not found in any model repository.",
        "": "Python model file not found in 'x'",
    }


def test_a_log_of_success_holds_no_failure() -> None:
    assert load_failures(LOADED * 3) == {}


def test_quotes_in_a_reason_are_kept() -> None:
    line = FAILED.replace("KeyError: 'boom'", 'ValueError: no \\"x\\" here')
    assert load_failures(line)["echo"].startswith('ValueError: no "x" here (at ')


@given(st.text())
def test_any_log_can_be_read(text: str) -> None:
    assert all(isinstance(reason, str) for reason in load_failures(text).values())
    assert len(last_words(text).splitlines()) <= 15


@pytest.mark.parametrize(
    ("reason", "plain"),
    [
        ("Internal: boom", "boom"),
        ("Invalid argument: unable to find backend", "unable to find backend"),
        (
            "load failed for model 'm': version 1 is at UNAVAILABLE state: boom;\n",
            "load failed for model 'm': version 1 is at UNAVAILABLE state: boom",
        ),
        ("a\nb", "a b"),
        ("", ""),
    ],
)
def test_a_reason_becomes_one_line_of_plain_words(reason: str, plain: str) -> None:
    assert plain_reason(reason) == plain


def test_a_taken_port_is_told_from_other_ends() -> None:
    assert port_was_taken(LOADED + PORT)
    assert not port_was_taken(LOADED + FAILED)


def test_the_last_words_leave_the_usage_text_out() -> None:
    text = "tritonserver: unrecognized option '--x'\nUsage: tritonserver [options]\n" + "  --help\n" * 300
    assert last_words(text) == "tritonserver: unrecognized option '--x'"


def test_the_last_words_are_the_last_lines() -> None:
    assert last_words("".join(f"{i}\n" for i in range(100)), 3) == "97\n98\n99"


@pytest.mark.parametrize(
    ("reason", "lacks"),
    [
        ("ModuleNotFoundError: No module named 'tensorrt_llm'", True),
        ("unable to find backend library for backend 'vllm'", True),
        ("ModuleNotFoundError: No module named 'numpy'", False),
    ],
)
def test_a_machine_without_the_backend_is_known_by_what_it_says(reason: str, lacks: bool) -> None:
    assert lacks_backend(reason) is lacks
