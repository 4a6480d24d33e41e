"""hf:// repositories, from a hub on this machine over real HTTP."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import SourceError, UnsafePathError
from enginepress.recipe import Source
from enginepress.sources import Revision
from enginepress.sources.open import open_source
from tests.sources.fetching import fetch
from tests.sources.hub_server import Fault, HubServer
from tests.sources.tiny import INDEX, checkpoint
from tests.sources.tiny_repo import REPO
from tests.sources.tiny_repo import fetch_file as _fetch
from tests.sources.tiny_repo import open_repo as _open

TOKEN = "hf_thisTokenIsSecret"

# Revisions ------------------------------------------------------------------------------------------------------------


def test_a_branch_a_tag_and_a_commit_resolve_to_their_commit(hub: HubServer) -> None:
    first = hub.add_repo(REPO, checkpoint(seed=1))
    second = hub.commit(REPO, checkpoint(seed=2), branch="next/try", tag="v2")
    assert _open().resolve().id == first
    assert _open("next/try").resolve().id == second
    assert _open("v2").resolve().id == second
    assert _open(first).resolve().id == first
    assert _open("v2").resolve().digest != _open().resolve().digest


def test_the_revision_has_the_files_that_a_build_needs_with_sizes_and_digests(hub: HubServer) -> None:
    files = checkpoint(shards=2)
    hub.add_repo(REPO, files)
    revision = _open().resolve()
    assert revision.source == f"hf://{REPO}"
    assert {f.path: f.size for f in revision.files} == {
        p: len(b) for p, b in files.items() if p not in ("README.md", ".gitattributes")
    }
    kinds = {f.path: f.digest.algorithm for f in revision.files}
    assert kinds["config.json"] == "git-sha1"
    assert kinds["model-00001-of-00002.safetensors"] == "sha256"
    assert revision.unused == (".gitattributes", "README.md")
    assert Revision.from_json(revision.to_json()) == revision


def test_a_commit_that_changes_only_what_no_build_needs_is_the_same_revision_digest(hub: HubServer) -> None:
    hub.add_repo(REPO, checkpoint())
    before = _open().resolve()
    hub.commit(REPO, {**checkpoint(), "README.md": b"new"})
    after = _open().resolve()
    assert after.id != before.id
    assert after.digest == before.digest


def test_an_unmoved_branch_costs_one_request_and_a_pinned_commit_none(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.add_repo(REPO, checkpoint(shards=3))
    first = _open(cache=tmp_path).resolve()
    hub.requests.clear()
    assert _open(cache=tmp_path).resolve() == first
    assert [r.path for r in hub.requests] == [f"/api/models/{REPO}/revision/main"]
    hub.requests.clear()
    assert _open(commit, cache=tmp_path).resolve() == first
    assert hub.requests == []


def test_what_the_cache_knows_is_of_one_hub_and_one_choice(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add_repo(REPO, {**checkpoint(), "modeling.py": b"x"})
    _open(commit, cache=tmp_path).resolve()
    trusting = open_source(Source(uri=f"hf://{REPO}@{commit}", trust_remote_code=True), cache=tmp_path).resolve()
    assert "modeling.py" in [f.path for f in trusting.files]
    with HubServer() as other:
        monkeypatch.setenv("HF_ENDPOINT", other.url)
        with pytest.raises(SourceError, match="does not exist"):
            _open(commit, cache=tmp_path).resolve()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"source": 1}'])
def test_a_damaged_cache_is_ignored(content: bytes, hub: HubServer, tmp_path: Path) -> None:
    commit = hub.add_repo(REPO, checkpoint())
    first = _open(commit, cache=tmp_path).resolve()
    (kept,) = tmp_path.rglob("*.json")
    kept.write_bytes(content)
    assert _open(commit, cache=tmp_path).resolve() == first


def test_a_hub_that_publishes_digests_only_in_its_tree_is_asked_for_that(hub: HubServer) -> None:
    hub.add_repo(REPO, checkpoint(shards=2))
    expected = _open().resolve()
    hub.digests = False
    assert _open().resolve() == expected


def test_a_tree_of_several_pages_is_read_to_its_end(hub: HubServer) -> None:
    hub.add_repo(REPO, checkpoint(shards=4))
    expected = _open().resolve()
    hub.digests = False
    hub.page_size = 3
    assert _open().resolve() == expected
    assert sum("/tree/" in r.path for r in hub.requests) >= 3


def test_a_tree_that_goes_on_at_another_server_is_not_followed(hub: HubServer) -> None:
    hub.add_repo(REPO, checkpoint(shards=4))
    hub.digests, hub.page_size, hub.next_page = False, 3, "http://elsewhere.invalid/api/models?cursor=3"
    with pytest.raises(SourceError, match="continues its list on another server"):
        _open().resolve()


@pytest.mark.parametrize("named", [False, True], ids=["HF_TOKEN", "source.token"])
def test_a_token_is_not_sent_in_the_clear(named: bool, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is this machine's, under a name that is not known to be."""
    hub.add_repo(REPO, checkpoint())
    monkeypatch.setenv("HF_ENDPOINT", f"http://hub.corp.example:{hub.port}")
    monkeypatch.setenv("TEAM", TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: real("127.0.0.1", *a, **k))
    source = _open(token="${TEAM}" if named else None)
    if named:
        with pytest.raises(SourceError, match="never sent in the clear"):
            source.resolve()
    else:
        source.resolve()
    assert [r.token for r in hub.requests if r.token] == []


def test_a_server_that_closes_after_each_byte_is_not_asked_for_ever(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, checkpoint(size=6_000_000))
    source = _open()
    revision = source.resolve()
    hub.faults.append(Fault("model.safetensors", cut_after=1, times=-1))
    hub.requests.clear()
    with pytest.raises(SourceError, match="could not be fetched"):
        _fetch(source, revision, "model.safetensors", tmp_path)
    assert len(hub.requests) < 500


def test_a_shard_that_the_index_names_and_the_repository_lacks_is_found_before_any_weight_is_fetched(hub: HubServer) -> None:
    files = checkpoint(shards=3)
    del files["model-00002-of-00003.safetensors"]
    hub.add_repo(REPO, files)
    with pytest.raises(SourceError, match=r"model-00002-of-00003\.safetensors") as caught:
        _open().resolve()
    assert caught.value.where == f"hf://{REPO}@main/{INDEX}"
    assert hub.downloads() == [INDEX]


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../b"])
def test_a_hub_that_lists_a_hostile_path_is_refused(path: str, hub: HubServer) -> None:
    hub.add_repo(REPO, {**checkpoint(), path: b"x"})
    with pytest.raises(UnsafePathError):
        _open().resolve()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "did not answer with JSON"),
        (b"[]", "names no commit"),
        (b"{}", "names no commit"),
        (b'{"sha": "../../x"}', "names no commit"),
        (json.dumps({"sha": "a" * 40}).encode(), "lists no files"),
    ],
)
def test_an_answer_that_is_not_a_hubs_is_refused_naming_the_address(body: bytes, message: str, hub: HubServer) -> None:
    hub.add_repo(REPO, checkpoint())
    hub.faults.append(Fault("/api/*", body=body))
    with pytest.raises(SourceError, match=message) as caught:
        _open().resolve()
    assert (caught.value.where or "").startswith(hub.url)


def test_files_without_digests_are_refused_since_nothing_could_be_verified(hub: HubServer) -> None:
    hub.add_repo(REPO, checkpoint())
    listing = [{"type": "file", "path": "config.json", "size": 2}]
    hub.faults.append(Fault("*/tree/*", body=json.dumps(listing).encode()))
    hub.digests = False
    with pytest.raises(SourceError, match="nothing could be verified"):
        _open().resolve()


def test_another_commit_than_the_pinned_one_is_refused(hub: HubServer) -> None:
    commit = hub.add_repo(REPO, checkpoint())
    hub.faults.append(Fault("/api/*", body=json.dumps({"sha": "a" * 40, "siblings": []}).encode()))
    with pytest.raises(SourceError, match=commit):
        _open(commit).resolve()


# Bytes ----------------------------------------------------------------------------------------------------------------


def test_files_are_read_and_fetched_from_the_pinned_commit_though_the_branch_moved(hub: HubServer, tmp_path: Path) -> None:
    files = checkpoint(seed=1)
    hub.add_repo(REPO, files)
    source = _open()
    revision = source.resolve()
    hub.commit(REPO, checkpoint(seed=2))
    assert source.read(revision, "config.json") == files["config.json"]
    assert _fetch(source, revision, "model.safetensors", tmp_path) == files["model.safetensors"]


@pytest.mark.parametrize("fault", [None, Fault("*.safetensors", cut_after=70_000)], ids=["undisturbed", "cut"])
def test_files_that_xet_keeps_come_through_its_bridge_and_are_verified_by_their_sha256(
    fault: Fault | None, hub: HubServer, tmp_path: Path
) -> None:
    files = checkpoint(size=200_000)
    hub.add_repo(REPO, files, xet=True)
    source = _open()
    revision = source.resolve()
    if fault is not None:
        hub.faults.append(replace(fault))
    assert _fetch(source, revision, "model.safetensors", tmp_path) == files["model.safetensors"]
    assert hub.sent["model.safetensors"] <= 210_000 + (fault is not None) * 70_000
    assert not [r for r in hub.requests if "xet-read-token" in r.path]


def test_a_flipped_bit_in_a_file_that_xet_keeps_is_refused(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, checkpoint(), xet=True)
    source = _open()
    revision = source.resolve()
    hub.faults.append(Fault("*.safetensors", corrupt_at=200, times=-1))
    with pytest.raises(SourceError, match="sha256"):
        _fetch(source, revision, "model.safetensors", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["model.safetensors", "tokenizer.json"])
def test_one_flipped_bit_in_a_body_of_the_right_size_is_refused_naming_file_and_digests(
    path: str, hub: HubServer, tmp_path: Path
) -> None:
    hub.add_repo(REPO, checkpoint())
    source = _open()
    revision = source.resolve()
    hub.faults.append(Fault(path, corrupt_at=-1))
    with pytest.raises(SourceError, match="is not what its source published") as caught:
        _fetch(source, revision, path, tmp_path)
    assert (caught.value.where or "").endswith(path)
    assert next(f for f in revision.files if f.path == path).digest.value in caught.value.message
    assert list(tmp_path.glob("out*")) == []


def test_a_cut_connection_is_resumed_where_it_stopped(hub: HubServer, tmp_path: Path) -> None:
    files = checkpoint(size=500_000)
    hub.add_repo(REPO, files)
    source = _open()
    revision = source.resolve()
    hub.requests.clear()
    hub.faults.append(Fault("model.safetensors", cut_after=200_000, times=2))
    assert _fetch(source, revision, "model.safetensors", tmp_path) == files["model.safetensors"]
    first, *others = [r.range for r in hub.requests if r.path.startswith("/cdn/")]
    assert first is None
    offsets = [int((r or "").removeprefix("bytes=").partition("-")[0]) for r in others]
    # requests, below huggingface_hub 0.x, loses the block of 64 KiB in which the connection broke; httpx loses nothing.
    assert [round(offset / 200_000) for offset in offsets] == [1, 2]


def test_a_server_that_ignores_ranges_is_read_from_the_start(hub: HubServer, tmp_path: Path) -> None:
    files = checkpoint(size=500_000)
    hub.add_repo(REPO, files)
    source = _open()
    revision = source.resolve()
    hub.faults += [Fault("model.safetensors", cut_after=200_000), Fault("model.safetensors", ignore_range=True)]
    assert _fetch(source, revision, "model.safetensors", tmp_path) == files["model.safetensors"]


def test_a_body_that_is_always_short_is_refused(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, checkpoint())
    source = _open()
    revision = source.resolve()
    hub.faults.append(Fault("model.safetensors", short_by=7, times=-1))
    with pytest.raises(SourceError, match="shorter than the size that the hub published"):
        _fetch(source, revision, "model.safetensors", tmp_path)
    assert list(tmp_path.glob("out*")) == []


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_busy_hub_is_asked_again(status: int, hub: HubServer, tmp_path: Path) -> None:
    files = checkpoint()
    hub.add_repo(REPO, files)
    hub.faults += [Fault("/api/*", status=status, times=2), Fault("model.safetensors", status=status, times=2)]
    source = _open()
    assert _fetch(source, source.resolve(), "model.safetensors", tmp_path) == files["model.safetensors"]


@pytest.mark.parametrize("said", [{"retry_after": 1}, {"rate_limit": '"api";r=0;t=0'}], ids=lambda said: next(iter(said)))
def test_the_time_that_a_hub_asks_to_be_left_alone_is_kept(said: dict[str, Any], hub: HubServer) -> None:
    hub.add_repo(REPO, checkpoint())
    hub.faults.append(Fault("/api/*", status=429, **said))
    start = time.monotonic()
    _open().resolve()
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize(("status", "message"), [(503, "status 503"), (429, r"fewer requests \(429\)")])
def test_a_hub_that_stays_busy_is_given_up_naming_its_address(status: int, message: str, hub: HubServer) -> None:
    hub.add_repo(REPO, checkpoint())
    hub.faults.append(Fault("/api/*", status=status, times=-1))
    with pytest.raises(SourceError, match=message) as caught:
        _open().resolve()
    assert (caught.value.where or "").startswith(f"{hub.url}/api/models/{REPO}")


def test_a_disk_that_takes_no_more_is_not_taken_for_a_broken_connection(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, checkpoint(size=500_000))
    source = _open()
    revision = source.resolve()
    hub.requests.clear()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            _fetch(source, revision, "model.safetensors", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert hub.downloads() == ["model.safetensors"]
    assert list(tmp_path.glob("out*")) == []


def test_resolving_asks_by_http_without_importing_the_large_parts_of_huggingface_hub(hub: HubServer) -> None:
    hub.add_repo(REPO, checkpoint())
    script = (
        "import sys\nfrom enginepress.recipe import Source\nfrom enginepress.sources.open import open_source\n"
        f"open_source(Source(uri='hf://{REPO}'), cache=None).resolve()\n"
        "print(sorted(m for m in ('huggingface_hub.hf_api', 'torch', 'numpy', 'hf_xet') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert [r.path for r in hub.requests] == [f"/api/models/{REPO}/revision/main"]


def test_a_large_answer_where_a_small_file_was_expected_is_refused(hub: HubServer) -> None:
    hub.add_repo(REPO, checkpoint())
    source = _open()
    revision = source.resolve()
    data = revision.to_json()
    data["files"] = [{**f, "size": 10**9} if f["path"] == "config.json" else f for f in data["files"]]
    with pytest.raises(SourceError, match="too many for what it should be"):
        source.read(Revision.from_json(data), "config.json")


def test_progress_adds_up_to_the_size(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, checkpoint(size=300_000))
    source = _open()
    revision = source.resolve()
    file = next(f for f in revision.files if f.path == "model.safetensors")
    counts: list[int] = []
    fetch(source, revision, file, tmp_path / "out", progress=counts.append)
    assert sum(counts) == file.size
    assert (tmp_path / "out").stat().st_size == file.size
