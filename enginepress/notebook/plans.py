"""What `ep.plan` gives: what a recipe takes, with bars for memory; or the recipe on every GPU that is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from enginepress.engines.fit.cpu_plan import CpuPlan
from enginepress.notebook import html
from enginepress.quantities import memory_text
from enginepress.report.html import safe_text
from enginepress.report.plan_rows import file_section, plan_sections

if TYPE_CHECKING:
    from enginepress.engines.fit import FitPlan
    from enginepress.errors import EnginepressError
    from enginepress.steps.plan import GpuRow, PlanReport


class Plan:
    """What a recipe takes, and whether it fits.

    Attributes:
        report: everything that is known, with `to_json`.
    """

    def __init__(self, report: PlanReport) -> None:
        self.report = report

    @property
    def fits(self) -> bool:
        return self.report.refusal is None

    @property
    def refusal(self) -> EnginepressError | None:
        """Why it does not fit, with the smallest changes that do; None if it fits."""
        return self.report.refusal

    def to_json(self) -> dict[str, Any]:
        return self.report.to_json()

    def __repr__(self) -> str:
        rows = [row for section in self._sections() for row in section]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f"{self.report.recipe.name}  {self.report.recipe.source.uri}"]
        lines += [f"{name:<{widths[0]}}  {much:<{widths[1]}}  {note}".rstrip() for name, much, note in rows]
        lines += [f"note: {note}" for note in self._notes()]
        refusal = self.refusal
        lines.append("fits" if refusal is None else f"does not fit: {refusal}\nnext: {refusal.fix}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        recipe, refusal = self.report.recipe, self.refusal
        mark, colour = ("fits", html.GREEN) if refusal is None else ("does not fit", html.RED)
        parts = [html.title(recipe.name, recipe.source.uri, mark, colour), _memory(self.report)]
        if refusal is not None:
            parts += [html.head("Why not, and what would do"), html.block(f"{refusal}\n{refusal.fix or ''}".strip())]
        rows: list[tuple[str, ...]] = []
        ruled: set[int] = set()
        for section in self._sections():
            ruled.add(len(rows))
            rows += [(safe_text(name), safe_text(much), html.soft(note)) for name, much, note in section]
        parts.append(html.head("What it takes"))
        parts.append(html.table(rows, ruled=frozenset(ruled - {0})))
        parts += [f'<div style="margin-top:6px">{html.coloured("note: ", html.AMBER)}{safe_text(n)}</div>' for n in self._notes()]
        if self.report.commands:
            parts += [html.head("Commands of the build"), html.block("\n".join(self.report.commands))]
        return html.card(*parts)

    def _sections(self) -> list[list[tuple[str, str, str]]]:
        *sections, last = plan_sections(self.report.plan)
        return [*sections, [*last, *file_section(self.report.seen)]]

    def _notes(self) -> Sequence[str]:
        return () if isinstance(self.report.plan, CpuPlan) else self.report.plan.notes


def _memory(report: PlanReport) -> str:
    return _cpu_memory(report.plan) if isinstance(report.plan, CpuPlan) else _gpu_memory(report.plan)


def _gpu_memory(plan: FitPlan) -> str:
    """The GPU that has most to hold: what lies in its memory."""
    cache = max(0, plan.cache_pool)
    parts = [
        ("weights", plan.weights.rank, html.BLUE),
        ("activations", plan.activations, html.AMBER),
        ("overhead", plan.overhead, html.GREY),
        ("KV cache", cache, html.GREEN),
    ]
    each = f"each of {plan.world_size} GPUs" if plan.world_size > 1 else "the GPU"
    words = f"Memory of {each}: {memory_text(plan.memory)}, {plan.gpu.name}"
    return html.head(words) + html.stacked([(n, size, memory_text(size), c) for n, size, c in parts], plan.memory)


def _cpu_memory(plan: CpuPlan) -> str:
    rest = max(0, plan.serve_memory - plan.engine - plan.cache)
    parts = [("engine", plan.engine, html.BLUE), ("KV cache", plan.cache, html.GREEN), ("process", rest, html.GREY)]
    words = f"Memory to serve: {memory_text(plan.serve_memory)}, an estimate; to build: {memory_text(plan.build_memory)}"
    return html.head(words) + html.stacked([(n, size, memory_text(size), c) for n, size, c in parts], plan.serve_memory)


class Comparison:
    """A recipe on every GPU that is known, in the order of their memory. A sequence of `rows`."""

    def __init__(self, name: str, rows: Sequence[GpuRow]) -> None:
        self.name = name
        self.rows = tuple(rows)

    def __repr__(self) -> str:
        width = max(len(row.gpu.name) for row in self.rows)
        lines = []
        for row in self.rows:
            said = (
                f"fits, {row.plan.full_requests} of {row.plan.batch} full requests"
                if row.plan.fits
                else row.plan.problems[0].message
            )
            lines.append(f"{row.gpu.name:<{width}}  {memory_text(row.gpu.memory_bytes):>11}  {said}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = []
        for row in self.rows:
            plan = row.plan
            used = (plan.weights.rank + plan.activations + plan.overhead) / max(1, row.gpu.memory_bytes)
            colour = html.GREEN if plan.fits else html.RED
            rows.append(
                (
                    safe_text(row.gpu.name),
                    html.soft(memory_text(row.gpu.memory_bytes)),
                    html.small_bar(used, html.BLUE if plan.fits else html.RED),
                    html.coloured("fits" if plan.fits else "no", colour),
                    safe_text(f"{plan.full_requests} of {plan.batch}" if plan.fits else ""),
                    html.soft("" if plan.fits else plan.problems[0].message),
                )
            )
        heads = ("GPU", "memory", "taken before the KV cache", "", "full requests", "why not")
        return html.card(html.title(self.name, "on every GPU that is known"), html.table(rows, heads))
