"""From the URI in a recipe to the source that it names. Imports only the source that is asked for."""

from __future__ import annotations

import re
from pathlib import Path

from enginepress.errors import SourceError
from enginepress.recipe import Source
from enginepress.sources import CheckpointSource

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_NAME}/{_NAME}")
_REVISION = re.compile(r"[A-Za-z0-9._/+-]+")


def open_source(recipe_source: Source, *, cache: Path | None) -> CheckpointSource:
    """The source of a recipe's checkpoint. Asks nobody yet.

    Args:
        cache: folder where a source may keep small things that spare it work, or None to keep nothing.

    Raises:
        SourceError: if the URI names no source that this version has.
    """
    uri = recipe_source.uri
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return _open_local(recipe_source, rest, cache)
    if scheme == "hf":
        return _open_hub(recipe_source, rest, cache)
    raise SourceError(
        f"{scheme}:// is not available in this version" if scheme in ("ngc", "s3") else f"{scheme}:// is no source",
        where=f"source.uri: {uri}",
        fix="use hf://org/name[@revision], or copy the checkpoint into a folder and use file:///folder",
    )


def _open_local(source: Source, rest: str, cache: Path | None) -> CheckpointSource:
    from enginepress.sources.local import LocalSource

    folder = Path(rest)
    if not folder.is_absolute():
        raise SourceError(f"{rest!r} is no absolute path", where=f"source.uri: {source.uri}", fix="write file:///folder")
    return LocalSource(folder, allow_pickle=source.allow_pickle, trust_remote_code=source.trust_remote_code, cache=cache)


def _open_hub(source: Source, rest: str, cache: Path | None) -> CheckpointSource:
    from enginepress.sources.huggingface import HuggingFaceSource

    repo, at, revision = rest.partition("@")
    if not _REPO.fullmatch(repo) or "--" in repo or ".." in repo:
        raise SourceError(f"{repo!r} is no repository's name", where=f"source.uri: {source.uri}", fix="write hf://org/name")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise SourceError(
            f"{revision!r} is no revision", where=f"source.uri: {source.uri}", fix="write a branch, tag or commit after the @"
        )
    return HuggingFaceSource(
        repo,
        revision or "main",
        token_reference=source.token,
        allow_pickle=source.allow_pickle,
        trust_remote_code=source.trust_remote_code,
        cache=cache,
    )
