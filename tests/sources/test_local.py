"""file:// folders: identified by their bytes, hashed once, copied and compared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from enginepress.errors import SourceError, UnsafePathError
from enginepress.files import hash_file
from enginepress.recipe import Source
from enginepress.sources import CheckpointSource, Revision, local
from enginepress.sources.open import open_source
from tests.sources.fetching import fetch
from tests.sources.tiny import INDEX, checkpoint, write


def _open(folder: Path, cache: Path | None = None) -> CheckpointSource:
    return open_source(Source(uri=f"file://{folder}"), cache=cache)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were just written count as settled, so that a test need not wait until their hashes are kept."""
    monkeypatch.setattr(local, "SETTLED_SECONDS", 0.0)


def test_the_same_bytes_in_two_folders_are_one_revision(tmp_path: Path) -> None:
    a = _open(write(tmp_path / "a", checkpoint())).resolve()
    b = _open(write(tmp_path / "b", {**checkpoint(), "README.md": b"other"})).resolve()
    assert a.digest == b.digest == a.id
    assert a.source == f"file://{tmp_path / 'a'}"
    assert "README.md" in a.unused


def test_one_changed_bit_is_another_revision(tmp_path: Path) -> None:
    files = checkpoint()
    before = _open(write(tmp_path, files)).resolve()
    weights = files["model.safetensors"]
    write(tmp_path, {"model.safetensors": weights[:-1] + bytes([weights[-1] ^ 1])})
    assert _open(tmp_path).resolve().digest != before.digest


def test_a_revision_survives_being_written_as_json(tmp_path: Path) -> None:
    revision = _open(write(tmp_path, checkpoint(shards=2))).resolve()
    assert Revision.from_json(revision.to_json()) == revision


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, settled: None) -> None:
    folder, cache = write(tmp_path / "m", checkpoint()), tmp_path / "cache"
    first = _open(folder, cache).resolve()
    (kept,) = cache.rglob("*.json")
    weights = next(f for f in first.files if f.path == "model.safetensors")
    kept.write_text(kept.read_text().replace(weights.digest.value, "f" * 64))
    second = _open(folder, cache).resolve()
    assert next(f for f in second.files if f.path == "model.safetensors").digest.value == "f" * 64
    (folder / "model.safetensors").touch()
    assert _open(folder, cache).resolve() == first


def test_two_folders_do_not_share_what_the_cache_knows(tmp_path: Path, settled: None) -> None:
    cache = tmp_path / "cache"
    a = _open(write(tmp_path / "a", checkpoint(seed=1)), cache).resolve()
    b = _open(write(tmp_path / "b", checkpoint(seed=2)), cache).resolve()
    assert a.digest != b.digest
    assert _open(tmp_path / "a", cache).resolve() == a


def test_a_change_that_keeps_size_and_modification_time_is_seen_in_spite_of_the_cache(tmp_path: Path, settled: None) -> None:
    files = checkpoint()
    folder, cache = write(tmp_path / "m", files), tmp_path / "cache"
    before = _open(folder, cache).resolve()
    path = folder / "model.safetensors"
    times = path.stat()
    with open(path, "r+b") as stream:
        stream.seek(-1, 2)
        stream.write(bytes([files["model.safetensors"][-1] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert _open(folder, cache).resolve().digest != before.digest


def test_hashes_of_files_that_were_just_written_are_not_kept(tmp_path: Path) -> None:
    folder, cache = write(tmp_path / "m", checkpoint()), tmp_path / "cache"
    _open(folder, cache).resolve()
    kept = list(cache.rglob("*.json"))
    assert all('"model.safetensors"' not in p.read_text() for p in kept)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1, "files": 5}', b'{"format": 99, "files": {}}'])
def test_a_damaged_cache_is_ignored(content: bytes, tmp_path: Path, settled: None) -> None:
    folder, cache = write(tmp_path / "m", checkpoint()), tmp_path / "cache"
    first = _open(folder, cache).resolve()
    (kept,) = cache.rglob("*.json")
    kept.write_bytes(content)
    assert _open(folder, cache).resolve() == first


def test_fetch_copies_the_file_and_tells_its_hash_and_progress(tmp_path: Path) -> None:
    files = checkpoint()
    source = _open(write(tmp_path / "m", files))
    revision = source.resolve()
    file = next(f for f in revision.files if f.path == "model.safetensors")
    counts: list[int] = []
    sha256 = fetch(source, revision, file, tmp_path / "out", progress=counts.append)
    assert (tmp_path / "out").read_bytes() == files["model.safetensors"]
    assert sha256 == hash_file(tmp_path / "m" / "model.safetensors")
    assert sum(counts) == file.size
    (tmp_path / "out").write_bytes(b"changed")
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_a_file_that_is_linked_while_it_is_hashed_is_not_taken_for_one_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a run beside it does that takes its files over by hard link: the file's change time moves, its content does not."""
    folder = write(tmp_path / "m", checkpoint())
    meanwhile: list[Callable[[], object]] = [lambda: os.link(folder / "config.json", tmp_path / "link")]

    def slow_hash(path: Path) -> str:
        found = hash_file(path)
        if path.name == "config.json" and meanwhile:
            meanwhile.pop()()
        return found

    monkeypatch.setattr("enginepress.sources.local.hash_file", slow_hash)
    linked = _open(folder).resolve()
    assert meanwhile == []
    assert linked == _open(folder).resolve()
    meanwhile.append(lambda: (folder / "config.json").write_bytes((folder / "config.json").read_bytes() + b" "))
    with pytest.raises(SourceError, match="is being written to"):
        _open(folder).resolve()


def test_a_file_changed_between_resolve_and_fetch_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    files = checkpoint()
    source = _open(write(tmp_path / "m", files))
    revision = source.resolve()
    write(tmp_path / "m", {"model.safetensors": files["model.safetensors"][:-1] + b"?", "config.json": b"{ }"})
    file = next(f for f in revision.files if f.path == "model.safetensors")
    with pytest.raises(SourceError, match="changed after it was resolved") as caught:
        fetch(source, revision, file, tmp_path / "out", progress=lambda count: None)
    assert caught.value.where == str(tmp_path / "m" / "model.safetensors")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SourceError, match="changed after it was resolved"):
        source.read(revision, "config.json")


def test_read_gives_small_files_of_the_revision_and_no_others(tmp_path: Path) -> None:
    files = checkpoint()
    source = _open(write(tmp_path, files))
    revision = source.resolve()
    assert source.read(revision, "config.json") == files["config.json"]
    with pytest.raises(SourceError, match="not among the files"):
        source.read(revision, "README.md")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: None, "there is no such folder"),
        (lambda f: f.write_bytes(b"x"), "is a file, not a folder"),
        (lambda f: f.mkdir(), "has no files"),
        (lambda f: write(f, {"sub/config.json": b"{}"}), "has no files"),
        (lambda f: write(f, {**checkpoint(), "a\nb": b""}), "not a plain relative path"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_refused_naming_it(make: object, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    make(folder)  # type: ignore[operator]
    with pytest.raises(SourceError, match=message) as caught:
        _open(folder).resolve()
    assert caught.value.where is not None
    assert caught.value.exit_status == 2


def test_a_damaged_shard_is_refused_when_the_folder_is_resolved(tmp_path: Path) -> None:
    files = checkpoint(shards=2)
    shard = "model-00001-of-00002.safetensors"
    write(tmp_path, {**files, shard: files[shard][:-7]})
    with pytest.raises(SourceError, match="truncated") as caught:
        _open(tmp_path).resolve()
    assert caught.value.where == str(tmp_path / shard)


def test_a_symbolic_link_out_of_the_folder_is_refused_and_one_inside_is_followed(tmp_path: Path) -> None:
    files = checkpoint()
    outside = write(tmp_path / "outside", {"secret": files["model.safetensors"]})
    folder = write(tmp_path / "m", files)
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    revision = _open(folder).resolve()
    assert "model.safetensors" in [f.path for f in revision.files]
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(outside / "secret")
    with pytest.raises(UnsafePathError, match="leads out of its folder") as caught:
        _open(folder).resolve()
    assert caught.value.where == str(folder / "model.safetensors")


def test_a_link_that_was_turned_outwards_after_resolve_is_not_followed_by_fetch(tmp_path: Path) -> None:
    files = checkpoint()
    outside = write(tmp_path / "outside", {"secret": files["model.safetensors"]})
    source = _open(write(tmp_path / "m", files))
    revision = source.resolve()
    (tmp_path / "m" / "model.safetensors").unlink()
    (tmp_path / "m" / "model.safetensors").symlink_to(outside / "secret")
    with pytest.raises(UnsafePathError):
        fetch(
            source, revision, next(f for f in revision.files if "safet" in f.path), tmp_path / "out", progress=lambda count: None
        )


def test_links_and_pipes_that_are_no_files_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", checkpoint())
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("gone")
    with pytest.raises(SourceError, match="broken link"):
        _open(folder).resolve()
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(SourceError, match="no plain file"):
        _open(folder).resolve()


def test_a_file_beside_the_checkpoint_may_have_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", checkpoint())
    Path(os.fsdecode(os.fsencode(folder) + b"/notes-\xe9.txt")).write_text("x")
    revision = _open(folder).resolve()
    assert "notes-\ufffd.txt" in revision.unused
    assert json.dumps(revision.to_json(), ensure_ascii=False).encode()


def _hub_cache(root: Path, files: dict[str, bytes]) -> Path:
    """Files as huggingface_hub 2.x keeps them: snapshot -> blob of the repository -> blob shared by all repositories."""
    repo = root / "models--org--tiny"
    snapshot = repo / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for number, (path, data) in enumerate(files.items()):
        blob = repo / "blobs" / f"{number:040x}"
        if path.endswith(".safetensors"):
            shared = root / "blobs" / "00" / f"{number:064x}"
            write(shared.parent, {shared.name: data})
            blob.symlink_to(os.path.relpath(shared, blob.parent))
        else:
            blob.write_bytes(data)
        (snapshot / path).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def test_a_snapshot_in_the_cache_of_huggingface_hub_may_be_named_as_it_is(tmp_path: Path) -> None:
    files = checkpoint(shards=2)
    source = _open(_hub_cache(tmp_path / "hub", files))
    revision = source.resolve()
    assert revision.digest == _open(write(tmp_path / "plain", files)).resolve().digest
    for file in revision.files:
        fetch(source, revision, file, tmp_path / "out", progress=lambda count: None)
        assert not (tmp_path / "out").is_symlink()
        assert (tmp_path / "out").read_bytes() == files[file.path]
        (tmp_path / "out").unlink()


def test_a_snapshot_may_not_lead_anywhere_else(tmp_path: Path) -> None:
    snapshot = _hub_cache(tmp_path / "hub", checkpoint())
    write(tmp_path / "outside", {"secret": b"{}"})
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(tmp_path / "outside" / "secret")
    with pytest.raises(UnsafePathError):
        _open(snapshot).resolve()


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        script = (
            "import os, sys\n"
            "from pathlib import Path\n"
            "from enginepress.errors import SourceError\n"
            "from enginepress.sources.local import LocalSource\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "try: LocalSource(Path(sys.argv[1])).resolve()\n"
            "except SourceError as error: print(error)"
        )
        folder = Path("/tmp") / f"enginepress-test-{os.getpid()}"
        write(folder, checkpoint())
        try:
            (folder / "model.safetensors").chmod(0)
            done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True)
        finally:
            shutil.rmtree(folder)
        assert "model.safetensors: cannot be read: Permission denied" in done.stdout
        return
    folder = write(tmp_path, checkpoint())
    (folder / "model.safetensors").chmod(0)
    with pytest.raises(SourceError, match="Permission denied"):
        _open(folder).resolve()


def test_resolving_a_folder_imports_neither_huggingface_hub_nor_numpy(tmp_path: Path) -> None:
    folder = write(tmp_path, checkpoint())
    script = (
        "import sys\nfrom enginepress.recipe import Source\nfrom enginepress.sources.open import open_source\n"
        f"open_source(Source(uri='file://{folder}'), cache=None).resolve()\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'huggingface_hub', 'numpy', 'torch', 'httpx', 'httpx2', 'requests', 'tokenizers', 'kfp', 'mlflow'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_index_is_part_of_the_revision(tmp_path: Path) -> None:
    revision = _open(write(tmp_path, checkpoint(shards=2))).resolve()
    assert INDEX in [f.path for f in revision.files]


def test_a_hard_link_is_made_on_request_only_and_the_bytes_are_compared_all_the_same(tmp_path: Path) -> None:
    files = checkpoint()
    folder = write(tmp_path / "m", files)
    for link, expected in ((False, False), (True, True)):
        source = open_source(Source(uri=f"file://{folder}", link="hard" if link else "copy"), cache=None)
        revision = source.resolve()
        file = next(f for f in revision.files if f.path == "model.safetensors")
        fetch(source, revision, file, tmp_path / "out", progress=lambda count: None)
        assert (tmp_path / "out").samefile(folder / "model.safetensors") is expected
        (tmp_path / "out").unlink()
        write(folder, {"model.safetensors": files["model.safetensors"][:-1] + b"?"})
        with pytest.raises(SourceError, match="changed after it was resolved"):
            fetch(source, revision, file, tmp_path / "out", progress=lambda count: None)
        assert not (tmp_path / "out").exists()
        assert (folder / "model.safetensors").exists()
        write(folder, files)


def test_a_folder_that_is_not_there_is_answered_with_the_one_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "tiny-llama").mkdir()
    with pytest.raises(SourceError, match="no such folder") as caught:
        _open(tmp_path / "tiny-lama").resolve()
    assert f"did you mean '{tmp_path / 'tiny-llama'}'?" in str(caught.value.fix)
    with pytest.raises(SourceError) as other:
        _open(tmp_path / "gone" / "x").resolve()
    assert other.value.fix == "correct the recipe's source"
