"""What is known of revisions that cannot change: kept, so that asking again costs no request.

    cache/<kind>/<sha256 of what was asked, the revision's id>.json      a Revision as JSON

Only a cache: a file that is damaged or cannot be written costs requests, no more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from enginepress.canonical import json_digest
from enginepress.files import write_atomic
from enginepress.sources import Revision

_FORMAT = 1


class RevisionCache:
    """The revisions of one source.

    Args:
        folder: where the cache lies, or None for none.
        kind: folder in it.
        asked: everything beside the revision's id that decides what the revision holds: server, name, choices. JSON values.
    """

    def __init__(self, folder: Path | None, kind: str, asked: Sequence[Any]) -> None:
        self._folder = folder / kind if folder is not None else None
        self._asked = list(asked)

    def find(self, identity: str) -> Revision | None:
        """The revision of this id, or what it was kept as, if it is known."""
        path = self._path(identity)
        try:
            return Revision.from_json(json.loads(path.read_bytes())) if path is not None else None
        except (OSError, ValueError, KeyError, TypeError, StopIteration):
            return None

    def keep(self, revision: Revision, *, known_as: str | None = None) -> None:
        """Args:
        known_as: what to find it by, where its id does not tell all.
        """
        path = self._path(known_as or revision.id)
        try:
            if path is not None:
                write_atomic(path, json.dumps(revision.to_json()))
        except OSError:
            pass

    def _path(self, identity: str) -> Path | None:
        return self._folder / f"{json_digest([_FORMAT, *self._asked, identity])}.json" if self._folder is not None else None
