"""Speed: what the numbers are made of, and that they are right about a model of known speed."""

from __future__ import annotations

import math
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from enginepress.recipe import Load
from enginepress.serving.client import Answer, Question
from enginepress.serving.load import MAX_FAILURES, SINGLES, LoadResult, measure_load, percentile, summarise, thinned
from enginepress.serving.tritonserver import TritonServer
from tests.serving.toy_model import write_model

TIMES = st.floats(min_value=0, max_value=1e6)


def answer(total_s: float, *, first_s: float = 0.0, tokens: int | None = 4, pieces: int = 4) -> Answer:
    return Answer("x" * pieces, ("x",) * pieces, "1", first_s, total_s, tokens)


@given(st.lists(TIMES, min_size=1), st.integers(1, 100))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values: list[float], percent: int) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(v <= found for v in values) >= len(values) * percent / 100
    assert sum(v < found for v in values) < len(values) * percent / 100


def test_there_is_no_percentile_of_nothing() -> None:
    assert percentile([], 50) is None


@given(st.lists(TIMES, max_size=60), st.integers(2, 20))
def test_thinning_keeps_the_extremes_and_the_order(values: list[float], keep: int) -> None:
    kept = thinned(values, keep)
    assert len(kept) == min(len(values), keep)
    assert list(kept) == sorted(kept)
    assert not values or (kept[0], kept[-1]) == (min(values), max(values))


def test_the_summary_counts_tokens_and_requests_over_the_wall_time() -> None:
    result = summarise(
        [answer(1, first_s=0.3), answer(1, first_s=0.1), answer(1, first_s=0.2)],
        [answer(2.0), answer(1.0, tokens=None, pieces=6)],
        ["too busy", "too busy", "gone"],
        wall_s=2.5,
        concurrency=2,
        max_tokens=4,
    )
    assert result.median_first_token_s == 0.2
    assert result.latencies_s == (1.0, 2.0)
    assert (result.answered, result.failed, result.tokens) == (2, 3, 10)
    assert (result.tokens_per_second, result.requests_per_second) == (4.0, 0.8)
    assert result.failures == ("too busy", "gone")


def test_nothing_answered_is_zero_and_not_a_division() -> None:
    result = summarise([], [], ["gone"], wall_s=0.0, concurrency=1, max_tokens=1)
    assert (result.tokens_per_second, result.requests_per_second, result.median_first_token_s) == (0.0, 0.0, None)


def test_a_result_comes_back_from_json_as_it_was() -> None:
    result = summarise([answer(1)], [answer(2.0)], ["x"], wall_s=2.5, concurrency=2, max_tokens=4)
    assert LoadResult.from_json(result.to_json()) == result


def test_a_model_of_known_speed_is_measured_as_that(tmp_path: Path, log: Path) -> None:
    """20 ms a token, answered side by side: one stream gives 50 tokens a second, four give 200."""
    with TritonServer(write_model(tmp_path / "r", pace_s=0.02), log=log, exit_timeout_s=0, ready_timeout_s=30) as server:
        load = Load(concurrency=4, requests=12, max_tokens=10)
        result = measure_load(server.http, "toy", [Question(text="a b"), Question(text="c")], load)
    assert (result.answered, result.failed, result.tokens) == (12, 0, 120)
    assert len(result.single_first_token_s) == SINGLES
    assert result.median_first_token_s is not None
    assert 0.02 <= result.median_first_token_s < 0.2
    assert all(latency >= 0.2 for latency in result.latencies_s)
    assert 60 < result.tokens_per_second <= 200
    assert math.isclose(result.tokens_per_second / result.requests_per_second, 10)


def test_a_server_that_refuses_everything_is_not_asked_for_ever(tmp_path: Path, log: Path) -> None:
    repository = write_model(tmp_path / "r", fault="error")
    with TritonServer(repository, log=log, exit_timeout_s=0, ready_timeout_s=30) as server:
        result = measure_load(server.http, "toy", [Question(text="a")], Load(requests=100_000, concurrency=4))
    assert result.answered == 0
    assert 1 <= result.failed <= MAX_FAILURES + 4
    assert "too many requests" in result.failures[0]
