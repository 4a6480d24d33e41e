"""The gate over a real server: what passes, and everything that must not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.errors import ServerError
from enginepress.recipe import Load, Recipe
from enginepress.repository.place import content_digest_of
from enginepress.serving.client import Answer, Question
from enginepress.serving.gate import _Asked, _prompt_checks, compare, load_checks, run_gate
from enginepress.serving.gate_result import CheckResult, GateResult, percent
from enginepress.serving.load import summarise
from enginepress.serving.reference import Reference, ReferenceAnswer
from enginepress.steps.report import Report
from tests.serving.processes import leftovers
from tests.serving.toy_model import Fault, toy_answer, write_model, write_tokenizer

RED = "red green blue"
ONE = "one two"
WORDS = f"{RED} {ONE} other"


def make_recipe(prompts: list[dict[str, Any]] | None = None, **checks: Any) -> Recipe:
    asked = [{"text": RED, "max_tokens": 8}, {"text": ONE, "max_tokens": 8}] if prompts is None else prompts
    return Recipe.model_validate(
        {
            "name": "toy",
            "source": "file:///nowhere",
            "stores": ["file:///nowhere"],
            "checks": {"prompts": asked, "ready_timeout_s": 60, **checks},
        }
    )


def make_reference(*answers: tuple[str, str]) -> Reference:
    ids = {word: i for i, word in enumerate(dict.fromkeys(x for w in WORDS.split() for x in (w, f" {w}")), 1)}
    return Reference(
        revision="0" * 64,
        source="file:///nowhere",
        made_with={"torch": "2"},
        answers=tuple(
            ReferenceAnswer(prompt, None, 8, tuple(ids[f" {w}"] for w in answer.split()), answer) for prompt, answer in answers
        ),
    )


RIGHT = make_reference((RED, toy_answer(RED, 8)), (ONE, toy_answer(ONE, 8)))
# Of 16 tokens one is another, in the second answer.
NEARLY = make_reference((RED, toy_answer(RED, 8)), (ONE, " one two one two one two one other"))


def unplaced(folder: Path, *, fault: Fault = "", pace_s: float = 0.0, tokenizer: bool = True) -> Path:
    repository = write_model(folder, version=0, fault=fault, pace_s=pace_s, placed=False)
    if tokenizer:
        write_tokenizer(repository / "toy" / "0" / "tokenizer", WORDS)
    return repository


def failed(result: GateResult) -> dict[str, CheckResult]:
    return {check.name: check for check in result.failed_checks}


def test_a_good_model_passes_every_check_and_is_what_was_digested(tmp_path: Path) -> None:
    repository = unplaced(tmp_path / "r")
    recipe = make_recipe(
        [{"text": RED, "max_tokens": 8, "pattern": "green blue"}, {"text": ONE, "max_tokens": 8}],
        load={"requests": 8, "concurrency": 2, "max_first_token_ms": 5000, "min_tokens_per_second": 1},
    )
    folder = tmp_path / "attempt"
    folder.mkdir()
    result = run_gate(repository, recipe, RIGHT, folder=folder, live="release 7 on production")
    assert result.passed
    assert [check.name for check in result.checks] == [
        "model gets ready",
        "prompt 1: same answer every way",
        "prompt 2: same answer every way",
        "answers carry the placed version",
        "server stays up",
        "agrees with the reference",
        "prompt 1: pattern",
        "every request under load is answered",
        "time to first token (median)",
        "tokens per second, 2 at a time",
    ]
    assert result.content_digest == content_digest_of(repository)
    assert result.agreement == (16, 16)
    assert [p.answer for p in result.prompts] == [toy_answer(RED, 8), toy_answer(ONE, 8)]
    assert result.live == "release 7 on production"
    assert GateResult.from_json(json.loads(json.dumps(result.to_json()))) == result_after_rounding(result)
    assert leftovers(folder / "server.log") == []
    assert not (folder / "scratch" / "gated").exists()


def result_after_rounding(result: GateResult) -> GateResult:
    return GateResult.from_json(result.to_json())


def test_all_failures_are_collected_and_not_only_the_first(tmp_path: Path) -> None:
    recipe = make_recipe(
        [{"text": RED, "max_tokens": 8, "pattern": "purple"}, {"text": ONE, "max_tokens": 8}],
        load={
            "requests": 4,
            "concurrency": 2,
            "max_tokens": 4,
            "max_first_token_ms": 1,
            "min_tokens_per_second": 10000,
            "min_requests_per_second": 1000,
        },
    )
    result = run_gate(unplaced(tmp_path / "r", pace_s=0.01, fault="stream differs"), recipe, NEARLY, folder=tmp_path)
    found = failed(result)
    assert set(found) == {
        "prompt 1: same answer every way",
        "prompt 2: same answer every way",
        "agrees with the reference",
        "prompt 1: pattern",
        "time to first token (median)",
        "tokens per second, 2 at a time",
        "requests per second, 2 at a time",
    }
    assert "HTTP streamed: ' red green blue red green blue red other'" in found["prompt 1: same answer every way"].detail
    assert found["agrees with the reference"].measured == "1 of 2 answers exactly, 93.7 % of the tokens"
    assert "prompt 2: from character 29: 'two' instead of 'other'" in found["agrees with the reference"].detail
    assert found["prompt 1: pattern"].wanted == "/purple/"
    assert repr(toy_answer(RED, 8)) in found["prompt 1: pattern"].detail
    assert result.prompts[0].ways["gRPC streamed"].endswith(" other")


@pytest.mark.parametrize(("minimum", "passes"), [(15 / 16, True), (0.94, False)])
def test_the_minimum_agreement_decides_about_a_nearly_right_model(minimum: float, passes: bool, tmp_path: Path) -> None:
    result = run_gate(unplaced(tmp_path / "r"), make_recipe(min_agreement=minimum), NEARLY, folder=tmp_path)
    assert result.agreement == (15, 16)
    assert result.passed is passes


def test_without_a_tokenizer_exact_texts_still_pass_and_others_say_why_they_cannot_be_compared(tmp_path: Path) -> None:
    repository = unplaced(tmp_path / "r", tokenizer=False)
    assert run_gate(repository, make_recipe(min_agreement=0.5), RIGHT, folder=tmp_path).passed
    found = failed(run_gate(repository, make_recipe(min_agreement=0.5), NEARLY, folder=tmp_path))
    assert "no tokenizer.json" in found["agrees with the reference"].detail


def test_a_prompt_that_the_reference_does_not_have_fails(tmp_path: Path) -> None:
    recipe = make_recipe([{"text": RED, "max_tokens": 8}, {"text": ONE, "max_tokens": 9}])
    found = failed(run_gate(unplaced(tmp_path / "r"), recipe, RIGHT, folder=tmp_path))
    assert list(found) == ["reference covers every prompt"]
    assert "prompt 2" in found["reference covers every prompt"].detail


def test_without_a_reference_nothing_is_compared_and_the_result_says_so(tmp_path: Path) -> None:
    result = run_gate(unplaced(tmp_path / "r"), make_recipe(), None, folder=tmp_path)
    assert result.passed
    assert result.reference is None
    assert result.agreement is None
    assert not any("reference" in check.name for check in result.checks)


def test_without_prompts_it_is_still_asked_something(tmp_path: Path) -> None:
    result = run_gate(unplaced(tmp_path / "r"), make_recipe([]), RIGHT, folder=tmp_path)
    assert result.passed
    assert [p.answer for p in result.prompts] == [toy_answer("Hello", 8)]


def test_a_model_that_dies_in_the_middle_fails_what_it_did_not_answer_and_keeps_what_it_did(tmp_path: Path) -> None:
    recipe = make_recipe([{"text": RED, "max_tokens": 8}, {"text": "the last one", "max_tokens": 8}], load={"requests": 4})
    result = run_gate(unplaced(tmp_path / "r", fault="die later"), recipe, None, folder=tmp_path)
    assert [p.answer for p in result.prompts] == [toy_answer(RED, 8), None]
    found = failed(result)
    assert set(found) == {"prompt 2: same answer every way", "every request under load is answered"}
    assert "Stub process 'toy_0_0' is not healthy" in found["prompt 2: same answer every way"].detail


@pytest.mark.parametrize(("fault", "said"), [("load", "holds no model.onnx"), ("hang", "was not ready after 2 s")])
def test_a_server_that_cannot_start_is_an_error_and_no_result(fault: Fault, said: str, tmp_path: Path) -> None:
    recipe = make_recipe(ready_timeout_s=2)
    with pytest.raises(ServerError, match=said):
        run_gate(unplaced(tmp_path / "r", fault=fault), recipe, None, folder=tmp_path)
    assert leftovers(tmp_path / "server.log") == []
    assert not (tmp_path / "scratch" / "gated").exists()


# Pure parts -------------------------------------------------------------------------------------------------------------


def test_limits_are_met_at_the_limit_itself() -> None:
    load = summarise([], [], [], wall_s=1.0, concurrency=1, max_tokens=1)
    checks = load_checks(load, Load(requests=1, min_tokens_per_second=1, max_first_token_ms=1))
    assert [c.passed for c in checks] == [False, False, False]
    assert checks[1].measured == "no answer"


def encode(text: str) -> list[int]:
    return [ord(c) for c in text]


@given(st.text(), st.text())
def test_the_same_text_agrees_fully_and_no_text_more_than_fully(reference: str, served: str) -> None:
    expected = ReferenceAnswer("p", None, 99, tuple(encode(reference)), reference)
    assert compare(expected, reference, encode) == (len(reference), len(reference))
    assert compare(expected, reference, None) == (len(reference), len(reference))
    matched, of = compare(expected, served, encode) or (-1, -1)
    assert 0 <= matched <= of == len(reference)
    assert compare(expected, None, encode) == (0, len(reference))


def test_tokens_that_a_tokenizer_would_write_otherwise_are_compared_as_it_writes_them() -> None:
    expected = ReferenceAnswer("p", None, 99, (7, 8), "abcd")
    assert compare(expected, "abcx", encode) == (3, 4)


@given(st.floats(min_value=0, max_value=1))
def test_a_share_below_one_never_reads_as_all(share: float) -> None:
    assert (percent(share) == "100 %") == (share == 1)
    assert abs(float(percent(share).split()[0]) - share * 100) <= 0.1


def test_a_reason_that_all_ways_give_is_told_once() -> None:
    ways: dict[str, Answer | str] = {"HTTP": "too much", "HTTP streamed": "too much", "gRPC": "away"}
    (check,) = _prompt_checks([_Asked(Question("a", None, 8), None, None, ways)])
    assert check.detail == "HTTP, HTTP streamed: too much; gRPC: away"


@pytest.mark.parametrize(
    ("failed", "words"),
    [
        (1, "1 of 3 checks failed: check 1: 7, wanted 8. so it is"),
        (2, "2 of 3 checks failed:\n  check 1: 7, wanted 8. so it is\n  check 2: 7, wanted 8. so it is"),
    ],
)
def test_each_failed_check_has_a_line_where_there_are_several(failed: int, words: str) -> None:
    checks = tuple(CheckResult(f"check {n}", n > failed, "7", "8", "so it is") for n in (1, 2, 3))
    gate = GateResult("toy", "2.51.0", 0.5, 3.0, "0" * 64, None, "", None, checks, (), None)
    assert Report(facts={}, validation={"ok": True}, gate=gate, error=None, served=True).failure == words
