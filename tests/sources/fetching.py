"""One file of a source, fetched as a download does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enginepress.sources import CheckpointSource, Progress, RemoteFile, Revision
from enginepress.sources.transfer import Download, PartialStore

QUICK = (0.01, 0.01, 0.01, 0.01)


def fetch(
    source: CheckpointSource, revision: Revision, file: RemoteFile, target: Path, *, progress: Progress, **options: Any
) -> str:
    """Writes the file to `target`; what is unfinished lies beside it."""
    download = Download(source, revision, PartialStore(target.parent), **{"pauses": QUICK, **options})
    return download.fetch(file, target, progress)
