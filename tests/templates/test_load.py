"""Load: fairness, and many requests over a long time. How fast it is, `benchmarks/serving.py` measures.

A model of 128 million random parameters, in int8, so that the engine is what takes the time.
"""

from __future__ import annotations

import random
import threading
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


def test_a_short_request_does_not_wait_for_a_long_one_to_end(loaded: TritonServer) -> None:
    with open_stream(loaded.http, "large", text_input=PROMPT, max_tokens=600, min_tokens=600) as events:
        next(events)
        long = threading.Thread(target=lambda: list(events))
        long.start()
        for _ in range(5):
            generate(loaded.http, "large", text_input="the", max_tokens=4, min_tokens=4)
        assert long.is_alive()
        long.join()


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
