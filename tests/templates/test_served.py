"""The model behind the real Triton: inputs and outputs over HTTP and gRPC, cancels, limits, many at once."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton_grpc

from enginepress.serving.tritonserver import TritonServer
from tests.templates.ask import Refused, generate, generate_stream, grpc_inputs, grpc_stream, open_stream, text_of
from tests.templates.repository import write_model

PROMPTS = ["the quick brown fox", "naïve café 東京 \U0001f680", " ", "a release is " * 12]


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Callable[[str, int], str]:
    """transformers' greedy answer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)

    def answer(prompt: str, max_tokens: int) -> str:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False)
        return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))

    return answer


@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_way_to_ask_gives_the_answer_of_transformers(
    server: TritonServer, reference: Callable[[str, int], str], prompt: str
) -> None:
    whole = generate(server.http, text_input=prompt, max_tokens=40)
    assert whole["text_output"] == reference(prompt, 40)
    assert whole["finish_reason"] in ("length", "stop")
    pieces = generate_stream(server.http, text_input=prompt, max_tokens=40)
    over_grpc = grpc_stream(server.grpc, text_input=prompt, max_tokens=40, stream=True)
    for events in (pieces, over_grpc):
        assert text_of(events) == whole["text_output"]
        assert len(events) > 10
        assert [event["finish_reason"] for event in events[:-1]] == [""] * (len(events) - 1)
        assert {key: events[-1][key] for key in ("finish_reason", "output_token_count", "prompt_token_count")} == {
            key: whole[key] for key in ("finish_reason", "output_token_count", "prompt_token_count")
        }
    not_streamed = grpc_stream(server.grpc, text_input=prompt, max_tokens=40)
    assert [event["text_output"] for event in not_streamed] == [whole["text_output"]]


def test_messages_are_the_rendered_prompt(server: TritonServer) -> None:
    rendered = "<|user|>\nhello\n<|assistant|>\n"
    messages = json.dumps([{"role": "user", "content": "hello"}])
    chat = generate(server.http, messages=messages, max_tokens=20)
    assert chat["prompt_token_count"] == generate(server.http, text_input=rendered, max_tokens=20)["prompt_token_count"] - 1


def test_log_probabilities_come_only_when_asked_for_and_one_a_token(server: TritonServer) -> None:
    values: dict[str, Any] = {"text_input": PROMPTS[0], "max_tokens": 20}
    plain = generate(server.http, **values)
    assert "output_log_probs" not in plain
    assert "cum_log_probs" not in plain
    whole = generate(server.http, **values, return_log_probs=True)
    assert whole["text_output"] == plain["text_output"]
    assert len(whole["output_log_probs"]) == whole["output_token_count"]
    assert whole["cum_log_probs"] == pytest.approx(sum(whole["output_log_probs"]), rel=1e-4)
    events = grpc_stream(server.grpc, **values, return_log_probs=True, stream=True)
    streamed = [value for event in events for value in _list(event["output_log_probs"])]
    assert streamed == pytest.approx(whole["output_log_probs"], abs=1e-5)
    assert events[-1]["cum_log_probs"] == pytest.approx(whole["cum_log_probs"], rel=1e-4)


def test_stop_words_and_bad_words_over_http(server: TritonServer) -> None:
    values: dict[str, Any] = {"text_input": PROMPTS[0], "max_tokens": 60}
    free = generate(server.http, **values)["text_output"]
    word = next(free[i : i + 3] for i in range(10, 50) if "\ufffd" not in free[i : i + 3])
    stopped = generate(server.http, **values, stop_words=[word, "nowhere"])
    assert (stopped["text_output"], stopped["finish_reason"]) == (free[: free.index(word)], "stop_word")
    assert text_of(generate_stream(server.http, **values, stop_words=word)) == stopped["text_output"]
    clean = generate(server.http, **values, bad_words=[word])
    assert word not in clean["text_output"]
    assert clean["output_token_count"] == 60
    assert generate(server.http, **values, bad_words="", stop_words="")["text_output"] == free


def test_the_same_seed_gives_the_same_answer_over_http_and_grpc(server: TritonServer) -> None:
    values: dict[str, Any] = {
        "text_input": PROMPTS[0],
        "max_tokens": 20,
        "temperature": 1.2,
        "top_p": 0.95,
        "top_k": 40,
        "seed": 2**64 - 1,
    }
    first = generate(server.http, **values)["text_output"]
    assert text_of(grpc_stream(server.grpc, **values)) == first
    assert generate(server.http, **{**values, "seed": 5})["text_output"] != first


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "exactly one of text_input and messages is needed"),
        ({"text_input": ""}, "text_input: is empty"),
        ({"text_input": "a", "max_tokens": 0}, "max_tokens: is 0"),
        ({"text_input": "a", "max_tokens": 5000}, "max_tokens: 5000 is too much: the prompt has 2 tokens and the limit"),
        ({"text_input": "a " * 2000}, "limit for prompt and answer is 1024: shorten it"),
        ({"text_input": "a", "top_p": 0}, "top_p: is 0"),
        ({"text_input": "a", "temperature": -1}, "temperature: is -1"),
        ({"text_input": "a", "repetition_penalty": -2}, "repetition_penalty: is -2"),
        ({"text_input": "a", "max_tokens": [1, 2]}, "max_tokens"),
        ({"messages": "no json"}, "messages: is not JSON"),
    ],
)
def test_bad_input_is_a_400_that_names_it(server: TritonServer, values: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message) as caught:
        generate(server.http, **values)
    assert caught.value.status == 400
    with pytest.raises(Refused, match=message):
        generate_stream(server.http, **values)
    assert generate(server.http, text_input="a", max_tokens=1)["output_token_count"] == 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("frequency_penalty", 1, "frequency_penalty: is not an input of this model"),
        ("frequency_penalty", 0.5, "frequency_penalty: is not an input of this model"),
        ("max_token", 3, r"max_token: is not an input of this model; the nearest is max_tokens;"),
        ("max-tokens", 3, r"max-tokens: is not an input of this model; the nearest is max_tokens;"),
        ("zzz", "tiny", "zzz: is not an input of this model; the inputs are text_input, messages, "),
        ("echo", True, "echo: is not an input"),
    ],
)
def test_an_unknown_field_is_refused_by_name(server: TritonServer, name: str, value: Any, message: str) -> None:
    for ask in (generate, generate_stream):
        with pytest.raises(Refused, match=message) as caught:
            ask(server.http, text_input="a", max_tokens=3, **{name: value})
        assert caught.value.status == 400


def test_fields_that_are_tritons_own_are_no_unknown_fields(server: TritonServer) -> None:
    own = {"id": "7", "priority": 0, "timeout": 10_000_000, "sequence_id": 0, "x-request-id": "7"}
    for name, value in own.items():
        assert generate(server.http, text_input="a", max_tokens=1, **{name: value})["output_token_count"] == 1, name


def test_values_that_http_cannot_carry_are_refused_over_grpc(server: TritonServer) -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(Refused, match="temperature: is"):
            grpc_stream(server.grpc, text_input="a", temperature=value)


def test_the_models_parameters_hold(server: TritonServer) -> None:
    assert generate(server.http, "small", text_input="the")["output_token_count"] == 4
    with pytest.raises(Refused, match="limit for prompt and answer is 40, which leaves"):
        generate(server.http, "small", text_input="the", max_tokens=40)
    with pytest.raises(Refused, match="return_log_probs: switched off on this server"):
        generate(server.http, "small", text_input="the", return_log_probs=True)
    with pytest.raises(Refused, match="seed: switched off"):
        generate(server.http, "small", text_input="the", temperature=1.0, seed=3)


def test_many_different_requests_at_once_get_the_answers_they_get_alone(server: TritonServer) -> None:
    requests: list[dict[str, Any]] = []
    for i in range(32):
        values: dict[str, Any] = {"text_input": PROMPTS[i % 4] + " fox" * (i % 7), "max_tokens": 5 + 9 * (i % 6)}
        if i % 5 == 1:
            values |= {"temperature": 0.9, "seed": i}
        if i % 5 == 2:
            values |= {"return_log_probs": True}
        if i % 5 == 3:
            values |= {"stop_words": [" "]}
        requests.append(values)
    alone = [generate(server.http, **values) for values in requests]

    def ask(i: int) -> str:
        return text_of(generate_stream(server.http, **requests[i]) if i % 2 else grpc_stream(server.grpc, **requests[i]))

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, range(len(requests))))
    assert together == [answer["text_output"] for answer in alone]


def test_clients_that_go_away_free_their_places(server: TritonServer) -> None:
    """`small` takes two requests: two streams that are left half way must not keep a third out."""
    long: dict[str, Any] = {"text_input": "the", "max_tokens": 30, "min_tokens": 30}
    for _ in range(5):
        for _ in range(2):
            with open_stream(server.http, "small", **long) as events:
                next(events)
        _ask_until_there_is_room(server)


def test_a_cancelled_grpc_stream_stops_its_request(server: TritonServer) -> None:
    began, ended = threading.Event(), threading.Event()
    client = triton_grpc.InferenceServerClient(server.grpc)
    client.start_stream(lambda result, error: ended.set() if error is not None else began.set())
    client.async_stream_infer("tiny", grpc_inputs({"text_input": "a", "max_tokens": 900, "min_tokens": 900, "stream": True}))
    assert began.wait(10)
    client.stop_stream(cancel_requests=True)
    client.close()
    assert ended.wait(10)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _ask_until_there_is_room(server: TritonServer, seconds: float = 10.0, *, model: str = "small") -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            generate(server.http, model, text_input="the", max_tokens=1)
            return
        except Refused as error:
            if "too many requests" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(0.05)


def test_more_requests_than_the_limit_are_refused_with_it(checkpoint: Path, engine: Path, tmp_path: Path) -> None:
    """And stopping the server with requests under way ends within its time."""
    write_model(tmp_path / "models", "tiny", checkpoint=checkpoint, engine=engine, max_concurrent_requests=2)
    with TritonServer(tmp_path / "models", log=tmp_path / "log", exit_timeout_s=8) as server:
        long: dict[str, Any] = {"text_input": "the", "max_tokens": 1000, "min_tokens": 1000}
        refused = ""
        for _ in range(10):  # on a busy machine both may have been answered before the third comes
            with open_stream(server.http, **long) as first, open_stream(server.http, **long) as second:
                next(first), next(second)
                try:
                    generate(server.http, text_input="a", max_tokens=1)
                except Refused as error:
                    refused = str(error)
                    break
            _ask_until_there_is_room(server, model="tiny")
        assert "too many requests: 2 are being answered or wait, the limit is 2" in refused


def test_a_model_without_its_tokenizer_says_so_when_it_is_loaded(checkpoint: Path, engine: Path, tmp_path: Path) -> None:
    from enginepress.errors import ServerError

    write_model(tmp_path / "models", "tiny", checkpoint=checkpoint, engine=engine)
    (tmp_path / "models" / "tiny" / "1" / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ServerError) as caught, TritonServer(tmp_path / "models", log=tmp_path / "log", exit_timeout_s=0):
        pass
    assert "tokenizer.json: is missing" in str(caught.value)


def _examples(language: str) -> list[str]:
    text = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def _run_example(server: TritonServer, argv: list[str], example: str) -> str:
    for written, real in (("localhost:8000", server.http), ("localhost:8001", server.grpc), ("my-model", "tiny")):
        example = example.replace(written, real)
    done = subprocess.run([*argv, example], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_documented_curl_commands_answer(server: TritonServer) -> None:
    whole, streamed, chat = (_run_example(server, ["sh", "-c"], example) for example in _examples("sh"))
    events = [json.loads(line[5:]) for line in streamed.splitlines() if line.startswith("data:")]
    assert json.loads(whole)["text_output"] == text_of(events)
    assert len(json.loads(chat)["output_log_probs"]) == json.loads(chat)["output_token_count"]


def test_the_documented_python_client_prints_the_answer(server: TritonServer) -> None:
    (example,) = _examples("python")
    answer = generate(server.http, text_input="Once upon a time", max_tokens=20)["text_output"]
    assert _run_example(server, [sys.executable, "-c"], example) == answer
