"""The same on S3: signatures, verification, backups there and back between a folder and a server that checks every request."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginepress.errors import SignatureError, StoreError
from enginepress.signing import RECORD
from enginepress.steps.backup import backup
from enginepress.steps.catalogue import CATALOGUE
from enginepress.steps.restore import restore
from enginepress.steps.signing import key_from_files, require_signature, sign_release, trust_from_files
from enginepress.steps.target import named_store
from enginepress.steps.verify_store import verify_store
from enginepress.stores.filesystem import FileStore
from enginepress.stores.history import Move
from enginepress.stores.s3 import S3Store
from enginepress.stores.s3.client import Unmet, _outcome
from enginepress.stores.store import Store
from enginepress.workspace import Workspace
from tests.run.recipes import enginepress
from tests.s3_server import S3Server
from tests.s3_server.fixtures import server_in_environment
from tests.stores.parts import MODEL, make_source
from tests.stores.s3.stores import a_store, keys, promote, publish
from tests.trust.keys import KeyPair, write_pair
from tests.trust.site import make_site, publish_release
from tests.trust.test_backup import same

pytest.importorskip("boto3")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with server_in_environment(monkeypatch) as running:
        yield running


@pytest.fixture
def on_s3(server: S3Server, tmp_path: Path) -> S3Store:
    """Releases 1 and 2, channel production on 2."""
    made = a_store()
    for number, weights in ((1, b"one"), (2, b"two")):
        publish(made, make_source(tmp_path / f"source-{number}", weights=weights), f"{number}".rjust(64, "a"))
        promote(made, "production", number)
    return made


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def everything(store: Store) -> dict[str, Any]:
    """What operators and verifiers see, of any kind of store."""
    numbers = store.numbers(MODEL)
    return {
        "numbers": numbers,
        "manifests": [store.manifest_bytes(MODEL, n) for n in numbers],
        "records": [{k: v for k, v in store.records(MODEL, n).items() if k != CATALOGUE} for n in numbers],
        "order": [[k for k in store.records(MODEL, n) if k != CATALOGUE] for n in numbers],
        "channels": {c: store.history(MODEL, c) for c in store.channels(MODEL)},
        "allotment": store.allotment(MODEL),
    }


def test_a_store_comes_back_from_a_backup_on_s3(tmp_path: Path, server: S3Server, workspace: Workspace, pair: KeyPair) -> None:
    site = make_site(tmp_path / "site")
    sign_release(site.store, MODEL, 3, key_from_files(pair.private, None, None))
    kept = a_store(prefix="backups/models")
    (done,) = backup(site.store, kept, workspace=workspace)
    assert done.copied == [1, 2, 3]
    (again,) = backup(site.store, kept, workspace=workspace)
    assert (again.copied, again.there) == ([], [1, 2, 3])
    fresh = FileStore(tmp_path / "fresh")
    restore(kept, fresh, workspace=workspace, registry=None)
    same(site.store, fresh)
    for store in (kept, fresh):
        assert verify_store(store, deep=True).troubles == []
        assert require_signature(store, MODEL, 3, trust_from_files(pair.public, None)) is not None
    assert not list((workspace.root / "releases").glob("*/*")), "what passed through the workspace is gone"


def test_a_store_on_s3_comes_back_on_s3(tmp_path: Path, server: S3Server, on_s3: S3Store, workspace: Workspace) -> None:
    on_s3.write_record(MODEL, 1, "checks-b", {"n": 1})
    on_s3.write_record(MODEL, 1, "checks-a", {"n": 2})
    promote(on_s3, "production", 1, back=True)
    on_s3.remove(MODEL, 2)
    kept, fresh = a_store(prefix="kept"), a_store(prefix="fresh")
    backup(on_s3, kept, workspace=workspace)
    restore(kept, fresh, workspace=workspace, registry=None)
    assert everything(fresh) == everything(on_s3)
    restore(kept, fresh, workspace=workspace, registry=None)
    assert everything(fresh) == everything(on_s3)
    assert verify_store(fresh, deep=True).troubles == []
    release = publish(fresh, make_source(tmp_path / "three", weights=b"three"), "c" * 64)
    assert release.release == 3, "a number is not given again, after a restore either"
    with pytest.raises(StoreError, match="follows the store"):
        publish(kept, tmp_path / "three", "c" * 64)


def test_the_commands_take_endpoint_and_settings_from_a_recipe(
    tmp_path: Path, server: S3Server, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two S3 servers, or one that is named in a recipe only; and a target for which nobody else's writes are to be feared."""
    endpoint = server.environment["AWS_ENDPOINT_URL"]
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    site = make_site(tmp_path / "site", named="http://127.0.0.1:9")
    kept = FileStore(tmp_path / "kept")
    backup(site.store, kept, workspace=workspace, registry=False)
    fields = {"name": MODEL, "source": "file:///any", "stores": [{"url": "s3://bucket/own", "endpoint": endpoint}]}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(fields))
    done = enginepress("restore", kept.root, recipe, "--no-registry", "--single-writer", "-w", workspace.root)
    assert done.returncode == 0, done.stderr
    assert "3 releases restored" in done.stdout
    done = enginepress("backup", recipe, tmp_path / "again", "-w", workspace.root)
    assert done.returncode == 0, done.stderr
    assert FileStore(tmp_path / "again").numbers(MODEL) == [1, 2, 3]
    opened = named_store(str(recipe), single_writer=True)
    assert isinstance(opened, S3Store)
    assert (opened.settings.server.endpoint, opened.settings.single_writer) == (endpoint, True)


def test_an_answer_that_makes_no_sense_is_an_error_in_words() -> None:
    """Swift answers 412 to a request without credentials; nothing was conditional."""
    from botocore.exceptions import ClientError

    answer: Any = {"Error": {"Code": "412"}, "ResponseMetadata": {"HTTPStatusCode": 412, "HTTPHeaders": {}}}
    error = _outcome(ClientError(answer, "ListObjectsV2"), "s3://bucket/own", conditional=False, there=False)
    assert isinstance(error, StoreError)
    assert "credentials" in str(error.fix)
    assert isinstance(_outcome(ClientError(answer, "PutObject"), "s3://bucket/own", conditional=True, there=True), Unmet)


def test_a_history_of_a_thousand_moves_comes_back(server: S3Server, on_s3: S3Store, workspace: Workspace) -> None:
    moves = [
        Move(1 + n % 2, 2 - n % 2, f"stable-{1 + n % 2}-{n:08x}", "2026-11-20T19:30:00Z", "ana", f"{n}") for n in range(1001)
    ]
    on_s3.restore_channel(MODEL, "stable", moves, lambda root: pytest.fail("readers of S3 pull"))
    assert on_s3.history(MODEL, "stable") == moves
    assert on_s3.channel(MODEL, "stable") == 1
    on_s3.restore_channel(MODEL, "stable", moves, lambda root: pytest.fail("readers of S3 pull"))
    with pytest.raises(StoreError, match="channel stable of tiny is there, on release 1"):
        on_s3.restore_channel(MODEL, "stable", moves[:2], lambda root: pytest.fail("readers of S3 pull"))
    kept, fresh = a_store(prefix="kept"), a_store(prefix="fresh")
    backup(on_s3, kept, workspace=workspace)
    restore(kept, fresh, workspace=workspace, registry=None)
    assert fresh.history(MODEL, "stable") == moves


def test_a_bucket_with_something_else_is_refused(tmp_path: Path, server: S3Server, on_s3: S3Store, workspace: Workspace) -> None:
    site = make_site(tmp_path / "site", releases=2)
    put(server, "holidays/photo.jpg", b"x")
    with pytest.raises(StoreError, match=r"holds something that is no backup: holidays"):
        backup(site.store, a_store(prefix=""), workspace=workspace)
    with pytest.raises(StoreError, match="tiny there is a store of its own"):
        backup(site.store, on_s3, workspace=workspace)
    kept = a_store(prefix="kept")
    backup(site.store, kept, workspace=workspace)
    with pytest.raises(StoreError, match="holds releases of tiny already"):
        restore(kept, on_s3, workspace=workspace, registry=None)


# Signatures and verification ------------------------------------------------------------------------------------------


def test_a_release_on_s3_is_signed_and_a_wrong_signature_refused(on_s3: S3Store, pair: KeyPair, tmp_path: Path) -> None:
    trust = trust_from_files(pair.public, None)
    with pytest.raises(SignatureError, match="is not signed"):
        require_signature(on_s3, MODEL, 1, trust)
    sign_release(on_s3, MODEL, 1, key_from_files(pair.private, None, None))
    assert require_signature(on_s3, MODEL, 1, trust) is not None
    bundle = on_s3.read_record(MODEL, 1, RECORD)
    assert bundle is not None
    on_s3.write_record(MODEL, 2, RECORD, bundle)
    with pytest.raises(SignatureError, match="the signature is not that of release 2"):
        require_signature(on_s3, MODEL, 2, trust)
    other = write_pair(tmp_path / "keys", "mallory")
    sign_release(on_s3, MODEL, 1, key_from_files(other.private, None, None))
    with pytest.raises(SignatureError, match="not by the trusted key"):
        require_signature(on_s3, MODEL, 1, trust)


def test_a_release_fetched_from_s3_is_good_to_the_upstream_command(on_s3: S3Store, pair: KeyPair, tmp_path: Path) -> None:
    """The folder in which it expects things is that of a file store: manifest, and `repository/` beside it."""
    import json

    from tests.trust.test_signing import upstream

    sign_release(on_s3, MODEL, 1, key_from_files(pair.private, None, None))
    folder = tmp_path / "release"
    on_s3.fetch(MODEL, 1, folder / "repository")
    shutil.rmtree(folder / "repository/.fetching", ignore_errors=True)
    (folder / "manifest.json").write_bytes(on_s3.manifest_bytes(MODEL, 1))
    (tmp_path / "signature.json").write_text(json.dumps(on_s3.read_record(MODEL, 1, RECORD)))
    arguments = ("--signature", tmp_path / "signature.json", "--public_key", pair.public)
    done = upstream("verify", "key", folder, *arguments)
    assert done.returncode == 0, done.stderr


def put(server: S3Server, key: str, data: bytes) -> None:
    server.add("bucket", {key: data})


def one(server: S3Server, *parts: str) -> str:
    """The one key that has all of these in it."""
    (found,) = [key for key in keys(server) if all(part in key for part in parts)]
    return found


DAMAGE: dict[str, tuple[Callable[[S3Server], Any], str, str]] = {
    "changed byte": (lambda s: put(s, one(s, "1-", "part0.bin"), b"xne\x00"), "damaged", "part0.bin"),
    "missing": (lambda s: s.buckets["bucket"].objects.pop(one(s, "/1-", "part0.bin")), "damaged", "part0.bin is missing"),
    "foreign": (
        lambda s: put(s, one(s, "/1-", "part0.bin").replace("part0", "evil"), b"x"),
        "damaged",
        "evil.bin does not belong",
    ),
    "edited manifest": (
        lambda s: put(s, "models/tiny/releases/1.json", b'{"format": 1}'),
        "damaged",
        "releases/1.json",
    ),
    "bad record": (lambda s: put(s, "models/tiny/records/1/registration.json", b"{"), "record", "registration"),
    "bad channel": (lambda s: put(s, "models/tiny/channels/production.json", b"{}"), "channel", "production"),
    "dangling channel": (
        lambda s: put(s, "models/tiny/releases/2.json", b""),
        "channel",
        "release 2, which is not",
    ),
    "stray object": (lambda s: put(s, "models/tiny/notes.txt", b"x"), "foreign", "notes.txt"),
    "stray repository": (
        lambda s: put(s, "models/tiny/repositories/9-01234567/tiny/9/model.py", b"x"),
        "foreign",
        "repositories/9-01234567",
    ),
    "stray folder": (lambda s: put(s, "models/photos/1.jpg", b"x"), "foreign", "photos"),
}


@pytest.mark.parametrize("name", sorted(DAMAGE))
def test_whatever_is_wrong_on_s3_is_named(server: S3Server, on_s3: S3Store, name: str) -> None:
    on_s3.write_record(MODEL, 1, "registration", {"model_version": 1})
    assert verify_store(on_s3, deep=True).troubles == []
    damage, kind, words = DAMAGE[name]
    damage(server)
    found = verify_store(on_s3, deep=True).troubles
    assert [t for t in found if t.kind == kind and words in str(t)], found


def test_a_killed_backup_to_s3_is_gone_on_with(
    tmp_path: Path, server: S3Server, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(tmp_path / "site", releases=2)
    kept = a_store(prefix="kept")
    with monkeypatch.context() as patch:
        patch.setattr(S3Store, "write_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            backup(site.store, kept, workspace=workspace)
    with pytest.raises(StoreError, match="is no finished backup"):
        restore(kept, FileStore(tmp_path / "early"), workspace=workspace, registry=None)
    publish_release(site.store, site.recipe, tmp_path / "more", b"more")
    (done,) = backup(site.store, kept, workspace=workspace)
    assert (done.there, done.copied) == ([1], [2, 3])
    restore(kept, FileStore(tmp_path / "fresh"), workspace=workspace, registry=None)
    same(site.store, FileStore(tmp_path / "fresh"))
