"""The gate: serves a repository with the real Triton and holds what it answers against the recipe's checks.

The unplaced repository is placed as number 1 in a scratch folder, so that what is served is what publishing would write.
Every prompt is asked over HTTP and gRPC, streamed and not. Nothing stops at the first failure: the report shall show all of
them. Only a server that cannot start at all is an error.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from enginepress.errors import ServerError
from enginepress.serving.client import Answer, Question, ask_grpc, ask_http
from enginepress.serving.dialect import dialect_of
from enginepress.serving.gate_result import CheckResult, GateResult, PromptResult, percent
from enginepress.serving.load import LoadResult, measure_load
from enginepress.serving.reference import Reference, ReferenceAnswer, agreement
from enginepress.serving.servable import check_servable_here
from enginepress.serving.tritonserver import TritonServer

if TYPE_CHECKING:
    from enginepress.recipe import Checks, Load, Recipe

GATED_NUMBER = 1
LOG_NAME = "server.log"
# Asked when a recipe has no prompts: that it answers at all is always checked.
DEFAULT_QUESTION = Question(text="Hello", max_tokens=8)

Encoder = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class _Asked:
    """One prompt with what each way of asking gave: an answer, or the error in words."""

    question: Question
    pattern: str | None
    expected: ReferenceAnswer | None
    ways: dict[str, Answer | str]

    @property
    def answers(self) -> list[Answer]:
        return [a for a in self.ways.values() if isinstance(a, Answer)]

    @property
    def text(self) -> str | None:
        return self.answers[0].text if self.answers else None


def run_gate(repository: Path, recipe: Recipe, reference: Reference | None = None, *, folder: Path, live: str = "") -> GateResult:
    """Serves `repository` (unplaced) and checks it.

    Args:
        reference: the answers to compare with; without one the result says so.
        folder: gets server.log; scratch is made inside it and removed.
        live: what to say about a reference that is not a file of the recipe's, e.g. "release 7 on production".

    Raises:
        GateError: for an engine that was built for another machine.
        ServerError: if Triton cannot be started or does not load the model.
        RepositoryError: if the repository cannot be placed.
    """
    from enginepress.repository.place import content_digest_of, place, write_placement

    began = time.monotonic()
    check_servable_here(repository)
    placed = folder / "scratch" / "gated"
    placed.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_placement(place(repository, GATED_NUMBER, str(placed)), placed, link="symlink")
        # Nothing is in flight at the end and the copy is thrown away, so the server is not asked to unload in order.
        with TritonServer(
            placed, log=folder / LOG_NAME, ready_timeout_s=recipe.checks.ready_timeout_s, exit_timeout_s=0
        ) as server:
            asked = [_ask_all_ways(server, recipe.name, *entry) for entry in _questions(recipe, reference)]
            load = _load(server, recipe) if recipe.checks.load is not None else None
            checks = [_ready_check(server, recipe.checks), *_prompt_checks(asked), _version_check(asked), _alive_check(server)]
    finally:
        shutil.rmtree(placed, ignore_errors=True)
    encode = encoder_of(repository)
    prompts = [_prompt_result(a, encode) for a in asked]
    checks += _reference_checks(prompts, reference, recipe.checks) + _pattern_checks(asked)
    if load is not None and recipe.checks.load is not None:
        checks += load_checks(load, recipe.checks.load)
    return GateResult(
        model=recipe.name,
        server_version=server.version,
        ready_s=server.ready_s,
        seconds=time.monotonic() - began,
        content_digest=content_digest_of(repository),
        reference=_reference_facts(reference),
        live=live,
        agreement=_total_agreement(prompts),
        checks=tuple(checks),
        prompts=tuple(prompts),
        load=load,
        limits=_limits(recipe.checks.load),
    )


# Asking ---------------------------------------------------------------------------------------------------------------


def _questions(recipe: Recipe, reference: Reference | None) -> list[tuple[Question, str | None, ReferenceAnswer | None]]:
    builder, prompts = recipe.engine.builder, recipe.checks.prompts
    if not prompts:
        return [(replace(DEFAULT_QUESTION, dialect=dialect_of(builder)), None, None)]
    return [(Question.of(p, builder), p.pattern, reference.find(p) if reference is not None else None) for p in prompts]


def _ask_all_ways(
    server: TritonServer, model: str, question: Question, pattern: str | None, expected: ReferenceAnswer | None
) -> _Asked:
    ways: dict[str, Answer | str] = {}
    for name, ask, address, stream in (
        ("HTTP", ask_http, server.http, False),
        ("HTTP streamed", ask_http, server.http, True),
        ("gRPC", ask_grpc, server.grpc, False),
        ("gRPC streamed", ask_grpc, server.grpc, True),
    ):
        try:
            ways[name] = ask(address, model, question, stream=stream)
        except ServerError as error:
            ways[name] = error.message
    return _Asked(question, pattern, expected, ways)


def _load(server: TritonServer, recipe: Recipe) -> LoadResult:
    assert recipe.checks.load is not None
    questions = [Question.of(p) for p in recipe.checks.prompts] or [DEFAULT_QUESTION]
    return measure_load(server.http, recipe.name, questions, recipe.checks.load)


# Checks ---------------------------------------------------------------------------------------------------------------


def _ready_check(server: TritonServer, checks: Checks) -> CheckResult:
    return CheckResult("model gets ready", True, f"{server.ready_s:.1f} s", f"at most {checks.ready_timeout_s:g} s")


def _alive_check(server: TritonServer) -> CheckResult:
    try:
        server.check_running("while it was being asked")
    except ServerError as error:
        return CheckResult("server stays up", False, "died", "runs to the end", error.message)
    return CheckResult("server stays up", True, "runs", "runs to the end")


def _prompt_checks(asked: Sequence[_Asked]) -> list[CheckResult]:
    """That every way of asking each prompt is answered, and with the same text."""
    results = []
    for number, a in enumerate(asked, 1):
        errors = {way: outcome for way, outcome in a.ways.items() if isinstance(outcome, str)}
        texts = {answer.text for answer in a.answers}
        if errors:
            detail = "; ".join(
                f"{', '.join(w for w in errors if errors[w] == said)}: {said}" for said in dict.fromkeys(errors.values())
            )
        elif len(texts) > 1:
            detail = "; ".join(f"{way}: {shortened(answer.text)}" for way, answer in a.ways.items() if isinstance(answer, Answer))
        else:
            detail = ""
        answered = len(a.ways) - len(errors)
        measured = f"{answered} of {len(a.ways)} ways answered" + (f", {len(texts)} different texts" if len(texts) > 1 else "")
        results.append(CheckResult(f"prompt {number}: same answer every way", not detail, measured, "one text", detail))
    return results


def _version_check(asked: Sequence[_Asked]) -> CheckResult:
    seen = sorted({answer.model_version for a in asked for answer in a.answers})
    wanted = str(GATED_NUMBER)
    return CheckResult("answers carry the placed version", seen == [wanted], ", ".join(seen) or "no answer", wanted)


def _pattern_checks(asked: Sequence[_Asked]) -> list[CheckResult]:
    results = []
    for number, a in enumerate(asked, 1):
        if a.pattern is None:
            continue
        found = a.text is not None and re.search(a.pattern, a.text) is not None
        detail = "" if found else f"the answer is {shortened(a.text)}" if a.text is not None else "there was no answer"
        results.append(
            CheckResult(f"prompt {number}: pattern", found, "found" if found else "not found", f"/{a.pattern}/", detail)
        )
    return results


def _reference_checks(prompts: Sequence[PromptResult], reference: Reference | None, checks: Checks) -> list[CheckResult]:
    if reference is None or not checks.prompts:
        return []
    results = []
    unknown = [number for number, p in enumerate(prompts, 1) if p.reference is None]
    if unknown:
        results.append(
            CheckResult(
                "reference covers every prompt",
                False,
                f"{len(prompts) - len(unknown)} of {len(prompts)}",
                "all",
                f"no answer in the reference to prompt {', '.join(map(str, unknown))}, asked with this max_tokens: "
                "make it again with `enginepress reference RECIPE`",
            )
        )
    compared = [p for p in prompts if p.reference is not None]
    if not compared:
        return results
    exact = sum(p.answer == p.reference for p in compared)
    total = _total_agreement(prompts)
    share = total[0] / total[1] if total is not None and total[1] else None
    different = [number for number, p in enumerate(prompts, 1) if p.reference is not None and p.answer != p.reference]
    detail = "; ".join(f"prompt {n}: {difference(prompts[n - 1])}" for n in different)
    measured = f"{exact} of {len(compared)} answers exactly" + (f", {percent(share)} of the tokens" if share is not None else "")
    if checks.min_agreement >= 1.0:
        results.append(CheckResult("agrees with the reference", not different, measured, "exactly", detail))
        return results
    wanted = f"at least {percent(checks.min_agreement)} of the tokens"
    if total is None:
        results.append(
            CheckResult(
                "agrees with the reference",
                False,
                measured,
                wanted,
                "tokens cannot be compared: the repository has no tokenizer.json, or the package tokenizers is missing",
            )
        )
    else:
        passed = share is None or share >= checks.min_agreement
        results.append(CheckResult("agrees with the reference", passed, measured, wanted, detail))
    return results


def load_checks(load: LoadResult, limits: Load) -> list[CheckResult]:
    """The measured speed against the recipe's limits. What has no limit is measured and not checked."""
    results = [
        CheckResult(
            "every request under load is answered",
            load.failed == 0 and load.answered == limits.requests,
            f"{load.answered} of {limits.requests}",
            "all",
            "; ".join(load.failures),
        )
    ]
    if limits.max_first_token_ms is not None:
        median = load.median_first_token_s
        ok = median is not None and median * 1000 <= limits.max_first_token_ms
        measured = "no answer" if median is None else f"{median * 1000:.1f} ms"
        results.append(CheckResult("time to first token (median)", ok, measured, f"at most {limits.max_first_token_ms:g} ms"))
    for name, floor, value in (
        ("tokens per second", limits.min_tokens_per_second, load.tokens_per_second),
        ("requests per second", limits.min_requests_per_second, load.requests_per_second),
    ):
        if floor is not None:
            label = f"{name}, {limits.concurrency} at a time"
            results.append(CheckResult(label, value >= floor, f"{value:.1f}", f"at least {floor:g}"))
    return results


# Comparing ------------------------------------------------------------------------------------------------------------


def _prompt_result(asked: _Asked, encode: Encoder | None) -> PromptResult:
    first = asked.answers[0] if asked.answers else None
    streamed = next((a for w, a in asked.ways.items() if isinstance(a, Answer) and w.endswith("streamed")), None)
    said = {way: o.text if isinstance(o, Answer) else f"error: {o}" for way, o in asked.ways.items()}
    matched = compare(asked.expected, asked.text, encode) if asked.expected is not None else None
    return PromptResult(
        text=asked.question.text,
        messages=asked.question.messages,
        max_tokens=asked.question.max_tokens,
        answer=asked.text,
        finish_reason=first.finish_reason if first is not None else "",
        tokens=first.tokens if first is not None else None,
        pieces=len(streamed.pieces) if streamed is not None else 0,
        first_token_s=streamed.first_token_s if streamed is not None else None,
        total_s=first.total_s if first is not None else None,
        ways=said if len(set(said.values())) > 1 else {},
        reference=asked.expected.answer if asked.expected is not None else None,
        matched=matched[0] if matched is not None else None,
        of=matched[1] if matched is not None else None,
    )


def compare(expected: ReferenceAnswer, served: str | None, encode: Encoder | None) -> tuple[int, int] | None:
    """Tokens that agree, and tokens of the reference; None if there is no tokenizer and the texts differ.

    The same text always agrees fully. Tokens that a model generated need not be what a tokenizer makes of their text, so
    both texts are compared as the tokenizer would write them.
    """
    if served is None:
        return 0, len(expected.tokens)
    if served == expected.answer:
        return len(expected.tokens), len(expected.tokens)
    if encode is None:
        return None
    return agreement(encode(expected.answer), encode(served))


def encoder_of(repository: Path) -> Encoder | None:
    """The served model's own tokenizer, without special tokens."""
    path = next(iter(sorted(repository.glob("**/tokenizer.json"))), None)
    if path is None:
        return None
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    tokenizer = Tokenizer.from_file(str(path))
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def _total_agreement(prompts: Sequence[PromptResult]) -> tuple[int, int] | None:
    compared = [p for p in prompts if p.reference is not None]
    if not compared or any(p.matched is None for p in compared):
        return None
    return sum(p.matched or 0 for p in compared), sum(p.of or 0 for p in compared)


def _limits(load: Load | None) -> dict[str, float]:
    if load is None:
        return {}
    named = ("max_first_token_ms", "min_tokens_per_second", "min_requests_per_second")
    return {name: value for name in named if (value := getattr(load, name)) is not None}


def _reference_facts(reference: Reference | None) -> dict[str, object] | None:
    if reference is None:
        return None
    return {"source": reference.source, "revision": reference.revision, "made_with": dict(reference.made_with)}


# Words ----------------------------------------------------------------------------------------------------------------


def difference(prompt: PromptResult) -> str:
    """Where an answer leaves its reference."""
    if prompt.answer is None or prompt.reference is None:
        return "no answer"
    at = next(
        (i for i, (a, b) in enumerate(zip(prompt.answer, prompt.reference, strict=False)) if a != b),
        min(len(prompt.answer), len(prompt.reference)),
    )
    return f"from character {at}: {shortened(prompt.answer[at:])} instead of {shortened(prompt.reference[at:])}"


def shortened(text: str, limit: int = 80) -> str:
    """A text in quotes, cut to a readable length."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
