"""The report of one gate as the steps know it: what was built, what validation and gate found, whether it passed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginepress.report import write_report_files
from enginepress.serving.gate_result import GateResult


@dataclass(frozen=True)
class Report:
    """One gate.

    Attributes:
        facts: what was built, from what, with what, and how long each step took.
        validation: the offline findings (`repository.validate`).
        gate: what the served model showed; None if it was not, or could not be, served.
        error: why it could not be served (`EnginepressError.to_json`).
        served: whether the recipe wants it served.
    """

    facts: Mapping[str, Any]
    validation: Mapping[str, Any]
    gate: GateResult | None
    error: Mapping[str, Any] | None
    served: bool

    @property
    def passed(self) -> bool:
        if not self.validation["ok"] or self.error is not None:
            return False
        return self.gate.passed if self.gate is not None else not self.served

    @property
    def failure(self) -> str:
        """Everything that failed, in words; empty if nothing did."""
        if not self.validation["ok"]:
            errors = [f for f in self.validation["findings"] if f["severity"] == "error"]
            return "the model repository is not valid: " + "; ".join(f"{f['file']}: {f['message']}" for f in errors)
        if self.error is not None:
            where = f"{self.error['where']}: " if self.error.get("where") else ""
            return f"could not be served: {where}{self.error['message']}"
        if self.gate is not None and not self.gate.passed:
            failed = self.gate.failed_checks
            listed = [f"{c.name}: {c.measured}, wanted {c.wanted}{'. ' + c.detail if c.detail else ''}" for c in failed]
            verdict = f"{len(failed)} of {len(self.gate.checks)} checks failed:"
            return f"{verdict} {listed[0]}" if len(listed) == 1 else "\n  ".join([verdict, *listed])
        return ""

    def metrics(self) -> dict[str, float]:
        """The numbers that a registry keeps."""
        if self.gate is None:
            return {}
        found = {"ready_s": self.gate.ready_s, "gate_s": self.gate.seconds, "checks": float(len(self.gate.checks))}
        if self.gate.agreement is not None and self.gate.agreement[1]:
            found["agreement"] = self.gate.agreement[0] / self.gate.agreement[1]
        if self.gate.load is not None:
            found |= {k: float(v) for k, v in self.gate.load.to_json().items() if isinstance(v, (int, float))}
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "failure": self.failure,
            "facts": dict(self.facts),
            "validation": dict(self.validation),
            "gate": self.gate.to_json() if self.gate is not None else None,
            "error": dict(self.error) if self.error is not None else None,
            "served": self.served,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Report:
        gate = GateResult.from_json(data["gate"]) if data["gate"] is not None else None
        return Report(data["facts"], data["validation"], gate, data["error"], data["served"])


def write_report(report: Report, folder: Path) -> list[Path]:
    """Writes report.json, report.md and report.html; returns them."""
    return write_report_files(report.to_json(), folder)
