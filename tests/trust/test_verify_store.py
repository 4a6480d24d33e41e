"""`enginepress verify`: everything that can be wrong with a store is found, named, and nothing else is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginepress.cli.app import app
from enginepress.errors import UsageError
from enginepress.signing import RECORD, Trust
from enginepress.steps.signing import key_from_files, sign_release, trust_from_files
from enginepress.steps.verify_store import Trouble, verify_store
from enginepress.stores.filesystem import FileStore
from tests.run.recipes import enginepress
from tests.stores.parts import MODEL, promote
from tests.trust.keys import KeyPair, write_pair


@pytest.fixture
def store(store: FileStore) -> FileStore:
    """With a channel and records, too."""
    promote(store, "production", 1)
    promote(store, "production", 2)
    store.write_record(MODEL, 1, "registration", {"model_version": 1})
    return store


def troubles(store: FileStore, *, deep: bool = True, trust: Trust | None = None) -> list[Trouble]:
    return verify_store(store, deep=deep, trust=lambda _model: trust).troubles


def overwrite(path: Path, data: bytes) -> None:
    path.parent.chmod(0o755)
    if path.exists():
        path.chmod(0o644)
        path.unlink()
    path.write_bytes(data)


def test_a_store_that_is_right_has_nothing_to_report_and_is_not_touched(store: FileStore) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in store.root.rglob("*")}

    before = state()
    for deep in (False, True):
        verdict = verify_store(store, deep=deep)
        assert verdict.troubles == []
        assert (verdict.models, verdict.releases) == (1, 2)
    assert state() == before


PART = "releases/1/repository/tiny/1/engine/part0.bin"

DAMAGE: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "changed byte": (lambda m: overwrite(m / PART, b"Weights\x00"), "damaged", "part0.bin is not what was published"),
    "missing file": (lambda m: (m / PART).unlink(), "damaged", "part0.bin is missing"),
    "foreign file": (lambda m: (m / PART).with_name("x.bin").write_bytes(b"x"), "damaged", "x.bin does not belong"),
    "foreign model folder": (lambda m: (m / "releases/1/repository/evil").mkdir(), "damaged", "evil does not belong"),
    "link": (lambda m: ((m / PART).unlink(), (m / PART).symlink_to("/etc/passwd")), "damaged", "part0.bin is a symbolic link"),
    "edited manifest": (
        lambda m: overwrite(
            m / "releases/1/manifest.json", (m / "releases/1/manifest.json").read_bytes().replace(b"abc", b"abd")
        ),
        "damaged",
        "was changed after it was written",
    ),
    "no manifest": (lambda m: (m / "releases/1/manifest.json").unlink(), "damaged", "manifest.json"),
    "moved release": (lambda m: (m / "releases/1").rename(m / "releases/9"), "damaged", "is the manifest of release 1"),
    "bad record": (lambda m: overwrite(m / "releases/1/records/registration.json", b"{"), "record", "registration"),
    "damaged history": (lambda m: overwrite(m / "history/production.jsonl", b"nonsense\n"), "channel", "line 1 is damaged"),
    "dangling channel": (lambda m: shutil.rmtree(os.path.realpath(m / "channels/production")), "channel", "which is gone"),
    "channel that is no link": (
        lambda m: ((m / "channels/production").unlink(), (m / "channels/production").mkdir()),
        "channel",
        "is not a channel",
    ),
    "release of a channel gone": (lambda m: shutil.rmtree(m / "releases/2"), "channel", "release 2, which is not in the store"),
    "edited config of a channel": (
        lambda m: overwrite(Path(os.path.realpath(m / "channels/production")) / "tiny/config.pbtxt", b'name: "evil"\n'),
        "channel",
        "config.pbtxt is not that of the release",
    ),
    "swapped file of a channel": (
        lambda m: overwrite(Path(os.path.realpath(m / "channels/production")) / "tiny/2/model.py", b"evil"),
        "channel",
        "model.py is not that of the release",
    ),
    "folder beside releases": (lambda m: (m / "old").mkdir(), "foreign", "old does not belong there"),
    "file in a release": (lambda m: (m / "releases/1/notes.txt").write_text("x"), "foreign", "releases/1/notes.txt"),
    "file among releases": (lambda m: (m / "releases/readme").write_text("x"), "foreign", "releases/readme"),
    "folder in the store": (lambda m: (m.parent / "lost+found2").mkdir(), "foreign", "lost+found2"),
    "damaged model.json": (lambda m: overwrite(m / "model.json", b"[]"), "unreadable", "model.json"),
}


@pytest.mark.parametrize("name", sorted(DAMAGE))
def test_whatever_is_wrong_is_named_with_what_to_do(store: FileStore, name: str) -> None:
    damage, kind, words = DAMAGE[name]
    damage(store.root / MODEL)
    found = troubles(store)
    match = [t for t in found if t.kind == kind and words in str(t)]
    assert match, found
    assert match[0].fix
    assert "\n" not in match[0].message


def test_what_python_writes_when_a_channel_is_served_is_no_damage(store: FileStore) -> None:
    served = Path(os.path.realpath(store.root / MODEL / "channels/production")) / "tiny/2"
    (served / "__pycache__").mkdir()
    (served / "__pycache__/model.cpython-311.pyc").write_bytes(b"code")
    assert troubles(store) == []


@pytest.mark.parametrize("name", ["other.cpython-311.pyc", "model.pyc", "model.cpython-311.so"])
def test_compiled_code_of_no_file_of_the_release_is_foreign(store: FileStore, name: str) -> None:
    served = Path(os.path.realpath(store.root / MODEL / "channels/production")) / "tiny/2"
    (served / "__pycache__").mkdir()
    (served / "__pycache__" / name).write_bytes(b"code")
    assert [t.kind for t in troubles(store)] == ["channel"]


def test_all_that_is_wrong_is_named_at_once(store: FileStore) -> None:
    model = store.root / MODEL
    for damage in ("changed byte", "bad record", "folder beside releases", "edited config of a channel"):
        DAMAGE[damage][0](model)
    assert sorted(t.kind for t in troubles(store)) == ["channel", "damaged", "foreign", "record"]


def test_a_channel_that_cannot_be_read_hides_no_other(store: FileStore) -> None:
    promote(store, "candidate", 1)
    (store.root / MODEL / "channels/candidate").unlink()
    (store.root / MODEL / "channels/candidate").write_text("1")
    DAMAGE["edited config of a channel"][0](store.root / MODEL)
    found = {t.where for t in troubles(store) if t.kind == "channel"}
    assert found == {"tiny channel candidate", "tiny channel production"}


def test_a_link_in_the_place_of_a_release_is_named_and_not_followed(store: FileStore) -> None:
    (store.root / MODEL / "releases/9").symlink_to("/etc")
    (found,) = troubles(store)
    assert (found.kind, found.where) == ("damaged", "tiny release 9")
    assert "is a symbolic link" in found.message


def test_quick_sees_sizes_and_deep_sees_bytes(store: FileStore) -> None:
    path = store.root / MODEL / PART
    overwrite(path, bytes(reversed(path.read_bytes())))
    assert troubles(store, deep=False) == []
    assert [t.kind for t in troubles(store)] == ["damaged"]


def test_what_publishers_at_work_and_killed_ones_leave_is_not_foreign(store: FileStore) -> None:
    model = store.root / MODEL
    (model / ".partial" / "0123").mkdir(parents=True)
    (model / "releases/1/records/.registration.json.01234567").write_text("x")
    (model / "releases/.removed-01234567").mkdir()
    (model / "channels/.production-01234567").symlink_to("x")
    assert troubles(store) == []


# Signatures -----------------------------------------------------------------------------------------------------------


def test_signatures_are_counted_and_bad_and_missing_ones_reported(store: FileStore, pair: KeyPair, tmp_path: Path) -> None:
    trust = trust_from_files(pair.public, None)
    sign_release(store, MODEL, 1, key_from_files(pair.private, None, None))
    (missing,) = troubles(store, trust=trust)
    assert (missing.kind, missing.where) == ("signature", "tiny release 2")
    assert "enginepress sign" in str(missing.fix)
    sign_release(store, MODEL, 2, key_from_files(write_pair(tmp_path / "keys", "mallory").private, None, None))
    (bad,) = troubles(store, trust=trust)
    assert "is signed by the key" in bad.message
    assert troubles(store, trust=None) == [], "nobody said whose signature counts"
    assert verify_store(store, deep=False).signed("unchecked") == 2


def test_a_signature_that_is_no_json_is_a_bad_record(store: FileStore, pair: KeyPair) -> None:
    sign_release(store, MODEL, 1, key_from_files(pair.private, None, None))
    overwrite(store.root / MODEL / f"releases/1/records/{RECORD}.json", b"{")
    assert [t.kind for t in troubles(store)] == ["record"]


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_ends_with_1_and_says_what_is_wrong_and_what_to_do(store: FileStore) -> None:
    good = enginepress("verify", store.root, "--deep")
    assert good.returncode == 0, good.stderr
    assert "2 releases of 1 model," in good.stdout
    DAMAGE["changed byte"][0](store.root / MODEL)
    done = enginepress("verify", store.url, "--deep")
    assert done.returncode == 1
    assert "tiny release 1: tiny/1/engine/part0.bin is not what was published" in done.stdout
    assert "next: restore it" in done.stdout
    data = json.loads(enginepress("verify", store.url, "--deep", "--json").stdout)
    assert data[0]["troubles"][0]["kind"] == "damaged"


@pytest.mark.parametrize("command", ["verify", "prune", "releases"])
def test_a_path_of_a_store_that_is_not_there_is_not_taken_for_a_recipe(command: str, tmp_path: Path) -> None:
    done = enginepress(command, tmp_path / "store" / "tinny")
    assert done.returncode == 1, done.stderr
    assert "recipe file" not in done.stderr.partition("next:")[0]
    assert "/store" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("pull", "gs://bucket/models", "tiny", "--release", "1", "--to", "there"),
        ("backup", "gs://bucket/models", "there"),
        ("backup", "there", ""),
        ("restore", "there", "gs://bucket/models"),
        ("prune", "gs://bucket/models", "--keep", "1"),
        ("verify", "gs://bucket/models"),
        ("promote", "gs://bucket/models", "1", "--channel", "production"),
    ],
    ids=" ".join,
)
def test_what_is_no_place_for_a_store_is_refused_in_words(command: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no place for a store|neither a recipe file nor STORE/MODEL"):
        app.main(args=[a.replace("there", str(tmp_path / "there")) for a in command], standalone_mode=False)


@pytest.mark.parametrize("target", ["nothing-here.yaml", "file:///nowhere/at/all"])
def test_a_target_that_is_nothing_is_refused_in_words(target: str) -> None:
    done = enginepress("verify", target)
    assert done.returncode in (1, 2)
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr
