"""HF_HUB_OFFLINE: a cache that huggingface_hub itself made, verified like the hub's own answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from enginepress.errors import SourceError, UnsafePathError
from enginepress.files import hash_file
from enginepress.lockfile import Lock
from enginepress.recipe import Source
from enginepress.sources import CheckpointSource, Revision
from enginepress.sources.download import download_checkpoint
from enginepress.sources.huggingface import HuggingFaceSource
from enginepress.sources.open import open_source
from tests.sources.hub_server import HubServer
from tests.sources.tiny import checkpoint

REPO = "org/tiny"


@pytest.fixture
def offline(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with `main` and a PR's ref, and no network. Returns the snapshot of `main`."""
    cache = tmp_path / "hub"
    commit = hub.add_repo(REPO, checkpoint(shards=2, seed=1))
    hub.commit(REPO, checkpoint(seed=2), branch="refs/pr/3")
    script = (
        "from huggingface_hub import snapshot_download as get\n"
        f"get({REPO!r}, max_workers=1); get({REPO!r}, revision='refs/pr/3', max_workers=1)"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True)
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return cache / "models--org--tiny" / "snapshots" / commit


def _open(revision: str = "main") -> CheckpointSource:
    return open_source(Source(uri=f"hf://{REPO}@{revision}"), cache=None)


def _download(folder: Path, source: CheckpointSource) -> dict[str, bytes]:
    (folder / "output").mkdir(parents=True)
    download_checkpoint(source, source.resolve(), folder / "output", partial_store=folder / "store", progress=lambda *_: None)
    return {p.name: p.read_bytes() for p in (folder / "output").iterdir()}


@pytest.mark.parametrize("revision", ["main", "refs/pr/3", "commit"])
def test_the_cache_gives_the_revision_that_the_hub_gives(
    revision: str, offline: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = offline.name if revision == "commit" else revision
    found = _open(name).resolve()
    assert hub.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert found == HuggingFaceSource(REPO, name).resolve()


def test_the_files_are_copied_and_not_linked(offline: Path, hub: HubServer, tmp_path: Path) -> None:
    wanted = {p: b for p, b in checkpoint(shards=2, seed=1).items() if p not in ("README.md", ".gitattributes")}
    assert _download(tmp_path / "a", _open()) == wanted
    assert not any(p.is_symlink() for p in (tmp_path / "a" / "output").iterdir())
    assert hub.requests == []


@pytest.mark.parametrize("path", ["model-00002-of-00002.safetensors", "tokenizer.json", "config.json"])
def test_one_flipped_bit_in_the_cache_is_refused(path: str, offline: Path, tmp_path: Path) -> None:
    blob = (offline / path).resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    with pytest.raises(SourceError, match="is damaged in the cache of huggingface_hub"):
        _download(tmp_path / "a", _open())
    assert list((tmp_path / "a" / "output").iterdir()) == []


def test_a_file_whose_digest_nobody_knows_is_refused(offline: Path) -> None:
    data = (offline / "config.json").read_bytes()
    (offline / "config.json").unlink()
    (offline / "config.json").write_bytes(data)
    with pytest.raises(SourceError, match="plain file") as caught:
        _open().resolve()
    assert "file://" in (caught.value.fix or "")


def test_a_link_out_of_the_cache_is_not_followed(offline: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"{}")
    (offline / "config.json").unlink()
    (offline / "config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafePathError):
        _open().resolve()


def test_what_is_not_in_the_cache_is_said_to_be_so(offline: Path) -> None:
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE is set, and its cache does not have this"):
        _open("v9").resolve()


@pytest.mark.parametrize("moved", [False, True], ids=["only the locked one", "main has gone on"])
def test_offline_the_locked_commit_is_taken_wherever_the_branch_is_now(offline: Path, moved: bool) -> None:
    locked = _open().resolve()
    lock = Lock(f"hf://{REPO}@main", {"allow_pickle": False, "trust_remote_code": False}, locked, _sha256(offline, locked))
    ref = offline.parent.parent / "refs" / "main"
    if moved:
        ref.write_text((offline.parent.parent / "refs" / "refs" / "pr" / "3").read_text())
    else:
        ref.unlink()
    source = open_source(Source(uri=f"hf://{REPO}@main", lock=lock.to_json()), cache=None)
    assert source.read(locked, "config.json") == (offline / "config.json").read_bytes()


def _sha256(snapshot: Path, revision: Revision) -> dict[str, str]:
    return {file.path: hash_file(snapshot / file.path) for file in revision.files}
