"""From the URI in a recipe to the source that it names. Imports only the source that is asked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from enginepress.errors import SourceError
from enginepress.recipe import Source
from enginepress.sources import CheckpointSource

if TYPE_CHECKING:
    from enginepress.sources.transfer import HttpClient

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_NAME}/{_NAME}")
_REVISION = re.compile(r"[A-Za-z0-9._/+-]+")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_NGC = re.compile(rf"({_NAME})/(?:({_NAME})/)?({_NAME})(?::([A-Za-z0-9_][A-Za-z0-9._+-]{{0,127}}))?")


def open_source(recipe_source: Source, *, cache: Path | None, http: HttpClient | None = None) -> CheckpointSource:
    """The source of a recipe's checkpoint. Asks nobody yet.

    Args:
        cache: folder where a source may keep small things that spare it work, or None to keep nothing.
        http: keeps connections for many sources; each has one of its own otherwise.

    Raises:
        SourceError: if the URI names no source that this version has.
    """
    uri = recipe_source.uri
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return _open_local(recipe_source, rest, cache)
    if scheme == "hf":
        return _open_hub(recipe_source, rest, cache, http)
    if scheme == "ngc":
        return _open_ngc(recipe_source, rest, cache, http)
    if scheme == "s3":
        return _open_s3(recipe_source, rest, cache)
    raise SourceError(
        f"{scheme}:// is no source",
        where=f"source.uri: {uri}",
        fix="use hf://org/name[@revision], ngc://org[/team]/name[:version], s3://bucket/prefix or file:///folder",
    )


def _open_local(source: Source, rest: str, cache: Path | None) -> CheckpointSource:
    from enginepress.sources.local import LocalSource

    folder = Path(rest)
    if not folder.is_absolute():
        raise SourceError(f"{rest!r} is no absolute path", where=f"source.uri: {source.uri}", fix="write file:///folder")
    return LocalSource(
        folder,
        allow_pickle=source.allow_pickle,
        trust_remote_code=source.trust_remote_code,
        link=source.link == "hard",
        cache=cache,
    )


def _open_hub(source: Source, rest: str, cache: Path | None, http: HttpClient | None) -> CheckpointSource:
    from enginepress.sources.hub_cache import HubCacheSource, find_snapshot
    from enginepress.sources.hub_client import is_offline
    from enginepress.sources.huggingface import HuggingFaceSource

    repo, at, revision = rest.partition("@")
    if not _REPO.fullmatch(repo) or "--" in repo or ".." in repo:
        raise SourceError(f"{repo!r} is no repository's name", where=f"source.uri: {source.uri}", fix="write hf://org/name")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise SourceError(
            f"{revision!r} is no revision", where=f"source.uri: {source.uri}", fix="write a branch, tag or commit after the @"
        )
    revision = revision or "main"
    if is_offline() and (snapshot := find_snapshot(repo, _locked(source) or revision)) is not None:
        return HubCacheSource(repo, snapshot, allow_pickle=source.allow_pickle, trust_remote_code=source.trust_remote_code)
    return HuggingFaceSource(
        repo,
        revision,
        token_reference=source.token,
        allow_pickle=source.allow_pickle,
        trust_remote_code=source.trust_remote_code,
        cache=cache,
        http=http,
    )


def _locked(source: Source) -> str | None:
    """The commit that is locked: a branch in the cache may have gone on since."""
    if source.lock is None:
        return None
    from enginepress.lockfile import parse_lock

    return parse_lock(source.lock).revision.id


def _open_ngc(source: Source, rest: str, cache: Path | None, http: HttpClient | None) -> CheckpointSource:
    from enginepress.sources.ngc import NgcSource

    match = _NGC.fullmatch(rest)
    if match is None or ".." in rest:
        raise SourceError(
            f"{rest!r} is no model of NGC",
            where=f"source.uri: {source.uri}",
            fix="write ngc://org/team/name:version, or ngc://org/name:version; without :version the latest is taken",
        )
    return NgcSource(
        match[1],
        match[2],
        match[3],
        match[4] if match[4] != "latest" else None,
        digests=source.digests,
        token_reference=source.token,
        allow_pickle=source.allow_pickle,
        trust_remote_code=source.trust_remote_code,
        cache=cache,
        http=http,
    )


def _open_s3(source: Source, rest: str, cache: Path | None) -> CheckpointSource:
    from enginepress.s3_access import S3Settings
    from enginepress.sources.s3 import S3Source

    bucket, _, prefix = rest.partition("/")
    prefix = prefix.rstrip("/")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or _has_control(prefix) or "//" in f"/{prefix}":
        raise SourceError(
            f"{rest!r} is no bucket and folder in it", where=f"source.uri: {source.uri}", fix="write s3://bucket/folder"
        )
    if source.token is not None:
        raise SourceError(
            "is not for s3://",
            where="source.token",
            fix="leave it out: S3 takes AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what else boto3 finds",
        )
    return S3Source(
        bucket,
        prefix,
        settings=S3Settings(source.endpoint, source.region, source.path_style, source.ca_bundle),
        digests=source.digests,
        allow_pickle=source.allow_pickle,
        trust_remote_code=source.trust_remote_code,
        cache=cache,
    )


def _has_control(text: str) -> bool:
    return any(ord(c) < 32 or ord(c) == 127 for c in text)
