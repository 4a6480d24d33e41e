"""The hub's tiny repository as a source, for tests."""

from __future__ import annotations

from pathlib import Path

from enginepress.sources import CheckpointSource, Revision
from enginepress.sources.huggingface import HuggingFaceSource
from tests.sources.fetching import fetch

REPO = "org/tiny"
QUICK = (0.01, 0.01, 0.01, 0.01)


def open_repo(
    revision: str = "main", *, cache: Path | None = None, token: str | None = None, repo: str = REPO
) -> HuggingFaceSource:
    return HuggingFaceSource(repo, revision, token_reference=token, cache=cache, pauses=QUICK)


def fetch_file(source: CheckpointSource, revision: Revision, path: str, folder: Path) -> bytes:
    file = next(f for f in revision.files if f.path == path)
    fetch(source, revision, file, folder / "out", progress=lambda count: None)
    return (folder / "out").read_bytes()
