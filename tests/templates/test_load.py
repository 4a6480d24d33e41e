"""Load: speed against the engine called directly, fairness, and many requests over a long time.

A model of 128 million random parameters, in int8, so that the engine is what takes the time. Bounds are wide: how fast it
really is, `benchmarks/serving.py` measures.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from enginepress.serving.tritonserver import TritonServer
from tests.engines.checkpoints import make_checkpoint
from tests.templates.ask import generate, generate_stream, open_stream, text_of
from tests.templates.repository import build_engine, write_model

pytestmark = pytest.mark.slow

PROMPT = "the quick brown fox jumps over the lazy dog"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("large")
    size: dict[str, Any] = {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 12,
        "num_attention_heads": 16,
        "head_dim": 64,
    }
    checkpoint = make_checkpoint(folder / "large", num_key_value_heads=4, max_position_embeddings=2048, **size)
    return checkpoint, build_engine(checkpoint, folder / "engine", "int8")


@pytest.fixture(scope="module")
def loaded(large: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("served large")
    write_model(folder / "models", "large", checkpoint=large[0], engine=large[1])
    with TritonServer(folder / "models", log=folder / "server.log", exit_timeout_s=0) as server:
        generate(server.http, "large", text_input=PROMPT, max_tokens=4)
        yield server


def _direct(model: Any, tokens: int) -> float:
    """Tokens a second of one stream in an engine, without anything around it."""
    import numpy as np
    import onnxruntime_genai as og

    direct = og.Engine(model)
    events = direct.create_event_buffer(4)
    row = direct.create_request()
    options = og.TurnOptions(row)
    options.set_max_generated_tokens(tokens)
    options.set_min_generated_tokens(tokens)
    options.set_do_sample(False)
    began = time.monotonic()
    row.begin_turn(np.arange(5, 30, dtype=np.int32), options)
    while direct.has_pending_requests():
        direct.run(events)
    seconds = time.monotonic() - began
    row.close()
    return tokens / seconds


def _together(server: TritonServer, streams: int, tokens: int, rounds: int = 3) -> float:
    """Tokens a second of several clients that ask again and again."""

    def client(number: int) -> None:
        for _ in range(rounds):
            text = f"{PROMPT} {number}"
            generate_stream(server.http, "large", text_input=text, max_tokens=tokens, min_tokens=tokens)

    began = time.monotonic()
    with ThreadPoolExecutor(streams) as pool:
        list(pool.map(client, range(streams)))
    return streams * rounds * tokens / (time.monotonic() - began)


def test_one_stream_through_triton_is_not_far_slower_than_the_engine(loaded: TritonServer, large: tuple[Path, Path]) -> None:
    import onnxruntime_genai as og

    model = og.Model(str(large[1]))
    _direct(model, 8)
    shares = []
    for _ in range(4):
        # In turn, and several times: other work on the machine comes and goes.
        pairs = [(_together(loaded, 1, 64, rounds=1), _direct(model, 64)) for _ in range(5)]
        served, direct = (statistics.median(rates) for rates in zip(*pairs, strict=True))
        shares.append(served / direct)
        if shares[-1] >= 0.6:
            return
    raise AssertionError(f"Triton's share of the engine's own speed: {shares}")


def test_eight_streams_together_get_clearly_more_tokens_than_one(loaded: TritonServer) -> None:
    pairs = [(_together(loaded, 8, 64), _together(loaded, 1, 64, rounds=1)) for _ in range(5)]
    eight, one = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    assert eight >= 1.3 * one, pairs


def test_a_short_request_does_not_wait_for_a_long_one_to_end(loaded: TritonServer) -> None:
    long_s: list[float] = []

    def ask_long() -> None:
        began = time.monotonic()
        generate(loaded.http, "large", text_input=PROMPT, max_tokens=200, min_tokens=200)
        long_s.append(time.monotonic() - began)

    thread = threading.Thread(target=ask_long)
    thread.start()
    time.sleep(0.3)
    short_s = []
    for _ in range(5):
        began = time.monotonic()
        generate(loaded.http, "large", text_input="the", max_tokens=4, min_tokens=4)
        short_s.append(time.monotonic() - began)
    thread.join()
    assert statistics.median(short_s) <= long_s[0] / 3, (short_s, long_s)


def test_a_long_prompt_does_not_hold_up_a_running_answer(loaded: TritonServer) -> None:
    """The running answer goes on while the long prompt is computed."""
    during = 0
    with open_stream(loaded.http, "large", text_input=PROMPT, max_tokens=600, min_tokens=600) as events:
        next(events)
        thread = threading.Thread(target=lambda: generate(loaded.http, "large", text_input="the fox " * 700, max_tokens=1))
        thread.start()
        for _ in events:
            during += thread.is_alive()
            if not thread.is_alive():
                break
        thread.join()
    assert during >= 10


def test_a_thousand_mixed_requests_with_clients_that_leave_are_all_answered_right(
    checkpoint: Path, engine: Path, tmp_path: Path
) -> None:
    generator = random.Random(11)
    requests: list[dict[str, Any]] = []
    for i in range(60):
        values: dict[str, Any] = {"text_input": "fox " * generator.randrange(1, 120), "max_tokens": generator.randrange(1, 60)}
        if i % 4 == 1:
            values |= {"temperature": 1.0, "seed": i}
        if i % 4 == 2:
            values |= {"stop_words": ["a", " "]}
        requests.append(values)
    write_model(tmp_path / "models", "tiny", checkpoint=checkpoint, engine=engine)
    with TritonServer(tmp_path / "models", log=tmp_path / "log", exit_timeout_s=0) as server:
        alone = [generate(server.http, **values)["text_output"] for values in requests]

        def ask(number: int) -> bool:
            i = number % len(requests)
            if number % 10 == 9:
                with open_stream(server.http, **requests[i]) as events:
                    next(events)
                return True
            return text_of(generate_stream(server.http, **requests[i])) == str(alone[i])

        with ThreadPoolExecutor(24) as pool:
            assert all(pool.map(ask, range(1000)))
        # Nothing of the thousand is left: all 64 places are free.
        with ThreadPoolExecutor(64) as pool:
            ended = list(pool.map(lambda _: generate(server.http, text_input="a", max_tokens=3), range(64)))
        assert len(ended) == 64
