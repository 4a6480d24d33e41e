"""One file of a source, fetched as a download does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enginepress.sources import CheckpointSource, Progress, RemoteFile, Revision
from enginepress.sources.transfer import Download, PartialStore

QUICK = (0.01, 0.01, 0.01, 0.01)


def fetch(
    source: CheckpointSource,
    revision: Revision,
    file: RemoteFile,
    target: Path,
    *,
    progress: Progress,
    record_bytes: int = 64 * 1024,
    **options: Any,
) -> str:
    """Writes the file to `target`; what is unfinished lies beside it."""
    store = PartialStore(target.parent, record_bytes=record_bytes)
    download = Download(source, revision, store, **{"pauses": QUICK, **options})
    return download.fetch(file, target, progress)
