"""s3:// folders, from a server on this machine that checks signatures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from enginepress.errors import SourceError, UnsafePathError
from enginepress.recipe import Source
from enginepress.s3_access import S3Settings
from enginepress.sources import Revision
from enginepress.sources.open import open_source
from enginepress.sources.s3 import S3Source
from tests.faulty_http import Fault, make_certificate
from tests.s3_server import S3Server
from tests.sources.fetching import fetch
from tests.sources.test_checksums import WITH_AWSCRT
from tests.sources.tiny import INDEX, checkpoint, write

pytest.importorskip("boto3")

QUICK = (0.01, 0.01, 0.01, 0.01)
FOLDER = "models/tiny"
SECRET = "test-secret-key-that-is-secret"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with S3Server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def _open(*, cache: Path | None = None, digests: dict[str, str] | None = None, prefix: str = FOLDER) -> S3Source:
    return S3Source("bucket", prefix, cache=cache, digests=digests, pauses=QUICK)


def _fetch(source: S3Source, revision: Revision, path: str, folder: Path) -> bytes:
    file = next(f for f in revision.files if f.path == path)
    fetch(source, revision, file, folder / "out", progress=lambda count: None)
    return (folder / "out").read_bytes()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Revisions ------------------------------------------------------------------------------------------------------------


def test_a_folder_resolves_to_the_files_that_a_build_needs(s3: S3Server, tmp_path: Path) -> None:
    files = checkpoint(shards=2)
    s3.add("bucket", files, prefix=f"{FOLDER}/", sha256=True)
    s3.add("bucket", {"models/tiny-other/config.json": b"{}", f"{FOLDER}/": b""})
    revision = _open().resolve()
    assert revision.source == "s3://bucket/models/tiny"
    assert {f.path: (f.size, f.digest.algorithm, f.digest.value) for f in revision.files} == {
        p: (len(b), "sha256", _sha256(b)) for p, b in files.items() if p not in ("README.md", ".gitattributes")
    }
    assert Revision.from_json(revision.to_json()) == revision
    weights = "model-00002-of-00002.safetensors"
    assert _fetch(_open(), revision, weights, tmp_path) == files[weights]
    local = open_source(Source(uri=f"file://{write(tmp_path / 'm', files)}"), cache=None).resolve()
    assert revision.digest == local.digest


def test_a_checkpoint_may_lie_at_the_top_of_its_bucket(s3: S3Server) -> None:
    s3.add("bucket", checkpoint())
    assert len(_open(prefix="").resolve().files) == 6


def test_an_unchanged_folder_costs_one_request(s3: S3Server, tmp_path: Path) -> None:
    s3.add("bucket", checkpoint(shards=3), prefix=f"{FOLDER}/")
    first = _open(cache=tmp_path).resolve()
    s3.requests.clear()
    assert _open(cache=tmp_path).resolve() == first
    assert [(r.method, r.query["prefix"]) for r in s3.requests] == [("GET", f"{FOLDER}/")]
    assert _open().latest() == (first.id, None)


def test_a_listing_of_several_pages_is_read_to_its_end(s3: S3Server) -> None:
    s3.add("bucket", {**checkpoint(), **{f"docs/{n}": b"x" for n in range(12)}}, prefix=f"{FOLDER}/")
    s3.page_size = 5
    revision = _open().resolve()
    assert len(revision.files) + len(revision.unused) == len(checkpoint()) + 12


def test_an_object_that_is_written_changes_the_id_and_other_bytes_the_digest(s3: S3Server) -> None:
    s3.add("bucket", checkpoint(), prefix=f"{FOLDER}/")
    first = _open().resolve()
    s3.add("bucket", {f"{FOLDER}/README.md": b"other words"})
    second = _open().resolve()
    assert second.id != first.id
    assert second.digest == first.digest
    s3.add("bucket", checkpoint(seed=5), prefix=f"{FOLDER}/")
    assert _open().resolve().digest != first.digest


@pytest.mark.parametrize(("sha256", "parts", "algorithm"), [(True, 1, "sha256"), (False, 1, "md5"), (False, 2, "none")])
def test_the_best_digest_that_the_server_has_is_used(
    sha256: bool, parts: int, algorithm: str, s3: S3Server, tmp_path: Path
) -> None:
    files = checkpoint()
    s3.add("bucket", files, prefix=f"{FOLDER}/", sha256=sha256, parts=parts)
    revision = _open().resolve()
    assert {f.digest.algorithm for f in revision.files} == {algorithm}
    assert _fetch(_open(), revision, "model.safetensors", tmp_path) == files["model.safetensors"]


@pytest.mark.parametrize(
    ("crc", "parts", "says"),
    [
        ("crc32", 3, "crc32 "),
        pytest.param("crc32c", 3, "crc32c ", marks=WITH_AWSCRT),
        pytest.param("crc64nvme", 3, "crc64nvme ", marks=WITH_AWSCRT),
        ("", 3, None),
    ],
)
def test_a_flipped_bit_of_an_upload_in_parts_is_found_by_the_crc_that_the_server_keeps(
    crc: str, parts: int, says: str | None, s3: S3Server, tmp_path: Path
) -> None:
    files = checkpoint()
    s3.add("bucket", {}).versioned = True
    s3.add("bucket", files, prefix=f"{FOLDER}/", parts=parts, crc=crc)
    revision = _open().resolve()
    assert {f.digest.algorithm for f in revision.files} == {"none"}
    assert Revision.from_json(json.loads(json.dumps(revision.to_json()))) == revision
    s3.faults.append(Fault("*model.safetensors", corrupt_at=5000))
    if says is None:  # nothing tells: the sha256 of what came first is demanded from then on
        assert _fetch(_open(), revision, "model.safetensors", tmp_path) != files["model.safetensors"]
        return
    with pytest.raises(SourceError, match=f"not what its source published: .* with {says}"):
        _fetch(_open(), revision, "model.safetensors", tmp_path)
    assert _fetch(_open(), revision, "model.safetensors", tmp_path) == files["model.safetensors"]


def test_digests_of_the_recipe_are_demanded_where_the_server_has_none(s3: S3Server, tmp_path: Path) -> None:
    files = checkpoint()
    s3.add("bucket", files, prefix=f"{FOLDER}/", parts=2)
    pinned = {p: _sha256(b) for p, b in files.items()}
    assert _fetch(_open(digests=pinned), _open(digests=pinned).resolve(), "config.json", tmp_path) == files["config.json"]
    wrong = _open(digests={**pinned, "config.json": "0" * 64})
    with pytest.raises(SourceError, match="not what its source published"):
        wrong.read(wrong.resolve(), "config.json")
    s3.add("bucket", files, prefix=f"{FOLDER}/", sha256=True)
    with pytest.raises(SourceError, match=r"source\.digests demands"):
        _open(digests={"config.json": "0" * 64}).resolve()


def test_a_missing_shard_is_found_before_any_weight_is_fetched(s3: S3Server) -> None:
    files = checkpoint(shards=3)
    del files["model-00002-of-00003.safetensors"]
    s3.add("bucket", files, prefix=f"{FOLDER}/")
    with pytest.raises(SourceError, match=r"model-00002-of-00003\.safetensors"):
        _open().resolve()
    assert [r.path for r in s3.requests if r.path.startswith(f"/bucket/{FOLDER}")] == [f"/bucket/{FOLDER}/{INDEX}"]


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../b", "C:evil", "a\\b", "a//b"])
def test_a_listing_with_a_hostile_key_is_refused(path: str, s3: S3Server) -> None:
    s3.add("bucket", {**checkpoint(), path: b"x"}, prefix=f"{FOLDER}/")
    with pytest.raises(UnsafePathError):
        _open().resolve()


@pytest.mark.parametrize("token", ["", "<NextContinuationToken>again</NextContinuationToken>"])
def test_a_listing_that_goes_on_nowhere_is_not_taken_for_whole(token: str, s3: S3Server) -> None:
    entry = f"<Contents><Key>{FOLDER}/config.json</Key><Size>2</Size><ETag>x</ETag></Contents>"
    page = f"<ListBucketResult><IsTruncated>true</IsTruncated>{token}{entry}</ListBucketResult>"
    s3.add("bucket", checkpoint(), prefix=f"{FOLDER}/")
    s3.faults.append(Fault("*", body=page.encode(), times=-1))
    with pytest.raises(SourceError, match="goes on, and not where"):
        _open().resolve()


def test_a_folder_without_objects_is_said_to_be_empty(s3: S3Server) -> None:
    s3.add("bucket", {})
    with pytest.raises(SourceError, match="holds no objects"):
        _open().resolve()


# The version that was resolved, and no other --------------------------------------------------------------------------


def test_a_kept_version_is_fetched_even_after_it_was_overwritten_and_removed(s3: S3Server, tmp_path: Path) -> None:
    files = checkpoint()
    s3.add("bucket", {}).versioned = True
    s3.add("bucket", files, prefix=f"{FOLDER}/")
    revision = _open().resolve()
    s3.add("bucket", checkpoint(seed=9), prefix=f"{FOLDER}/")
    s3.buckets["bucket"].objects[f"{FOLDER}/model.safetensors"].append(None)
    again = Revision.from_json(json.loads(json.dumps(revision.to_json())))
    assert _fetch(_open(), again, "model.safetensors", tmp_path) == files["model.safetensors"]
    del s3.buckets["bucket"].objects[f"{FOLDER}/config.json"][0]
    with pytest.raises(SourceError, match="is not kept any more"):
        _open().read(again, "config.json")


def test_the_same_bytes_uploaded_again_are_taken_from_their_present_versions(s3: S3Server, tmp_path: Path) -> None:
    """A bucket that removes old versions: what is known of a listing that says the same names versions that are gone."""
    files = checkpoint()
    bucket = s3.add("bucket", {})
    bucket.versioned = True
    s3.add("bucket", files, prefix=f"{FOLDER}/")
    for versions in bucket.objects.values():
        versions[0] = replace(versions[0], modified=versions[0].modified - 60)
    before = _open(cache=tmp_path / "cache").resolve()
    s3.add("bucket", files, prefix=f"{FOLDER}/")
    for versions in bucket.objects.values():
        del versions[0]
    now = _open(cache=tmp_path / "cache").resolve()
    assert (now.id, now.digest) == (before.id, before.digest)
    assert _fetch(_open(), now, "model.safetensors", tmp_path) == files["model.safetensors"]


@pytest.mark.parametrize("parts", [1, 2])
def test_without_versions_an_object_that_was_overwritten_is_refused(parts: int, s3: S3Server, tmp_path: Path) -> None:
    s3.add("bucket", checkpoint(), prefix=f"{FOLDER}/", parts=parts)
    revision = _open().resolve()
    s3.add("bucket", checkpoint(seed=9), prefix=f"{FOLDER}/", parts=parts)
    with pytest.raises(SourceError, match="was changed after it was resolved"):
        _fetch(_open(), revision, "model.safetensors", tmp_path)
    assert not (tmp_path / "out").exists()


# Bytes ----------------------------------------------------------------------------------------------------------------


def test_an_empty_file_is_a_file(s3: S3Server, tmp_path: Path) -> None:
    s3.add("bucket", {**checkpoint(), "LICENSE": b""}, prefix=f"{FOLDER}/")
    source = _open()
    assert _fetch(source, source.resolve(), "LICENSE", tmp_path) == b""


@pytest.mark.parametrize(
    "fault",
    [
        Fault("*/model.safetensors", cut_after=1500),
        Fault("*/model.safetensors", cut_after=0),
        Fault("*/model.safetensors", status=503, retry_after=0),
        Fault("*/model.safetensors", status=500),
        Fault("*/model.safetensors", short_by=100),
        Fault("*/model.safetensors", shift_range=7),
        Fault("*/model.safetensors", ignore_range=True),
    ],
    ids=["cut", "cut at once", "503", "500", "short", "other range", "range ignored"],
)
def test_a_fault_that_passes_is_survived(fault: Fault, s3: S3Server, tmp_path: Path) -> None:
    files = checkpoint()
    s3.add("bucket", files, prefix=f"{FOLDER}/")
    revision = _open().resolve()
    s3.faults.append(fault)
    assert _fetch(_open(), revision, "model.safetensors", tmp_path) == files["model.safetensors"]


@pytest.mark.parametrize("sha256", [True, False])
def test_a_flipped_bit_is_refused(sha256: bool, s3: S3Server, tmp_path: Path) -> None:
    s3.add("bucket", checkpoint(), prefix=f"{FOLDER}/", sha256=sha256)
    revision = _open().resolve()
    s3.faults.append(Fault("*/model.safetensors", corrupt_at=2000))
    with pytest.raises(SourceError, match="not what its source published"):
        _fetch(_open(), revision, "model.safetensors", tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_busy_server_is_asked_again(s3: S3Server) -> None:
    s3.add("bucket", checkpoint(), prefix=f"{FOLDER}/")
    s3.faults += [Fault("/", status=503), Fault("/", status=429, retry_after=0)]
    assert _open().resolve()


# Servers and who asks them --------------------------------------------------------------------------------------------


def test_the_recipe_names_server_region_and_certificates(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    certificate, key = make_certificate(tmp_path)
    with S3Server(tls=(certificate, key)) as other:
        other.add("bucket", checkpoint(), prefix=f"{FOLDER}/")
        uri = f"s3://bucket/{FOLDER}"
        source = Source(uri=uri, endpoint=other.url, region="eu-north-1", ca_bundle=str(certificate), path_style=True)
        assert open_source(source, cache=None).resolve().files
        assert "/eu-north-1/s3/" in (other.requests[0].authorization or "")
        untrusting = S3Source("bucket", FOLDER, settings=S3Settings(endpoint=other.url), pauses=QUICK)
        with pytest.raises(SourceError, match="certificate is not trusted"):
            untrusting.resolve()


def test_public_buckets_need_no_credentials(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3.add("bucket", checkpoint(), prefix=f"{FOLDER}/").public = True
    source = _open()
    assert _fetch(source, source.resolve(), "model.safetensors", tmp_path)
    s3.buckets["bucket"].public = False
    with pytest.raises(SourceError, match="forbids it") as caught:
        _open().resolve()
    assert "AWS_ACCESS_KEY_ID" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("changes", "bucket", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "bucket", "does not accept these credentials"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "bucket", "does not accept these credentials"),
        ({}, "missing", "no such bucket"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "bucket", "could not be asked"),
        ({"AWS_ENDPOINT_URL": "no address"}, "bucket", "cannot be asked for"),
        ({"AWS_PROFILE": "nonexistent"}, "bucket", "credentials"),
    ],
)
def test_what_is_refused_is_said_in_words(
    changes: dict[str, str], bucket: str, message: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.add("bucket", checkpoint(), prefix=f"{FOLDER}/")
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SourceError, match=message) as caught:
        S3Source(bucket, FOLDER, pauses=QUICK).resolve()
    assert caught.value.fix
    assert (caught.value.where or "").startswith(f"s3://{bucket}")
    assert SECRET not in f"{caught.value} {caught.value.fix}"


def test_without_boto3_it_is_said_how_to_get_it(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(SourceError, match="needs boto3") as caught:
        _open().resolve()
    assert "enginepress[s3]" in (caught.value.fix or "")


def test_the_secret_is_never_sent_nor_left_behind(s3: S3Server, tmp_path: Path) -> None:
    s3.add("bucket", checkpoint(), prefix=f"{FOLDER}/")
    source = _open(cache=tmp_path / "cache")
    _fetch(source, source.resolve(), "model.safetensors", tmp_path)
    seen = "".join(f"{r.path}{r.query}{r.headers}" for r in s3.requests)
    left = "".join(p.read_text(errors="ignore") for p in tmp_path.rglob("*") if p.is_file())
    assert SECRET not in seen + left
