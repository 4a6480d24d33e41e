"""What came first is demanded in every later revision, as long as its source publishes the same of it."""

from __future__ import annotations

from pathlib import Path

from enginepress.files import FileEntry
from enginepress.sources import Digest, RemoteFile, Revision
from enginepress.sources.seen import remember_digests, seen_digests

OLD, NEW = Digest("none", "0" * 64), Digest("none", "1" * 64)
CAME = FileEntry("model.safetensors", 10, "a" * 64)


def _revision(identity: str, digest: Digest, source: str = "s3://bucket/m") -> Revision:
    return Revision(source, identity, (RemoteFile("model.safetensors", 10, digest),))


def test_a_file_that_stayed_as_it_was_is_known_in_the_next_revision_too(tmp_path: Path) -> None:
    """As in a bucket in which only the README was written anew."""
    remember_digests(tmp_path, _revision("first", OLD), [CAME])
    assert seen_digests(tmp_path, _revision("second", OLD)) == {CAME.path: CAME.sha256}
    assert seen_digests(tmp_path, _revision("second", NEW)) == {}
    assert seen_digests(tmp_path, _revision("first", OLD, "s3://bucket/other")) == {}


def test_both_are_known_where_a_source_goes_back_and_forth(tmp_path: Path) -> None:
    remember_digests(tmp_path, _revision("first", OLD), [CAME])
    remember_digests(tmp_path, _revision("second", NEW), [FileEntry(CAME.path, 10, "b" * 64)])
    assert seen_digests(tmp_path, _revision("first", OLD)) == {CAME.path: CAME.sha256}
    assert seen_digests(tmp_path, _revision("second", NEW)) == {CAME.path: "b" * 64}


def test_a_damaged_file_has_seen_nothing(tmp_path: Path) -> None:
    remember_digests(tmp_path, _revision("first", OLD), [CAME])
    (file,) = (tmp_path / "seen").iterdir()
    for damage in ('{"files": 3}', "{", '{"files": {"model.safetensors": {"none:' + "0" * 64 + '": 5}}}', "[]"):
        file.write_text(damage)
        assert seen_digests(tmp_path, _revision("first", OLD)) == {}
