"""Whole checkpoints: several files at once, kept when killed, checked as a whole."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import SourceError, WorkspaceError
from enginepress.files import FileEntry, content_digest, hash_folder
from enginepress.recipe import Source
from enginepress.sources import CheckpointSource, Digest, RemoteFile, Revision
from enginepress.sources.download import download_checkpoint
from enginepress.sources.huggingface import HuggingFaceSource
from enginepress.sources.model_config import read_model_config
from enginepress.sources.open import open_source
from enginepress.sources.transfer.partial import Record
from tests.sources.hub_server import Fault, HubServer
from tests.sources.tiny import checkpoint, write

REPO = "org/tiny"


def _source() -> HuggingFaceSource:
    return HuggingFaceSource(REPO, pauses=(0.01, 0.01))


def _download(source: CheckpointSource, folder: Path, revision: Revision | None = None) -> tuple[FileEntry, ...]:
    """Into `folder/output`, which is made anew, as the workspace does it."""
    output = folder / "output"
    for left in output.glob("*") if output.exists() else ():
        left.unlink()
    output.mkdir(parents=True, exist_ok=True)
    return download_checkpoint(
        source,
        revision or source.resolve(),
        output,
        partial_store=folder / "store",
        progress=lambda path, done, size: None,
        pauses=(0.01, 0.01),
    )


def _kept(folder: Path) -> list[Path]:
    return list((folder / "store").iterdir())


def test_a_checkpoint_of_a_hub_lies_on_disk_as_it_is_there(hub: HubServer, tmp_path: Path) -> None:
    files = checkpoint(shards=3)
    hub.add_repo(REPO, files)
    entries = _download(_source(), tmp_path)
    on_disk = {p.name: p.read_bytes() for p in (tmp_path / "output").iterdir()}
    assert on_disk == {p: b for p, b in files.items() if p not in ("README.md", ".gitattributes")}
    assert entries == hash_folder(tmp_path / "output")
    assert _kept(tmp_path) == []


def test_a_folder_and_a_hub_with_the_same_bytes_give_the_same_checkpoint(hub: HubServer, tmp_path: Path) -> None:
    files = checkpoint(shards=2)
    hub.add_repo(REPO, files)
    folder = write(tmp_path / "m", files)
    local = _download(open_source(Source(uri=f"file://{folder}"), cache=None), tmp_path / "a")
    assert content_digest(local) == content_digest(_download(_source(), tmp_path / "b"))


def test_what_is_in_the_output_is_no_link_into_the_source_folder(tmp_path: Path) -> None:
    files = checkpoint()
    folder = write(tmp_path / "m", files)
    _download(open_source(Source(uri=f"file://{folder}"), cache=None), tmp_path / "a")
    (folder / "model.safetensors").write_bytes(b"overwritten in place")
    assert (tmp_path / "a" / "output" / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_progress_reaches_every_files_size_and_never_goes_back(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, checkpoint(shards=3, size=300_000))
    source = _source()
    revision = source.resolve()
    hub.faults.append(Fault("model-00001*", cut_after=100_000))
    seen: dict[str, list[int]] = {}
    (tmp_path / "output").mkdir()
    download_checkpoint(
        source,
        revision,
        tmp_path / "output",
        partial_store=tmp_path / "store",
        progress=lambda path, done, size: seen.setdefault(path, []).append(done),
    )
    assert {path: counts[-1] for path, counts in seen.items()} == {f.path: f.size for f in revision.files}
    assert all(counts == sorted(counts) for counts in seen.values())


def test_files_that_are_complete_are_not_fetched_again_after_a_failure(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, checkpoint(shards=3))
    broken = "model-00002-of-00003.safetensors"
    hub.faults.append(Fault(broken, status=503, delay=0.3, times=-1))
    with pytest.raises(SourceError, match="status 503") as caught:
        _download(_source(), tmp_path)
    assert (caught.value.where or "").endswith(broken)
    assert not [p for p in _kept(tmp_path) if p.suffix == ".part"]
    hub.faults.clear()
    hub.requests.clear()
    source = _source()
    _download(source, tmp_path)
    asked = [path for path in hub.downloads() if path.endswith(".safetensors")]
    assert asked == [broken]


KILLED = """
import sys
from pathlib import Path
from typing import Any
from enginepress.recipe import Source
from enginepress.sources.download import download_checkpoint
from enginepress.sources.model_config import read_model_config
from enginepress.sources.open import open_source

folder = Path(sys.argv[1])
source = open_source(Source(uri="hf://org/tiny"), cache=None)
(folder / "output").mkdir()
print("started", flush=True)
download_checkpoint(source, source.resolve(), folder / "output", partial_store=folder / "store", progress=lambda *a: None)
"""


def test_a_killed_download_fetches_only_unfinished_files_again(hub: HubServer, tmp_path: Path) -> None:
    files = checkpoint(shards=3, size=400_000)
    hub.add_repo(REPO, files)
    slow = "model-00003-of-00003.safetensors"
    hub.faults.append(Fault(slow, pause=60, times=1))
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        wanted = len(_source().resolve().files) - 1
        deadline = time.monotonic() + 60
        while not (tmp_path / "store").exists() or sum(p.suffix != ".part" for p in _kept(tmp_path)) < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
    assert [p for p in _kept(tmp_path) if p.suffix == ".part"]
    hub.requests.clear()
    entries = _download(_source(), tmp_path)
    assert hub.downloads() == ["model.safetensors.index.json", slow]  # the index is also read to resolve
    assert content_digest(entries) == content_digest(hash_folder(tmp_path / "output"))
    assert _kept(tmp_path) == []


def test_a_kept_file_that_was_damaged_meanwhile_is_fetched_again(hub: HubServer, tmp_path: Path) -> None:
    files = checkpoint()
    hub.add_repo(REPO, files)
    revision = _source().resolve()
    file = next(f for f in revision.files if f.path == "model.safetensors")
    write(tmp_path / "store", {file.digest.value: files["model.safetensors"][:-1] + b"?"})
    _download(_source(), tmp_path)
    assert (tmp_path / "output" / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_files_that_another_checkpoint_left_unfinished_are_let_be(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, checkpoint())
    other = f"{'0' * 64}.{'1' * 16}-abcdef01.part"
    write(tmp_path / "store", {other: b"somebody is writing"})
    _download(_source(), tmp_path)
    assert [p.name for p in _kept(tmp_path)] == [other]


def test_one_flipped_bit_fails_the_whole_download_and_is_not_kept(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, checkpoint(shards=2))
    hub.faults.append(Fault("model-00001*", corrupt_at=-1))
    revision = _source().resolve()
    with pytest.raises(SourceError, match="is not what its source published"):
        _download(_source(), tmp_path)
    bad = next(f.digest.value for f in revision.files if f.path.startswith("model-00001"))
    assert bad not in [p.name for p in _kept(tmp_path)]
    assert list((tmp_path / "output").iterdir()) == []


def test_two_files_with_the_same_bytes_are_fetched_once(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, {**checkpoint(), "special_tokens_map.json": b"{}"})  # generation_config.json is {} as well
    entries = _download(_source(), tmp_path)
    assert (tmp_path / "output" / "special_tokens_map.json").read_bytes() == b"{}"
    assert {"generation_config.json", "special_tokens_map.json"} <= {e.path for e in entries}
    assert len({"generation_config.json", "special_tokens_map.json"} & set(hub.downloads())) == 1


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume as SMB and some FUSE mounts give it."""

    def refuse(source: Path, target: Path, **options: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported", str(source))

    monkeypatch.setattr(os, "link", refuse)


def test_a_volume_without_hard_links_will_do(hub: HubServer, tmp_path: Path, no_links: None) -> None:
    files = {**checkpoint(shards=2), "special_tokens_map.json": b"{}"}
    hub.add_repo(REPO, files)
    for entry in _download(_source(), tmp_path):
        assert (tmp_path / "output" / entry.path).read_bytes() == files[entry.path]
    assert _kept(tmp_path) == []


def test_without_hard_links_complete_files_are_kept_after_a_failure_too(hub: HubServer, tmp_path: Path, no_links: None) -> None:
    hub.add_repo(REPO, checkpoint(shards=3))
    broken = "model-00002-of-00003.safetensors"
    hub.faults.append(Fault(broken, status=503, delay=0.3, times=-1))
    with pytest.raises(SourceError, match="status 503"):
        _download(_source(), tmp_path)
    assert list((tmp_path / "output").iterdir()) == []
    hub.faults.clear()
    hub.requests.clear()
    _download(_source(), tmp_path)
    assert [path for path in hub.downloads() if path.endswith(".safetensors")] == [broken]


def test_a_checkpoint_that_its_source_published_broken_is_refused(hub: HubServer, tmp_path: Path) -> None:
    files = checkpoint(shards=2)
    shard = "model-00002-of-00002.safetensors"
    hub.add_repo(REPO, {**files, shard: files[shard][:-9]})
    with pytest.raises(SourceError, match="truncated") as caught:
        _download(_source(), tmp_path)
    assert (caught.value.where or "").endswith(shard)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "not JSON"),
        (b"\xff", "not JSON"),
        (b"{}", "no 'model'"),
        (b"[]", "no 'model'"),
        (json.dumps({"model": {"type": "Nonsense"}}).encode(), "cannot be loaded by tokenizers"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
    ],
)
def test_a_tokenizer_that_is_none_is_refused_naming_the_file(content: bytes, message: str, tmp_path: Path) -> None:
    if "tokenizers" in message:
        pytest.importorskip("tokenizers", reason="of the onnxruntime extra")
    folder = write(tmp_path / "m", {**checkpoint(), "tokenizer.json": content})
    with pytest.raises(SourceError, match=message) as caught:
        _download(open_source(Source(uri=f"file://{folder}"), cache=None), tmp_path / "a")
    where = (caught.value.where or "").removeprefix("file://")
    assert where == f"{folder}/tokenizer.json", "the file at its source, not the copy that is gone"
    assert caught.value.fix


def test_a_checkpoint_larger_than_the_disk_is_refused_before_anything_is_fetched(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, checkpoint())
    revision = _source().resolve()
    huge = RemoteFile("model.safetensors", 10**16, Digest("sha256", "0" * 64))
    with pytest.raises(WorkspaceError, match=r"10,000\.0 TB are needed, [\d.,]+ .B are free"):
        _download(_source(), tmp_path, Revision(revision.source, revision.id, (*revision.files, huge)))
    assert hub.downloads() == []


def test_a_disk_that_takes_no_more_is_an_error_of_the_workspace(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, checkpoint(size=500_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(WorkspaceError, match="writing the checkpoint failed: File too large"):
            _download(_source(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [p for p in _kept(tmp_path) if p.suffix == ".part"]


def test_a_store_that_cannot_be_made_is_an_error_of_the_workspace(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", checkpoint())
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "store").write_bytes(b"a file stands here")
    with pytest.raises(WorkspaceError, match="writing the checkpoint failed") as caught:
        _download(open_source(Source(uri=f"file://{folder}"), cache=None), tmp_path / "a")
    assert str(tmp_path / "a" / "store") in (caught.value.where or "")


def test_files_are_fetched_several_at_once(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, checkpoint(shards=4))
    hub.faults.append(Fault("model-0000?-of-00004.safetensors", delay=0.5, times=-1))
    source = _source()
    revision = source.resolve()
    start = time.monotonic()
    _download(source, tmp_path, revision)
    assert time.monotonic() - start < 4 * 0.5
    assert os.listdir(tmp_path / "store") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>", "web page"),
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b'{"architectures": "LlamaForCausalLM"}', "architectures that transformers never writes"),
        (b'{"quantization_config": [1]}', "quantization_config that"),
    ],
)
def test_a_config_that_is_none_is_refused_naming_the_file(content: bytes, message: str, hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, {**checkpoint(), "config.json": content})
    with pytest.raises(SourceError, match=message) as caught:
        _download(_source(), tmp_path)
    assert caught.value.where == f"hf://{REPO}/config.json"


def test_a_config_tells_architecture_quantization_and_code_of_its_own(tmp_path: Path) -> None:
    config = {
        "architectures": ["QwenForCausalLM"],
        "model_type": "qwen",
        "quantization_config": {"quant_method": "GPTQ"},
        "auto_map": {"AutoModel": "modeling_x.X", "AutoTokenizer": ["tok.T", None]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_model_config(tmp_path / "config.json").to_json() == {
        "architectures": ["QwenForCausalLM"],
        "model_type": "qwen",
        "quantization": "gptq",
        "code": ["modeling_x.X", "tok.T"],
    }


def test_hundreds_of_files_are_fetched_and_nothing_is_left_in_the_store(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, checkpoint(shards=400, size=100))
    entries = _download(_source(), tmp_path)
    assert len(entries) == 406
    assert _kept(tmp_path) == []


def test_what_a_stopped_download_had_is_kept_while_others_go_on(hub: HubServer, tmp_path: Path) -> None:
    """Ctrl-C while streams are under way: it ends soon, and what had come is there for the next attempt."""
    files = checkpoint(size=30_000_000)
    hub.add_repo(REPO, files)
    hub.faults.append(Fault("model.safetensors", pause=0.02, times=-1))
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    # What the server has sent may still lie in the sockets: only what the record names has come.
    while (recorded := sum(r.spans.total for p in tmp_path.rglob("*.part.json") if (r := Record.read(p)))) < 8_000_000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    start = time.monotonic()
    child.send_signal(signal.SIGINT)
    child.communicate()
    assert time.monotonic() - start < 10
    hub.faults.clear()
    hub.sent.clear()
    _download(_source(), tmp_path)
    assert (tmp_path / "output" / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert hub.sent["model.safetensors"] <= len(files["model.safetensors"]) - recorded / 2


def test_two_checkpoints_that_share_a_file_are_downloaded_at_once(hub: HubServer, tmp_path: Path) -> None:
    """Who ends first removes the shared file from the store; the other has it already, or fetches it again."""
    for name, seed in (("org/a", 1), ("org/b", 2)):
        hub.add_repo(name, checkpoint(size=2_000_000, seed=seed))
    hub.faults.append(Fault("model.safetensors", pause=0.05, times=1))

    def download(name: str) -> None:
        folder = tmp_path / name
        (folder / "output").mkdir(parents=True)
        source = HuggingFaceSource(name)
        download_checkpoint(
            source, source.resolve(), folder / "output", partial_store=tmp_path / "store", progress=lambda *_: None
        )

    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(download, "org/a")
        while not any(r.path.startswith("/cdn/") for r in hub.requests):
            time.sleep(0.01)
        pool.submit(download, "org/b").result()
        slow.result()
    assert (tmp_path / "org/a/output/tokenizer.json").read_bytes() == (tmp_path / "org/b/output/tokenizer.json").read_bytes()
    assert [p.name for p in _kept(tmp_path)] == []
