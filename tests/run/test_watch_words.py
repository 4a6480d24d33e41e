"""What a watcher says of a recipe that was not built, in one line."""

from __future__ import annotations

from enginepress.run.watch_record import Watched, wrong_text


def test_a_message_of_several_lines_is_put_into_one() -> None:
    error = {
        "message": "2 of 3 checks failed:\n  one: 7, wanted 8\n  two: 1, wanted 2\n",
        "where": "report.html",
        "fix": "open it",
    }
    said = wrong_text(Watched("a.yaml", "tiny", "failed", "failed", error=error))
    assert said == "report.html: 2 of 3 checks failed: one: 7, wanted 8; two: 1, wanted 2; next: open it"
