"""Answers of the scheduler: right whatever runs beside them, and whatever happens to the others."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llm_bad_words import BadWords, Vocabulary
from llm_detokenize import Detokenizer
from llm_errors import Kind, RequestError
from llm_job import Job
from llm_request import Request, Sampling
from llm_scheduler import choose_group
from llm_slow_path import prompt_pieces

from tests.templates.in_process import Served, serving

PAD = 2


@pytest.fixture(scope="module")
def served(engine: Path, checkpoint: Path) -> Iterator[Served]:
    with serving(engine, checkpoint, max_concurrent_requests=500) as served:
        yield served


@pytest.fixture(scope="module")
def transformer(checkpoint: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint)


def _reference(transformer: Any, request: Request, **options: Any) -> list[int]:
    """What transformers generates greedily, without the end token."""
    import torch

    ids = torch.tensor([request.prompt])
    mask = torch.ones_like(ids)
    out = transformer.generate(ids, attention_mask=mask, max_new_tokens=request.max_tokens, do_sample=False, **options)
    tokens: list[int] = out[0, len(request.prompt) :].tolist()
    return tokens[:-1] if tokens[-1] == 1 else tokens


def _prompt(seed: int, length: int) -> tuple[int, ...]:
    generator = random.Random(seed)
    return (0, *(generator.choice([1, PAD, generator.randrange(3, 384)]) for _ in range(length - 1)))


def _sampled(seed: int | None = None, **values: float) -> Sampling:
    return Sampling(**{"temperature": 1.5, "top_k": 0, "top_p": 1.0, **values}, seed=seed)  # type: ignore[arg-type]


def test_ragged_requests_side_by_side_get_the_answers_of_transformers(served: Served, transformer: Any) -> None:
    lengths, tokens = [1, 3, 120, 17, 40, 2, 64, 5, 33, 1, 90, 8], [40, 1, 9, 60, 25, 3] * 2
    requests = [Request(prompt=_prompt(i, lengths[i]), max_tokens=tokens[i]) for i in range(12)]
    for request, answer in zip(requests, served.ask_all(requests), strict=True):
        assert answer.tokens == _reference(transformer, request), request
        assert answer.text == served.tokenizer.decode(answer.tokens)


@pytest.mark.parametrize("prompt", [(0, 5, PAD), (PAD,), (PAD, PAD), (0, 9, PAD, PAD, PAD), (0, *[PAD] * 70, 6), _prompt(3, 200)])
def test_the_second_path_reads_padding_tokens_in_a_prompt_as_tokens(
    served: Served, transformer: Any, prompt: tuple[int, ...]
) -> None:
    request = Request(prompt=prompt, max_tokens=12, log_probs=True)
    assert served.ask(request).wait().tokens == _reference(transformer, request)


def test_a_long_prompt_goes_in_pieces_and_gets_the_same_answer(served: Served, transformer: Any) -> None:
    request = Request(prompt=_prompt(9, 700), max_tokens=20)
    assert served.ask(request).wait().tokens == _reference(transformer, request)


@pytest.mark.parametrize("log_probs", [False, True])
@pytest.mark.parametrize(
    ("values", "options"),
    [
        ({"repetition_penalty": 1.7}, {"repetition_penalty": 1.7}),
        ({"repetition_penalty": 0.6}, {"repetition_penalty": 0.6}),
        ({"min_tokens": 60}, {"min_new_tokens": 60}),
    ],
)
def test_penalties_and_minimum_lengths_do_what_they_do_in_transformers(
    served: Served, transformer: Any, values: dict[str, Any], options: dict[str, Any], log_probs: bool
) -> None:
    for seed in range(4):
        request = Request(prompt=_prompt(seed, 12), max_tokens=60, log_probs=log_probs, **values)
        assert served.ask(request).wait().tokens == _reference(transformer, request, **options)


def test_an_answer_that_ends_before_its_limit_says_so(served: Served, transformer: Any) -> None:
    requests = [Request(prompt=_prompt(seed, 6), max_tokens=200) for seed in range(40)]
    answers = served.ask_all(requests)
    ended = [(r, a) for r, a in zip(requests, answers, strict=True) if len(a.tokens) < r.max_tokens]
    assert ended, "none of these prompts leads to the end token"
    for request, answer in ended:
        assert answer.finish_reason == "stop"
        assert 1 not in answer.tokens
        slow = served.ask(Request(prompt=request.prompt, max_tokens=200, log_probs=True)).wait()
        assert (slow.tokens, slow.finish_reason) == (answer.tokens, "stop")
    assert all(a.finish_reason == "length" for a in answers if len(a.tokens) == 200)


def test_log_probabilities_are_those_of_the_models_own_logits(served: Served, transformer: Any) -> None:
    import torch

    request = Request(prompt=_prompt(4, 9), max_tokens=10, log_probs=True, repetition_penalty=1.4)
    answer = served.ask(request).wait()
    with torch.no_grad():
        logits = transformer(torch.tensor([[*request.prompt, *answer.tokens]])).logits[0]
    expected = torch.log_softmax(logits.double(), -1)
    at = [expected[len(request.prompt) - 1 + i, token].item() for i, token in enumerate(answer.tokens)]
    last = answer.replies[-1]
    assert last.log_probs == pytest.approx(at, abs=1e-4)
    assert last.cum_log_probs == pytest.approx(sum(at), abs=1e-3)


def test_a_seed_gives_the_same_answer_alone_and_beside_others(served: Served) -> None:
    request = Request(prompt=_prompt(1, 8), max_tokens=30, sampling=_sampled(seed=2**63 + 5))
    alone = served.ask(request).wait().tokens
    others = [Request(prompt=_prompt(i, 5 + i), max_tokens=40, sampling=_sampled(seed=i if i % 2 else None)) for i in range(9)]
    running = [served.ask(other) for other in others]
    assert served.ask(request).wait().tokens == alone
    assert served.ask(Request(prompt=request.prompt, max_tokens=30, sampling=_sampled(seed=6))).wait().tokens != alone
    for other in running:
        assert not other.wait().error


def test_without_a_seed_answers_differ_and_keep_to_top_k(served: Served, transformer: Any) -> None:
    import torch

    prompt = _prompt(1, 8)
    answers = served.ask_all([Request(prompt=prompt, max_tokens=1, sampling=_sampled(top_k=3)) for _ in range(40)])
    with torch.no_grad():
        likely = set(transformer(torch.tensor([prompt])).logits[0, -1].topk(3).indices.tolist())
    chosen = {answer.tokens[0] for answer in answers if answer.tokens}
    assert len(chosen) > 1
    assert chosen <= likely


def test_top_p_keeps_to_the_likeliest_tokens_on_both_paths(served: Served, transformer: Any) -> None:
    import torch

    prompt = _prompt(2, 8)
    with torch.no_grad():
        best = int(transformer(torch.tensor([prompt])).logits[0, -1].argmax())
    engine = served.ask_all([Request(prompt=prompt, max_tokens=1, sampling=_sampled(top_p=1e-4)) for _ in range(10)])
    slow = served.ask_all([Request(prompt=prompt, max_tokens=1, sampling=_sampled(seed=s, top_p=1e-4)) for s in range(10)])
    assert {answer.tokens[0] for answer in [*engine, *slow]} == {best}


def test_bad_words_do_not_occur(served: Served) -> None:
    table = served.tokenizer.token_bytes
    vocabulary = Vocabulary(table)
    prompt = _prompt(5, 8)
    free = served.ask(Request(prompt=prompt, max_tokens=60)).wait()
    words = tuple({text for text in (free.text[2:4], free.text[9:12], free.text[20:21]) if "\ufffd" not in text})
    assert words
    request = Request(prompt=prompt, max_tokens=60, bad_words=lambda: BadWords(words, table, vocabulary))
    answer = served.ask(request).wait()
    joined = b"".join(table[token] for token in answer.tokens)
    assert not any(word.encode() in joined for word in words)
    assert len(answer.tokens) == 60
    assert answer.tokens != free.tokens


def test_a_stop_word_ends_the_answer_before_it_streamed_or_not(served: Served) -> None:
    prompt = _prompt(6, 8)
    free = served.ask(Request(prompt=prompt, max_tokens=80)).wait()
    word = next(free.text[i : i + 3] for i in range(12, 60) if "\ufffd" not in free.text[i : i + 3])
    for stream in (False, True):
        for log_probs in (False, True):
            request = Request(prompt=prompt, max_tokens=80, stop_words=(word, "never there"), stream=stream, log_probs=log_probs)
            answer = served.ask(request).wait()
            assert answer.text == free.text[: free.text.index(word)]
            assert answer.finish_reason == "stop_word"


def test_an_engine_that_fails_costs_only_the_request_that_made_it_fail(served: Served, transformer: Any) -> None:
    good = [Request(prompt=_prompt(seed, 10), max_tokens=30) for seed in range(3)]
    poison = Request(prompt=(0, 10**6), max_tokens=30)
    answers = served.ask_all([good[0], poison, *good[1:]])
    assert "could not be computed" in answers[1].error
    for request, answer in zip(good, [answers[0], *answers[2:]], strict=True):
        assert answer.tokens == _reference(transformer, request)
        assert answer.text == served.tokenizer.decode(answer.tokens)


def test_a_failure_on_the_second_path_costs_only_its_request(served: Served) -> None:
    def no_bans() -> BadWords:
        raise RequestError("bad_words: no")

    poison = [Request(prompt=(0, 10**6), max_tokens=3, log_probs=True), Request(prompt=(0, 5), max_tokens=3, bad_words=no_bans)]
    answers = served.ask_all([*poison, Request(prompt=(0, 5), max_tokens=3, log_probs=True)])
    assert [bool(answer.error) for answer in answers] == [True, True, False]
    assert answers[1].error == "bad_words: no"


def test_text_that_cannot_be_made_costs_only_its_request(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Detokenizer):
        def push(self, token: int) -> str:
            raise ValueError("broken")

    broken = Broken(served.tokenizer.decode, has_text=lambda _: True, byte_tokens=frozenset())
    makers = iter([served.tokenizer.detokenizer(), broken, served.tokenizer.detokenizer()])
    monkeypatch.setattr(served, "make_detokenizer", lambda prompt: next(makers))
    answers = served.ask_all([Request(prompt=_prompt(i, 4), max_tokens=9) for i in range(3)])
    assert [bool(answer.error) for answer in answers] == [False, True, False]


def test_cancelled_requests_end_wherever_they_are_and_free_their_place(engine: Path, checkpoint: Path) -> None:
    with serving(engine, checkpoint, max_concurrent_requests=6, engines=1, max_batch_size=2, slow_path_requests=1) as served:
        long: dict[str, Any] = {"prompt": _prompt(1, 6), "max_tokens": 900, "min_tokens": 900, "stream": True}
        running = [served.ask(Request(**long)) for _ in range(2)]
        waiting = served.ask(Request(**long))
        slow = [served.ask(Request(**long, log_probs=True)) for _ in range(2)]
        for answer in (*running, slow[0]):
            assert answer.began.wait(30)
        for answer in (running[0], waiting, *slow):
            assert answer.job is not None
            served.scheduler.cancel(answer.job)
        for answer in (running[0], waiting, *slow):
            assert answer.wait(5).error == "the client cancelled the request"
        assert not running[1].wait().error
        assert len(running[1].tokens) == 900
        assert not served.ask_all([Request(prompt=_prompt(1, 6), max_tokens=3)] * 6)[-1].error


def test_more_requests_than_the_limit_are_refused_with_it(engine: Path, checkpoint: Path) -> None:
    with serving(engine, checkpoint, max_concurrent_requests=3) as served:
        request = Request(prompt=_prompt(1, 6), max_tokens=300, min_tokens=300)
        answers = [served.ask(request) for _ in range(3)]
        with pytest.raises(RequestError, match="too many requests: 3 are being answered or wait, the limit is 3") as caught:
            served.ask(request)
        assert caught.value.kind is Kind.UNAVAILABLE
        for answer in answers:
            answer.wait()
        assert not served.ask(Request(prompt=(0, 5), max_tokens=1)).wait().error


def test_without_a_second_path_what_needs_it_is_refused_by_name(engine: Path, checkpoint: Path, transformer: Any) -> None:
    with serving(engine, checkpoint, slow_path_requests=0) as served:
        needs: dict[str, Any] = {"return_log_probs": {"log_probs": True}, "seed": {"sampling": _sampled(seed=1)}}
        for name, values in needs.items():
            with pytest.raises(RequestError, match=f"{name}: switched off on this server"):
                served.ask(Request(prompt=(0, 5), max_tokens=3, **values))
        request = Request(prompt=_prompt(9, 600), max_tokens=5)
        assert served.ask(request).wait().tokens == _reference(transformer, request)


def test_stopping_fails_what_is_outstanding_and_takes_nothing_new(engine: Path, checkpoint: Path) -> None:
    with serving(engine, checkpoint, engines=1, max_batch_size=1) as served:
        long: dict[str, Any] = {"prompt": _prompt(1, 6), "max_tokens": 900, "min_tokens": 900, "stream": True}
        answers = [served.ask(Request(**long)), served.ask(Request(**long)), served.ask(Request(**long, log_probs=True))]
        assert answers[0].began.wait(30)
        began = time.monotonic()
        served.scheduler.stop()
        assert time.monotonic() - began < 1
        assert {answer.wait(0).error for answer in answers} == {"the model is being unloaded"}
        with pytest.raises(RequestError, match="being unloaded"):
            served.ask(Request(prompt=(0, 5), max_tokens=1))


def test_a_dead_scheduler_answers_with_the_reason_instead_of_hanging(
    engine: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(engine, checkpoint) as served:
        running = served.ask(Request(prompt=_prompt(1, 6), max_tokens=900, min_tokens=900, stream=True))
        assert running.began.wait(30)

        def broken() -> None:
            raise MemoryError("out of memory")

        monkeypatch.setattr(served.scheduler, "_step", broken)
        assert "out of memory" in running.wait(5).error
        with pytest.raises(RequestError, match=r"can answer no more requests.*out of memory") as caught:
            served.ask(Request(prompt=(0, 5), max_tokens=1))
        assert caught.value.kind is Kind.INTERNAL
        assert served.log == ["the scheduler has died: MemoryError('out of memory')"]


def _job(prompt: int, max_tokens: int) -> Job:
    detokenizer = Detokenizer(lambda tokens: "", has_text=lambda _: True, byte_tokens=frozenset())
    return Job(Request(prompt=(5,) * prompt, max_tokens=max_tokens), detokenizer, lambda reply: None)


def test_a_group_is_the_oldest_request_and_those_that_end_about_when_it_does() -> None:
    jobs = [_job(4, 100), _job(4, 5), _job(4, 90), _job(4, 400), _job(4, 110)]
    assert choose_group(jobs, size=3, cache_tokens=10**6) == [jobs[0], jobs[2], jobs[4]]


def test_a_group_keeps_within_prompt_and_cache_limits() -> None:
    jobs = [_job(200, 10), _job(200, 10), _job(200, 10)]
    assert choose_group(jobs, size=8, cache_tokens=10**6) == jobs[:2]
    assert choose_group(jobs, size=8, cache_tokens=300) == jobs[:1]


def test_a_request_whose_engine_failed_starts_alone() -> None:
    jobs = [_job(4, 10), _job(4, 10), _job(4, 10)]
    jobs[0].failures = 1
    assert choose_group(jobs, size=8, cache_tokens=10**6) == jobs[:1]
    assert choose_group(jobs[1:] + jobs[:1], size=8, cache_tokens=10**6) == jobs[1:]


@pytest.mark.parametrize("seed", range(5))
def test_pieces_of_a_prompt_are_the_prompt_and_do_not_end_in_padding(seed: int) -> None:
    prompt = np.random.default_rng(seed).integers(0, 4, 40).tolist()
    pieces = [list(piece) for piece in prompt_pieces(prompt, pad=PAD, size=6)]
    assert [token for piece in pieces for token in piece] == prompt
    assert all(len(piece) <= 6 for piece in pieces)
    assert all(len(piece) == 1 or piece[-1] != PAD for piece in pieces)
