"""What sources mean now, for one small request each: many at a time, on shared connections, with the ETags of the time before.

cache/latest.json    {<sha256 of source and server>: {"id": …, "etag": …}}
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import enginepress
from enginepress.canonical import json_digest
from enginepress.files import write_atomic
from enginepress.recipe import Recipe, Source
from enginepress.sources import PeekingSource, Revision
from enginepress.sources.open import open_source
from enginepress.sources.transfer import HttpClient
from enginepress.steps.revision import check_digests

S = TypeVar("S")
T = TypeVar("T")


class LatestRevisions:
    """Asks sources, for many threads at a time. A context manager: at its end the answers are kept.

    Args:
        cache: of the workspace.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._http = HttpClient(f"enginepress/{enginepress.__version__}")
        self._before = _read_answers(cache)
        self._kept: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> LatestRevisions:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()
        if any(self._before.get(key) != value for key, value in self._kept.items()):
            _keep_answers(self._cache, {**self._before, **self._kept})

    def for_each(self, items: Iterable[S], ask: Callable[[S], T], *, at_once: int) -> list[T]:
        """What `ask` returns for each, in their order, several at a time. Interrupted, it waits for no server: one may have asked
        to be left alone for minutes."""
        with ThreadPoolExecutor(at_once, thread_name_prefix="asking") as pool:
            try:
                return list(pool.map(ask, items))
            except BaseException:
                self._http.abort()
                raise

    def id(self, source: Source) -> str:
        """The id of what a source's URI means now. Of an NGC model, also one with a version, that is the latest version.

        Raises:
            SourceError: not there, no access, cannot be asked.
        """
        opened = open_source(source, cache=self._cache, http=self._http)
        if not isinstance(opened, PeekingSource):
            return opened.resolve().id
        key = _key(source)
        before = self._before.get(key, {})
        found, etag = opened.latest(before.get("etag"))
        if found is None:
            found = str(before["id"])
        self._kept[key] = {"id": found, "etag": etag}
        return found

    def revision(self, recipe: Recipe) -> Revision:
        """What a source holds now, whatever a lock says, with its files. One small request if nothing has moved.

        Raises:
            SourceError: as `CheckpointSource.resolve`, and if it has not what `source.digests` demands.
        """
        source = recipe.source.model_copy(update={"lock": None})
        if _names_what_moves(source.uri):
            # What an immutable id holds is in the cache; a branch would be asked for with all its files.
            source = source.model_copy(update={"uri": _pinned(source.uri, self.id(source))})
        revision = open_source(source, cache=self._cache, http=self._http).resolve()
        check_digests(recipe, revision)
        return revision


def _names_what_moves(uri: str) -> bool:
    """A branch or tag of a hub, or an NGC model's latest version. A bucket's listing and a folder are read as they are."""
    scheme, _, rest = uri.partition("://")
    if scheme == "hf":
        from enginepress.sources.hub_client import is_offline

        return not is_offline()
    return scheme == "ngc" and (":" not in rest or rest.endswith(":latest"))


def _pinned(uri: str, identity: str) -> str:
    mark = "@" if uri.startswith("hf://") else ":"
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.partition(mark)[0]}{mark}{identity}"


# Answers that are kept ------------------------------------------------------------------------------------------------


def _key(source: Source) -> str:
    servers = [os.environ.get(name, "") for name in ("HF_ENDPOINT", "NGC_CLI_API_URL", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")]
    return json_digest([source.uri, source.token, source.endpoint, *servers])


def _read_answers(cache: Path) -> dict[str, Mapping[str, Any]]:
    try:
        data = json.loads((cache / "latest.json").read_bytes())
        return {k: v for k, v in data.items() if isinstance(v, dict) and isinstance(v.get("id"), str)}
    except (OSError, ValueError, AttributeError):
        return {}


def _keep_answers(cache: Path, answers: Mapping[str, Mapping[str, Any]]) -> None:
    try:
        write_atomic(cache / "latest.json", json.dumps(answers))
    except OSError:
        pass  # A cache that cannot be written costs longer answers next time, no more.
