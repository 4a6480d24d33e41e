"""What a gate found, as data that travels as JSON.

{"passed": false, "model": "tiny-llama", "server_version": "2.51.0", "ready_s": 0.9, "seconds": 7.2,
 "content_digest": "…", "reference": {"source": …, "revision": …, "made_with": …} | null, "live": "",
 "agreement": {"matched": 159, "of": 160} | null,
 "checks": [{"name": …, "passed": …, "measured": …, "wanted": …, "detail": …}],
 "prompts": [{"text": …, "messages": …, "answer": …, "reference": …, …}],
 "limits": {"max_first_token_ms": 50, …}, "load": {…} | null}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from enginepress.serving.load import LoadResult


@dataclass(frozen=True)
class CheckResult:
    """One thing that was held against the recipe. `measured` and `wanted` are for people; `detail` says what was wrong."""

    name: str
    passed: bool
    measured: str
    wanted: str
    detail: str = ""


@dataclass(frozen=True)
class PromptResult:
    """One prompt and what was answered.

    Attributes:
        answer: the text, or None if nobody could answer it.
        ways: way of asking -> text, or "error: …"; only if they did not all say the same.
        reference: the text to compare with, or None.
        matched, of: tokens that agree with the reference, and how many it has; None without one or without a tokenizer.
    """

    text: str | None
    messages: tuple[Mapping[str, str], ...] | None
    max_tokens: int
    answer: str | None
    finish_reason: str
    tokens: int | None
    pieces: int
    first_token_s: float | None
    total_s: float | None
    ways: Mapping[str, str]
    reference: str | None = None
    matched: int | None = None
    of: int | None = None


@dataclass(frozen=True)
class GateResult:
    """Everything that a gate measured, and each check that it made.

    Attributes:
        reference: where the reference came from, or None for no reference.
        live: said by the caller about the reference, e.g. that it is what a live release answers.
        limits: the recipe's limits for speed, those that it sets.
        agreement: tokens that agree and tokens of the reference, over all prompts; None if they were not compared.
    """

    model: str
    server_version: str
    ready_s: float
    seconds: float
    content_digest: str
    reference: Mapping[str, Any] | None
    live: str
    agreement: tuple[int, int] | None
    checks: tuple[CheckResult, ...]
    prompts: tuple[PromptResult, ...]
    load: LoadResult | None
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failed_checks(self) -> tuple[CheckResult, ...]:
        return tuple(check for check in self.checks if not check.passed)

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "model": self.model,
            "server_version": self.server_version,
            "ready_s": round(self.ready_s, 3),
            "seconds": round(self.seconds, 3),
            "content_digest": self.content_digest,
            "reference": None if self.reference is None else dict(self.reference),
            "live": self.live,
            "agreement": None if self.agreement is None else {"matched": self.agreement[0], "of": self.agreement[1]},
            "checks": [asdict(check) for check in self.checks],
            "prompts": [_prompt_json(prompt) for prompt in self.prompts],
            "limits": dict(self.limits),
            "load": None if self.load is None else self.load.to_json(),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> GateResult:
        agreement = data["agreement"]
        return GateResult(
            model=data["model"],
            server_version=data["server_version"],
            ready_s=data["ready_s"],
            seconds=data["seconds"],
            content_digest=data["content_digest"],
            reference=data["reference"],
            live=data["live"],
            agreement=None if agreement is None else (agreement["matched"], agreement["of"]),
            checks=tuple(CheckResult(**check) for check in data["checks"]),
            prompts=tuple(_prompt_from_json(prompt) for prompt in data["prompts"]),
            load=None if data["load"] is None else LoadResult.from_json(data["load"]),
            limits=data["limits"],
        )


def percent(share: float) -> str:
    """A share in percent, rounded down, so that only all of it reads as 100."""
    return "100 %" if share >= 1 else f"{int(round(share * 1000, 6)) / 10:.1f} %"


def _prompt_json(prompt: PromptResult) -> dict[str, Any]:
    messages = None if prompt.messages is None else [dict(m) for m in prompt.messages]
    return {**prompt.__dict__, "messages": messages, "ways": dict(prompt.ways)}


def _prompt_from_json(data: Mapping[str, Any]) -> PromptResult:
    messages = None if data["messages"] is None else tuple(data["messages"])
    return PromptResult(**{**data, "messages": messages})
