"""What the readers of a channel see, compared with the release: a config that was edited by hand in an activation is found.

What Triton's Python writes beside a served `model.py` is no such edit: every channel that was ever served has it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from enginepress.errors import RepositoryError
from enginepress.files import hash_file
from enginepress.manifest import Manifest
from enginepress.repository.place import unplaced_files
from enginepress.stores.store import Store

_COMPILED = re.compile(r"(?P<folder>.+/)__pycache__/(?P<module>[^/]+)\.cpython-\d+(?:\.opt-\d)?\.pyc")


def view_troubles(store: Store, model: str, channel: str, number: int) -> Iterator[str]:
    """Where what the readers of a channel see is not the release that it names. Nothing, where readers pull.

    Raises:
        StoreError: if there is no such release, or its manifest is damaged.
    """
    followed = store.channel_path(model, channel)
    repository = store.repository(model, number)
    if followed is not None and repository is not None:
        yield from _compared(Path(os.path.realpath(followed)), repository, store.manifest(model, number))


def _compared(activation: Path, repository: Path, manifest: Manifest) -> Iterator[str]:
    """Where what readers of a channel see is not the release."""
    digests = {entry.path: entry.sha256 for entry in manifest.files}
    try:
        seen, wanted = unplaced_files(activation), unplaced_files(repository)
        here, there = {*seen.written, *seen.linked}, {*wanted.written, *wanted.linked}
        for path in sorted(here ^ there):
            if path in there:
                yield f"{path} is missing"
            elif not _is_compiled(path, there):
                yield f"{path} does not belong to the release"
        for path, text in sorted(wanted.written.items()):
            if seen.written.get(path, text) != text:
                yield f"{path} is not that of the release"
        for path, source in sorted(wanted.linked.items()):
            shown = seen.linked.get(path)
            if shown is None or os.path.samefile(shown, source):
                continue
            if hash_file(shown) != digests[source.relative_to(repository).as_posix()]:
                yield f"{path} is not that of the release"
    except RepositoryError as error:
        yield f"what its readers see is no repository: {error}"
    except OSError as error:
        yield f"what its readers see cannot be read: {error}"


def _is_compiled(path: str, files: set[str]) -> bool:
    """Whether Python wrote this file when it loaded one of the release's."""
    match = _COMPILED.fullmatch(path)
    return match is not None and f"{match['folder']}{match['module']}.py" in files
