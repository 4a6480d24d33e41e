"""What `ep.releases`, `ep.promote` and `ep.rollback` give: the releases of a model, and which channel is where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from enginepress.notebook import html
from enginepress.report.html import safe_text

if TYPE_CHECKING:
    from enginepress.steps.overview import ReleaseRow


class Releases(Sequence["ReleaseRow"]):
    """Releases, oldest first.

    Attributes:
        name: of the model.
        store: where they were read.
        said: what has just been done, or empty.
    """

    def __init__(self, name: str, store: str, rows: Sequence[ReleaseRow], said: str = "") -> None:
        self.name = name
        self.store = store
        self.said = said
        self._rows = tuple(rows)

    @property
    def channels(self) -> dict[str, int]:
        """Channel to release number."""
        return {channel: row.release for row in self._rows for channel in row.channels}

    def to_json(self) -> list[dict[str, Any]]:
        return [row.to_json() for row in self._rows]

    @overload
    def __getitem__(self, index: int) -> ReleaseRow: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ReleaseRow, ...]: ...
    def __getitem__(self, index: int | slice) -> ReleaseRow | tuple[ReleaseRow, ...]:
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        lines = [self.said] if self.said else []
        if not self._rows:
            lines.append(f"{self.name}: no releases yet")
        for row in self._rows:
            engine = f"{row.builder} {row.precision}".strip()
            channels = ", ".join(row.channels) or "-"
            lines.append(
                f"{self.name} release {row.release}  {channels}  {_gate(row)}  {engine}  {row.created}  {row.revision[:12]}"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = []
        for row in reversed(self._rows):
            pills = "".join(html.pill(c, html.GREEN if c == "production" else html.BLUE) for c in row.channels)
            good = row.gated and not row.damage
            rows.append(
                (
                    f"<b>{row.release}</b>",
                    pills or html.soft("-"),
                    html.coloured(_gate(row), html.GREEN if good else html.RED if row.damage else html.AMBER),
                    safe_text(f"version {row.model_version}" if row.model_version else "not registered"),
                    safe_text(f"{row.builder} {row.precision}"),
                    html.soft(row.created.replace("T", " ").replace("Z", " UTC")),
                    html.code(row.revision[:12]) if row.revision else "",
                )
            )
        heads = ("release", "channels", "gate", "MLflow", "engine", "created", "revision")
        said = f'<div style="margin-bottom:8px">{safe_text(self.said)}</div>' if self.said else ""
        body = html.table(rows, heads) if rows else html.soft("no releases yet")
        return html.card(html.title(self.name, self.store), said, body)


def _gate(row: ReleaseRow) -> str:
    return "damaged" if row.damage else "passed" if row.gated else "not gated"
