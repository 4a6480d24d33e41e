"""ngc:// models, from a server on this machine over real HTTP and HTTPS."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginepress.errors import EnginepressError, RecipeError, SourceError, UnsafePathError
from enginepress.recipe import Source
from enginepress.sources import Revision
from enginepress.sources.ngc import NgcSource
from enginepress.sources.ngc_client import NgcClient
from enginepress.sources.open import open_source
from tests.faulty_http import Fault, make_certificate
from tests.sources.fetching import fetch
from tests.sources.ngc_server import NgcServer
from tests.sources.tiny import INDEX, checkpoint

QUICK = (0.01, 0.01, 0.01, 0.01)
LEGACY = "bGVnYWN5LWtleS1vZi1hbi1vcmc"
PERSONAL = "nvapi-thisKeyIsSecret"


@pytest.fixture
def ngc(monkeypatch: pytest.MonkeyPatch) -> Iterator[NgcServer]:
    monkeypatch.delenv("NGC_API_KEY", raising=False)
    with NgcServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def _open(version: str | None = None, *, cache: Path | None = None, digests: dict[str, str] | None = None) -> NgcSource:
    return NgcSource("org", "team", "tiny", version, cache=cache, digests=digests, pauses=QUICK)


def _fetch(source: NgcSource, revision: Revision, path: str, folder: Path) -> bytes:
    file = next(f for f in revision.files if f.path == path)
    fetch(source, revision, file, folder / "out", progress=lambda count: None)
    return (folder / "out").read_bytes()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Versions -------------------------------------------------------------------------------------------------------------


def test_a_version_resolves_to_the_files_that_a_build_needs_with_sizes_and_digests(ngc: NgcServer, tmp_path: Path) -> None:
    files = checkpoint(shards=2)
    ngc.add_model("org/team/tiny", {"1.0": files})
    revision = _open("1.0").resolve()
    assert (revision.source, revision.id) == ("ngc://org/team/tiny", "1.0")
    assert {f.path: (f.size, f.digest.value) for f in revision.files} == {
        p: (len(b), _sha256(b)) for p, b in files.items() if p not in ("README.md", ".gitattributes")
    }
    assert Revision.from_json(revision.to_json()) == revision
    weights = "model-00002-of-00002.safetensors"
    assert _fetch(_open("1.0"), revision, weights, tmp_path) == files[weights]


def test_without_a_version_the_latest_is_taken(ngc: NgcServer) -> None:
    ngc.add_model("org/team/tiny", {"1.0": checkpoint(seed=1), "1.1": checkpoint(seed=2)})
    assert _open().resolve().id == "1.1"
    assert open_source(Source(uri="ngc://org/team/tiny:latest"), cache=None).resolve().id == "1.1"
    assert _open("1.0").resolve().digest != _open("1.1").resolve().digest


def test_the_same_bytes_have_the_same_revision_digest_as_from_a_folder(ngc: NgcServer, tmp_path: Path) -> None:
    from tests.sources.tiny import write

    ngc.add_model("org/team/tiny", {"1": checkpoint()})
    local = open_source(Source(uri=f"file://{write(tmp_path / 'm', checkpoint())}"), cache=None).resolve()
    assert _open("1").resolve().digest == local.digest


def test_a_known_version_costs_no_request_and_the_latest_one(ngc: NgcServer, tmp_path: Path) -> None:
    ngc.add_model("org/team/tiny", {"1.0": checkpoint()})
    first = _open(cache=tmp_path).resolve()
    ngc.requests.clear()
    assert _open("1.0", cache=tmp_path).resolve() == first
    assert ngc.requests == []
    assert _open(cache=tmp_path).resolve() == first
    assert len(ngc.requests) == 1


def test_listings_are_read_page_by_page(ngc: NgcServer) -> None:
    ngc.add_model("org/team/tiny", {"1": {**checkpoint(shards=3), **{f"doc/{n}.md": b"x" for n in range(20)}}})
    ngc.page_size = 7
    revision = _open("1").resolve()
    assert len(revision.files) + len(revision.unused) == 20 + len(checkpoint(shards=3))
    assert [r.query.get("page-number") for r in ngc.requests if r.path.endswith("/versions/1/files")] == [None, *"1234"]


def test_a_listing_that_changes_between_its_pages_is_not_taken_for_whole(ngc: NgcServer) -> None:
    ngc.add_model("org/team/tiny", {"1": checkpoint()})
    answer = {"modelFiles": [{"path": "config.json", "sizeInBytes": 2}], "paginationInfo": {"totalPages": 1, "totalResults": 9}}
    ngc.faults.append(Fault("*/versions/1/files", body=json.dumps(answer).encode()))
    with pytest.raises(SourceError, match="lists 1 files where it announces 9"):
        _open("1").resolve()


def test_a_version_whose_upload_is_not_complete_is_refused(ngc: NgcServer) -> None:
    ngc.add_model("org/team/tiny", {"1": checkpoint()}).status = "UPLOAD_PENDING"
    with pytest.raises(SourceError, match="upload is not complete"):
        _open("1").resolve()


def test_a_shard_that_is_missing_is_found_before_any_weight_is_fetched(ngc: NgcServer) -> None:
    files = checkpoint(shards=3)
    del files["model-00002-of-00003.safetensors"]
    ngc.add_model("org/team/tiny", {"1": files})
    with pytest.raises(SourceError, match=r"model-00002-of-00003\.safetensors"):
        _open("1").resolve()
    assert ngc.downloads() == [INDEX]


@pytest.mark.parametrize("names", [["model.nemo"], ["weights/common.pt", "context/model.yaml"]])
def test_a_nemo_checkpoint_is_called_by_its_name(names: list[str], ngc: NgcServer) -> None:
    ngc.add_model("org/team/tiny", {"1": dict.fromkeys(names, b"x")})
    with pytest.raises(SourceError, match=r"has no config\.json") as caught:
        _open("1").resolve()
    assert "is NVIDIA NeMo's own form" in (caught.value.fix or "")


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../b", "C:evil", "a\x00b", "a\\b"])
def test_a_listing_with_a_hostile_path_is_refused(path: str, ngc: NgcServer) -> None:
    ngc.add_model("org/team/tiny", {"1": {**checkpoint(), path: b"x"}})
    with pytest.raises(UnsafePathError):
        _open("1").resolve()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "did not answer with JSON"),
        (b"[]", "is no JSON object"),
        (b"{}", "lists no files"),
        (b'{"modelFiles": [1]}', "lists no files"),
        (b'{"modelFiles": [{"path": "a"}]}', "without its path or size"),
        (b'{"modelFiles": [{"path": "a", "sizeInBytes": -1}]}', "without its path or size"),
        (b'{"modelFiles": [{"path": "a", "sizeInBytes": 1, "sha256_base64": "!"}]}', "a sha256 for it that is none"),
        (b'{"modelFiles": [{"path": "a", "sizeInBytes": 1, "sha256_base64": "YQ=="}]}', "a sha256 for it that is none"),
        (b'{"modelFiles": [{"path": "a", "sizeInBytes": 1, "sha256_base64": 5}]}', "a sha256 for it that is none"),
        (b'{"modelFiles": [{"path": "a", "sizeInBytes": 1}, {"path": "a", "sizeInBytes": 1}]}', "lists it twice"),
    ],
)
def test_a_listing_that_is_none_is_refused_in_words(body: bytes, message: str, ngc: NgcServer) -> None:
    ngc.add_model("org/team/tiny", {"1": checkpoint()})
    ngc.faults.append(Fault("*/versions/1/files", body=body))
    with pytest.raises(SourceError, match=message) as caught:
        _open("1").resolve()
    assert caught.value.fix


# Digests --------------------------------------------------------------------------------------------------------------


def test_files_without_a_published_sha256_are_known_by_what_else_ngc_says_of_them(ngc: NgcServer) -> None:
    model = ngc.add_model("org/team/tiny", {"1": checkpoint()})
    model.publishes = False
    first = _open("1").resolve()
    assert {f.digest.algorithm for f in first.files} == {"none"}
    assert _open("1").resolve() == first
    model.created = "2026-02-02T00:00:00Z"
    assert _open("1").resolve().digest != first.digest


def test_digests_of_the_recipe_are_demanded_where_ngc_publishes_none(ngc: NgcServer, tmp_path: Path) -> None:
    files = checkpoint()
    ngc.add_model("org/team/tiny", {"1": files}).publishes = False
    pinned = {p: _sha256(b) for p, b in files.items()}
    revision = _open("1", digests=pinned).resolve()
    assert {f.digest.algorithm for f in revision.files} == {"sha256"}
    assert _fetch(_open("1", digests=pinned), revision, "model.safetensors", tmp_path) == files["model.safetensors"]
    wrong = _open("1", digests={**pinned, "model.safetensors": "0" * 64})
    with pytest.raises(SourceError, match="0000"):
        _fetch(wrong, wrong.resolve(), "model.safetensors", tmp_path / "..")


def test_digests_of_the_recipe_that_contradict_ngc_are_refused_before_anything_is_fetched(ngc: NgcServer) -> None:
    ngc.add_model("org/team/tiny", {"1": checkpoint()})
    with pytest.raises(SourceError, match="demands"):
        _open("1", digests={"config.json": "1" * 64}).resolve()
    assert ngc.downloads() == []


def test_a_flipped_bit_of_the_right_size_is_refused(ngc: NgcServer, tmp_path: Path) -> None:
    ngc.add_model("org/team/tiny", {"1": checkpoint()})
    revision = _open("1").resolve()
    ngc.faults.append(Fault("model.safetensors", corrupt_at=2000))
    with pytest.raises(SourceError, match="not what its source published"):
        _fetch(_open("1"), revision, "model.safetensors", tmp_path)
    assert not (tmp_path / "out").exists()


# Bytes ----------------------------------------------------------------------------------------------------------------


def test_an_empty_file_is_a_file(ngc: NgcServer, tmp_path: Path) -> None:
    ngc.add_model("org/team/tiny", {"1": {**checkpoint(), "LICENSE": b""}})
    source = _open("1")
    assert _fetch(source, source.resolve(), "LICENSE", tmp_path) == b""


@pytest.mark.parametrize(
    "fault",
    [
        Fault("model.safetensors", cut_after=1500),
        Fault("model.safetensors", status=503, retry_after=0),
        Fault("model.safetensors", status=429, retry_after=0),
        Fault("model.safetensors", short_by=100),
        Fault("model.safetensors", cut_after=0),
        Fault("model.safetensors", shift_range=7),
    ],
    ids=lambda f: "+".join(k for k, v in vars(f).items() if v not in (None, 0, False, 1) and k != "pattern") or "cut at once",
)
def test_a_fault_that_passes_is_survived(fault: Fault, ngc: NgcServer, tmp_path: Path) -> None:
    files = checkpoint()
    ngc.add_model("org/team/tiny", {"1": files})
    revision = _open("1").resolve()
    ngc.faults.append(fault)
    assert _fetch(_open("1"), revision, "model.safetensors", tmp_path) == files["model.safetensors"]


def test_a_server_that_ignores_ranges_is_survived(ngc: NgcServer, tmp_path: Path) -> None:
    files = checkpoint()
    ngc.add_model("org/team/tiny", {"1": files})
    revision = _open("1").resolve()
    ngc.faults += [Fault("model.safetensors", cut_after=1500), Fault("model.safetensors", ignore_range=True)]
    assert _fetch(_open("1"), revision, "model.safetensors", tmp_path) == files["model.safetensors"]


def test_an_address_that_has_expired_is_asked_for_anew(ngc: NgcServer, tmp_path: Path) -> None:
    files = checkpoint()
    ngc.add_model("org/team/tiny", {"1": files})
    source = _open("1")
    revision = source.resolve()
    ngc.expire_addresses = 1
    assert _fetch(source, revision, "model.safetensors", tmp_path) == files["model.safetensors"]


def test_addresses_that_never_work_end_with_an_error_that_names_the_file_and_no_signature(ngc: NgcServer, tmp_path: Path) -> None:
    ngc.add_model("org/team/tiny", {"1": checkpoint()})
    source = _open("1")
    revision = source.resolve()
    ngc.expire_addresses = 100
    with pytest.raises(SourceError, match="pre-signed address was refused") as caught:
        _fetch(source, revision, "model.safetensors", tmp_path)
    assert caught.value.where == "ngc://org/team/tiny:1/model.safetensors"
    assert "secret-signature" not in str(caught.value)


def test_metadata_is_asked_for_again_when_the_server_is_busy(ngc: NgcServer) -> None:
    ngc.add_model("org/team/tiny", {"1": checkpoint()})
    ngc.faults += [Fault("*/versions/1", status=503), Fault("*/versions/1", cut_after=0, status=500)]
    assert _open("1").resolve().id == "1"


def test_a_server_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NGC_CLI_API_URL", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match="NGC could not be asked") as caught:
        _open("1").resolve()
    assert caught.value.where == "http://127.0.0.1:9"


# Identity -------------------------------------------------------------------------------------------------------------


def test_an_older_key_is_exchanged_once_for_a_token(ngc: NgcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ngc.add_model("org/team/tiny", {"1": checkpoint()}, keys={LEGACY})
    monkeypatch.setenv("NGC_API_KEY", LEGACY)
    source = _open("1")
    source.read(source.resolve(), "config.json")
    (exchange,) = [r for r in ngc.requests if r.path == "/token"]
    assert exchange.query["scope"] == "group/ngc:org/team"
    assert all("/v2/models/" not in r.path for r in ngc.requests)


def test_a_token_that_has_expired_is_exchanged_anew(ngc: NgcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ngc.add_model("org/team/tiny", {"1": checkpoint()}, keys={LEGACY})
    monkeypatch.setenv("NGC_API_KEY", LEGACY)
    source = _open("1")
    revision = source.resolve()
    ngc.forget_tokens()
    assert source.read(revision, "config.json")


def test_a_personal_key_is_sent_as_it_is(ngc: NgcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ngc.add_model("org/team/tiny", {"1": checkpoint()}, keys={PERSONAL})
    monkeypatch.setenv("NGC_API_KEY", PERSONAL)
    assert _open("1").resolve().id == "1"
    assert not [r for r in ngc.requests if r.path == "/token"]


def test_what_is_public_needs_no_key(ngc: NgcServer, tmp_path: Path) -> None:
    ngc.add_model("org/team/tiny", {"1": checkpoint()})
    source = _open()
    revision = source.resolve()
    assert _fetch(source, revision, "model.safetensors", tmp_path) == checkpoint()["model.safetensors"]
    assert all(r.authorization is None for r in ngc.requests)


def test_a_model_of_an_org_without_team_is_found(ngc: NgcServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ngc.add_model("org/tiny", {"1": checkpoint()}, keys={PERSONAL})
    ngc.add_model("free/tiny", {"1": checkpoint()})
    guest = NgcSource("free", None, "tiny", pauses=QUICK)
    assert _fetch(guest, guest.resolve(), "config.json", tmp_path)
    monkeypatch.setenv("NGC_API_KEY", PERSONAL)
    mine = open_source(Source(uri="ngc://org/tiny:1"), cache=None)
    assert mine.read(mine.resolve(), "config.json")


def test_the_recipe_may_name_the_variable_of_the_key(ngc: NgcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ngc.add_model("org/team/tiny", {"1": checkpoint()}, keys={PERSONAL})
    source = Source(uri="ngc://org/team/tiny:1", token="${TEAM_NGC}")
    monkeypatch.delenv("TEAM_NGC", raising=False)
    with pytest.raises(RecipeError, match="TEAM_NGC is not set"):
        open_source(source, cache=None).resolve()
    monkeypatch.setenv("TEAM_NGC", PERSONAL)
    assert open_source(source, cache=None).resolve().id == "1"


def test_a_licence_that_was_not_accepted_is_said_with_the_page_that_has_it(
    ngc: NgcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ngc.add_model("org/team/tiny", {"1": checkpoint()}, keys={PERSONAL}).accepted = set()
    monkeypatch.setenv("NGC_API_KEY", PERSONAL)
    with pytest.raises(SourceError, match="licence terms have not been accepted") as caught:
        _open("1").resolve()
    assert "https://catalog.ngc.nvidia.com/orgs/org/teams/team/models/tiny" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("key", "keys", "message"),
    [
        (None, {PERSONAL}, "is not public"),
        ("nvapi-other", {PERSONAL}, "not entitled"),
        ("unknown-key", {PERSONAL}, "does not know this key"),
        (None, None, "does not exist, or is not public"),
        (PERSONAL, {PERSONAL}, "does not exist, or this key may not see it"),
        ("has spaces in", {PERSONAL}, "holds no key"),
    ],
)
def test_what_ngc_refuses_is_said_in_words_with_what_to_do(
    key: str | None, keys: set[str] | None, message: str, ngc: NgcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ngc.add_model("org/team/tiny", {"1": checkpoint()}, keys=keys)
    if key:
        monkeypatch.setenv("NGC_API_KEY", key)
    with pytest.raises(SourceError, match=message) as caught:
        _open("9" if "exist" in message else "1").resolve()
    assert caught.value.fix
    assert key is None or key not in f"{caught.value} {caught.value.fix}"


@pytest.mark.parametrize("key", [LEGACY, PERSONAL])
def test_the_key_goes_to_ngc_only_and_into_no_message(
    key: str, ngc: NgcServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ngc.add_model("org/team/tiny", {"1": checkpoint()}, keys={key})
    monkeypatch.setenv("NGC_API_KEY", key)
    source = _open("1", cache=tmp_path / "cache")
    revision = source.resolve()
    assert _fetch(source, revision, "model.safetensors", tmp_path)
    blobs = [r for r in ngc.requests if r.path.startswith("/blob/")]
    assert blobs
    assert all(r.authorization is None and r.host == "localhost" for r in blobs)
    ngc.faults += [Fault("*", status=500, times=-1)]
    messages = []
    for version in ("1", "2"):
        with pytest.raises(EnginepressError) as caught:
            _open(version).resolve()
        messages.append(repr(caught.value.to_json()))
    left = "".join(p.read_text(errors="ignore") for p in tmp_path.rglob("*") if p.is_file())
    assert key not in "".join(messages) + left
    assert "secret-signature" not in "".join(messages) + left


@pytest.mark.parametrize("name", ["NGC_CLI_API_URL", "NGC_CLI_AUTH_URL"])
def test_a_key_is_never_sent_in_the_clear(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://ngc.example.com")
    with pytest.raises(SourceError, match="never sent in the clear"):
        _open("1")


# TLS ------------------------------------------------------------------------------------------------------------------


def test_ngc_is_asked_over_tls_with_the_certificates_that_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NGC_API_KEY", PERSONAL)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    certificate, key = make_certificate(tmp_path)
    with NgcServer(tls=(certificate, key)) as server:
        server.add_model("org/team/tiny", {"1": checkpoint()}, keys={PERSONAL})
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SourceError, match="certificate is not trusted"):
            _open("1").resolve()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        source = _open("1")
        assert _fetch(source, source.resolve(), "model.safetensors", tmp_path) == checkpoint()["model.safetensors"]


# The latest version, cheaply ------------------------------------------------------------------------------------------


def test_the_latest_version_is_asked_for_with_the_etag_of_the_last_answer(ngc: NgcServer) -> None:
    model = ngc.add_model("org/team/tiny", {"1.0": checkpoint()})
    client = NgcClient("org", "team", "tiny", pauses=QUICK)
    version, etag = client.latest_version()
    assert version == "1.0"
    assert client.latest_version(etag) == (None, etag)
    model.versions["1.1"] = checkpoint(seed=3)
    assert client.latest_version(etag)[0] == "1.1"
    assert len(ngc.requests) == 3


def test_a_stalled_answer_is_given_up(ngc: NgcServer) -> None:
    from enginepress.sources.transfer import HttpClient

    ngc.add_model("org/team/tiny", {"1": checkpoint()})
    ngc.faults.append(Fault("*/versions/1", delay=3))
    started = time.monotonic()
    client = NgcClient("org", "team", "tiny", pauses=QUICK, http=HttpClient("test", timeout=0.3))
    assert client.version("1")["versionId"] == "1"
    assert time.monotonic() - started < 2.5
