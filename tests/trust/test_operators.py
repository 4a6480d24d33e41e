"""What operators see and do: signatures at promote, who moved what and why, doctor after something went wrong."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginepress.errors import RegistryError, SignatureError, StoreError, UsageError
from enginepress.mlflow_access import session
from enginepress.recipe import Recipe, Registry
from enginepress.recipe_file import load_recipe
from enginepress.signing import RECORD
from enginepress.steps.backup import copy_release
from enginepress.steps.doctor_stores import examine_stores
from enginepress.steps.outstanding import unsigned
from enginepress.steps.overview import moves, overview
from enginepress.steps.promote import activate, is_new_channel, move_channel, roll_back
from enginepress.steps.register import register_release
from enginepress.steps.signing import key_from_files, sign_release, sign_where_wanted, signing_key
from enginepress.steps.verify_store import verify_store
from enginepress.stores.filesystem import FileStore
from enginepress.stores.open import open_store
from enginepress.workspace import Workspace
from tests.registry.conftest import empty_database  # noqa: F401
from tests.run.recipes import enginepress
from tests.stores.parts import MODEL
from tests.trust.keys import KeyPair, write_pair
from tests.trust.site import make_site, publish_release

NOWHERE = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Place:
    """A recipe file with two stores; the first holds releases 1 to 3, production on 2, candidate on 3."""

    folder: Path
    file: Path

    @property
    def recipe(self) -> Recipe:
        return load_recipe(self.file)

    @property
    def stores(self) -> list[Any]:
        return [open_store(s) for s in self.recipe.stores]

    def write(self, **changes: Any) -> Recipe:
        fields = {
            "name": MODEL,
            "source": f"file://{self.folder}/source-1",
            "stores": [f"file://{self.folder}/store", f"file://{self.folder}/second"],
            "registry": {"tracking_uri": NOWHERE},
        }
        self.file.write_text(yaml.safe_dump({**fields, **changes}))
        return self.recipe


@pytest.fixture
def place(tmp_path: Path) -> Place:
    site = make_site(tmp_path / "site")
    made = Place(tmp_path / "site", tmp_path / "site" / "recipe.yaml")
    made.write()
    second = FileStore(tmp_path / "site" / "second")
    for number in (1, 2, 3):
        copy_release(
            site.store,
            second,
            site.store.manifest(MODEL, number),
            Workspace(tmp_path / "w"),
            primary=site.store.url,
            progress=None,
        )
    for channel, number in site.store.channels(MODEL).items():
        activate(second, MODEL, channel, number, who="ana", why="as in the first")
    return made


def move(recipe: Recipe, channel: str, number: int, **more: Any) -> None:
    """Where there is no MLflow: only that may fail."""
    with pytest.raises(RegistryError, match="only MLflow's alias could not be moved"):
        move_channel(recipe, channel, number, who="ana", why="because", default_uri="", **more)


# Signing in a recipe --------------------------------------------------------------------------------------------------


def test_promote_and_rollback_want_signatures_in_every_store_before_anything_moves(place: Place, pair: KeyPair) -> None:
    recipe = place.write(signing={"public_key": str(pair.public), "require": True})
    first, second = place.stores
    key = key_from_files(pair.private, None, None)
    with pytest.raises(SignatureError, match="release 1 of tiny is not signed"):
        move_channel(recipe, "production", 1, who="ana", why="", default_uri="")
    sign_release(first, MODEL, 1, key)
    with pytest.raises(SignatureError, match="is not signed") as caught:
        move_channel(recipe, "production", 1, who="ana", why="", default_uri="")
    assert "second" in str(caught.value.where)
    with pytest.raises(SignatureError):
        roll_back(recipe, "production", to=None, who="ana", why="", default_uri="")
    assert first.channels(MODEL) == second.channels(MODEL) == {"candidate": 3, "production": 2}
    sign_release(second, MODEL, 1, key)
    move(recipe, "production", 1)
    assert first.channel(MODEL, "production") == second.channel(MODEL, "production") == 1


def test_a_run_signs_once_and_the_other_stores_get_the_same_signature(
    place: Place, pair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELEASE_KEY", str(pair.private))
    recipe = place.write(signing={"key": "${RELEASE_KEY}", "public_key": str(pair.public), "require": True})
    assert "PRIVATE" not in json.dumps(recipe.canonical())
    assert recipe.secret_variables() >= {"RELEASE_KEY"}
    stores = place.stores
    assert unsigned(recipe, stores, 3)
    assert sign_where_wanted(recipe, stores, 3)
    assert not sign_where_wanted(recipe, stores, 3)
    assert not unsigned(recipe, stores, 3)
    assert stores[0].read_record(MODEL, 3, RECORD) == stores[1].read_record(MODEL, 3, RECORD)
    monkeypatch.setenv("RELEASE_KEY", pair.private.read_text())
    found = signing_key(recipe)
    assert found is not None
    assert found.pem == pair.private.read_bytes(), "the variable may hold the key itself"


@pytest.mark.parametrize(
    ("signing", "words"),
    [
        ({"key": "release.key"}, "a secret is never written into a recipe"),
        ({"require": True}, "require needs public_key or trusted_certificates"),
        ({"public_key": "nowhere.pub"}, "signing.public_key: cannot be read"),
        ({"public_key": "release.key"}, "holds a private key"),
        ({"public_key": "a", "trusted_certificates": "b"}, "not both"),
        ({"certificate": "a"}, "belong to a key"),
        ({"require_signature": True}, "did you mean 'require'"),
    ],
)
def test_what_makes_no_sense_in_a_recipe_is_refused_in_words(place: Place, pair: KeyPair, signing: dict, words: str) -> None:  # type: ignore[type-arg]
    shutil.copy(pair.private, place.folder / "release.key")
    fields = yaml.safe_load(place.file.read_text())
    place.file.write_text(yaml.safe_dump({**fields, "signing": signing}))
    done = enginepress("releases", place.file)
    assert done.returncode == 2
    assert words in done.stderr
    assert "PRIVATE" not in done.stderr


def test_signing_does_not_change_what_is_built(place: Place, pair: KeyPair) -> None:
    before = place.recipe.build_fields()
    assert place.write(signing={"public_key": str(pair.public)}).build_fields() == before


def test_a_key_that_an_operator_names_counts_more_than_the_recipe(place: Place, pair: KeyPair, tmp_path: Path) -> None:
    sign_release(place.stores[0], MODEL, 1, key_from_files(pair.private, None, None))
    other = write_pair(tmp_path / "keys", "other")
    where = ("promote", place.stores[0].url + f"/{MODEL}", "1", "--channel", "production", "-w", tmp_path / "w")
    done = enginepress(*where, "--public-key", other.public)
    assert done.returncode == 1
    assert "not by the trusted key" in done.stderr
    done = enginepress(*where, env={"ENGINEPRESS_PUBLIC_KEY": str(other.public)})
    assert "not by the trusted key" in done.stderr
    done = enginepress(*where, "--public-key", pair.public)
    assert "only MLflow's alias could not be moved" in done.stderr


def test_sign_signs_once_and_anew_if_told(place: Place, pair: KeyPair, tmp_path: Path) -> None:
    arguments = ("sign", place.folder / "store", MODEL, "1", "2")
    done = enginepress(*arguments, "--key", pair.private)
    assert done.stdout == "release 1 of tiny is signed\nrelease 2 of tiny is signed\n"
    assert "was signed before" in enginepress(*arguments, "--key", pair.private).stdout
    done = enginepress("verify", place.folder / "store", "--public-key", pair.public)
    assert done.returncode == 1
    assert "tiny release 3: is not signed, and a signature is required" in done.stdout
    other = write_pair(tmp_path / "keys", "other")
    assert enginepress(*arguments, "--again", env={"ENGINEPRESS_SIGNING_KEY": str(other.private)}).returncode == 0
    done = enginepress("verify", place.folder / "store", "--public-key", pair.public, "--json")
    assert {s["state"] for s in json.loads(done.stdout)[0]["signatures"][MODEL].values()} == {"bad", "unsigned"}


# Who, when, why -------------------------------------------------------------------------------------------------------


def test_releases_shows_every_move_and_what_is_signed_and_where(place: Place, pair: KeyPair) -> None:
    sign_release(place.stores[0], MODEL, 2, key_from_files(pair.private, None, None))
    done = enginepress("releases", place.file, "--history")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + 5
    assert any("production" in line and "2 (back)" in line and "bob" in line and "it was not" in line for line in lines)
    rows = json.loads(enginepress("releases", place.file, "--history", "--json").stdout)
    assert rows == [row.to_json() for row in moves(place.recipe)]
    assert {"channel": "production", "release": 1, "previous": None, "who": "ana", "back": False}.items() <= next(
        r for r in rows if r["channel"] == "production"
    ).items()
    listed = json.loads(enginepress("releases", place.file, "--json").stdout)
    assert [row["signature"] for row in listed] == ["unsigned", "unchecked", "unsigned"]
    assert listed[0]["stores"] == [s.url for s in place.stores]
    recipe = place.write(signing={"public_key": str(pair.public)})
    assert [row.signature for row in overview(recipe)] == ["unsigned", "good", "unsigned"]
    table = enginepress("releases", place.file).stdout
    assert "signed" in table
    assert "2 of 2" in table


@pytest.mark.parametrize("channel", ["latest", "v2"])
def test_names_that_mlflow_keeps_for_itself_are_no_channels(place: Place, channel: str) -> None:
    with pytest.raises(UsageError, match="MLflow keeps 'latest'"):
        is_new_channel(place.recipe, channel, meant=True)


def test_a_move_that_somebody_else_was_faster_with_is_refused(place: Place) -> None:
    url = f"{place.stores[0].url}/{MODEL}"
    done = enginepress("promote", url, "3", "--channel", "production", "--expect", "1")
    assert done.returncode == 1
    assert "channel production of tiny is on release 2, not on release 1: somebody moved it meanwhile" in done.stderr
    assert place.stores[0].channel(MODEL, "production") == 2
    with pytest.raises(StoreError, match="is on release 2, not on no release"):
        move_channel(place.recipe, "production", 3, who="a", why="b", default_uri="", expect=None)


def test_who_expects_another_release_is_told_that_the_channel_is_where_he_wanted_it_already(place: Place) -> None:
    url = f"{place.stores[0].url}/{MODEL}"
    done = enginepress("promote", url, "2", "--channel", "production", "--expect", "1")
    assert done.returncode == 1
    assert "channel production of tiny is on release 2 already, not on release 1: somebody moved it meanwhile" in done.stderr
    assert "`--expect 2` finishes what may lack" in done.stderr
    assert len(place.stores[0].history(MODEL, "production")) == 4, "nothing was moved"
    with pytest.raises(RegistryError, match="is on release 2 now; only MLflow's alias could not be moved"):
        move_channel(place.recipe, "production", 2, who="a", why="b", default_uri="", expect=2)


def test_a_channel_that_dangles_is_mended_by_the_command_that_its_message_names(place: Place) -> None:
    store = place.stores[0]
    shutil.rmtree((store.root / MODEL / "channels/production").resolve())
    with pytest.raises(StoreError, match="which is gone") as caught:
        store.channel(MODEL, "production")
    assert "enginepress promote TARGET 2 --channel production" in str(caught.value.fix)
    move(place.recipe, "production", 2)
    assert store.channel(MODEL, "production") == 2


def test_an_activation_that_was_edited_is_made_anew_by_the_command_that_verify_names(place: Place) -> None:
    store = place.stores[0]
    config = store.channel_path(MODEL, "production") / MODEL / "config.pbtxt"
    config.write_text(config.read_text() + "max_batch_size: 3\n")
    (trouble,) = verify_store(store, deep=False).troubles
    assert trouble.fix == f"make it anew: `enginepress promote {store.url}/{MODEL} 2 --channel production`"
    move(place.recipe, "production", 2)
    assert verify_store(store, deep=False).troubles == []


# doctor ---------------------------------------------------------------------------------------------------------------


def findings(place: Place, *, repair: bool = False) -> list[tuple[str, str, str]]:
    found = examine_stores(place.recipe, Workspace(place.folder / "workspace"), repair)
    return [(f.status, f.what, f.message) for f in found if f.status != "ok"]


def test_doctor_finds_nothing_where_all_agree(place: Place) -> None:
    assert findings(place) == []


def test_doctor_warns_of_a_store_that_no_run_could_publish_to(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    releases = place.stores[1].root / MODEL / "releases"
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != releases and allowed(path, mode))
    (found,) = [f for f in examine_stores(place.recipe, Workspace(place.folder / "w"), False) if f.status != "ok"]
    assert (found.status, found.what) == ("warning", f"store {place.stores[1].url}")
    assert found.message.startswith(f"no run could publish there: {releases}: writing to the store failed")
    assert "right to write there" in (found.fix or "")


def test_doctor_brings_a_second_store_back_in_line(place: Place, pair: KeyPair, tmp_path: Path) -> None:
    first, second = place.stores
    place.write(signing={"public_key": str(pair.public)})
    recipe = place.recipe
    made = publish_release(first, recipe, tmp_path / "four", b"four")
    sign_release(first, MODEL, made.release, key_from_files(pair.private, None, None))
    activate(first, MODEL, "production", made.release, who="ana", why="four")
    assert ("error", f"channel production in {second.url}", "is on release 2; in the primary store it is on 4") in findings(place)
    mended = [f for f in findings(place, repair=True) if f[0] == "mended"]
    assert mended == [("mended", f"channel production in {second.url}", "moved to release 4, which was copied there")]
    assert second.channel(MODEL, "production") == 4
    assert second.read_record(MODEL, 4, RECORD) == first.read_record(MODEL, 4, RECORD)
    assert not [f for f in findings(place) if f[0] == "error"]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("channel", ["production", "preview"])
def test_doctor_reports_a_channel_that_dangles_in_any_store_and_makes_it_anew(place: Place, which: int, channel: str) -> None:
    store = place.stores[which]
    activate(store, MODEL, "preview", 1, who="ana", why="only here")
    shutil.rmtree((store.root / MODEL / "channels" / channel).resolve())
    number = {"production": 2, "preview": 1}[channel]
    (found,) = [f for f in findings(place) if f[1] == f"channel {channel} in {store.url}"]
    assert found[0] == "error"
    assert "is gone, so nobody can read release" in found[2]
    mended = [f for f in findings(place, repair=True) if f[1] == found[1]]
    assert mended == [("mended", found[1], f"made anew on release {number}")]
    assert store.channel(MODEL, channel) == number


def _lose(store: FileStore, number: int, *channels: str) -> None:
    """The release goes, and what the readers of these channels see, which no command of ours does."""
    for channel in channels:
        shutil.rmtree((store.root / MODEL / "channels" / channel).resolve())
    shutil.rmtree(store.root / MODEL / "releases" / str(number))


def test_doctor_takes_a_channel_whose_release_is_gone_back_to_the_last_whole_one(place: Place) -> None:
    first, second = place.stores
    activate(first, MODEL, "candidate", 1, who="ana", why="one")
    activate(first, MODEL, "candidate", 2, who="ana", why="two")
    activate(first, MODEL, "candidate", 3, who="ana", why="three")
    next((first.root / MODEL / "releases/2/repository").rglob("*.bin")).unlink()
    _lose(first, 3, "candidate")
    what = f"channel candidate in {first.url}"
    (found,) = [f for f in examine_stores(place.recipe, Workspace(place.folder / "w"), False) if f.what == what]
    assert "which is gone, so nobody can read release 3 there" in found.message
    assert "the channel goes back to release 1" in found.fix
    assert first.channels(MODEL)["candidate"] == 3, "looking moves nothing"
    mended = [f for f in findings(place, repair=True) if f[0] == "mended"]
    assert mended == [
        ("mended", what, "moved back to release 1, since release 3 is not in the store"),
        ("mended", f"channel candidate in {second.url}", "moved to release 1"),
    ]
    last = first.history(MODEL, "candidate")[-1]
    assert (last.release, last.previous, last.back) == (1, 3, True)
    assert last.why == "enginepress doctor --repair: release 3 is not in the store"


def test_doctor_leaves_a_channel_whose_readers_still_have_the_release(place: Place) -> None:
    first = place.stores[0]
    _lose(first, 2)
    (found,) = [f for f in findings(place, repair=True) if f[1] == f"channel production in {first.url}"]
    assert found[0] == "error"
    assert "is on release 2, which is not in the store" in found[2]
    assert first.channels(MODEL)["production"] == 2


def test_doctor_leaves_a_channel_that_was_on_no_other_release(place: Place) -> None:
    first = place.stores[0]
    activate(first, MODEL, "preview", 3, who="ana", why="first")
    _lose(first, 3, "preview", "candidate")
    (found,) = [f for f in findings(place, repair=True) if f[1] == f"channel preview in {first.url}"]
    assert found[0] == "error"
    assert first.channels(MODEL)["preview"] == 3


def test_doctor_reports_a_channel_whose_readers_see_something_else(place: Place) -> None:
    second = place.stores[1]
    config = second.channel_path(MODEL, "production") / MODEL / "config.pbtxt"
    config.write_text(config.read_text() + "max_batch_size: 3\n")
    assert findings(place) == [
        ("error", f"channel production in {second.url}", f"{MODEL}/config.pbtxt is not that of the release")
    ]


def test_doctor_names_a_link_that_is_no_channel(place: Place) -> None:
    link = place.stores[0].root / MODEL / "channels/production"
    link.unlink()
    link.symlink_to("/etc")
    found = findings(place)
    assert {status for status, _, _ in found} == {"error"}
    assert all("points to /etc, which is no activation of this channel" in message for _, _, message in found)


def test_doctor_reports_and_copies_signatures(place: Place, pair: KeyPair, tmp_path: Path) -> None:
    first, second = place.stores
    place.write(signing={"public_key": str(pair.public), "require": True})
    sign_release(first, MODEL, 2, key_from_files(pair.private, None, None))
    sign_release(first, MODEL, 1, key_from_files(write_pair(tmp_path / "keys", "mallory").private, None, None))
    found = {what: (status, message) for status, what, message in findings(place)}
    assert found["signature of release 1"][0] == "error"
    assert "not by the trusted key" in found["signature of release 1"][1]
    assert found["signature of release 3"] == ("error", "is missing, and a channel is on the release")
    assert found[f"signature of release 2 in {second.url}"] == ("error", "is not that of the primary store")
    assert ("mended", f"signature of release 2 in {second.url}", "copied from the primary store") in findings(place, repair=True)
    assert second.read_record(MODEL, 1, RECORD) is None, "a bad one is not spread"


def test_doctor_names_releases_that_differ_and_things_that_lie_about(place: Place) -> None:
    second = place.stores[1]
    manifest = second.root / MODEL / "releases/1/manifest.json"
    other = second.manifest(MODEL, 1)
    changed = type(other)(**{**vars(other), "created": "2020-01-01T00:00:00Z"})
    manifest.chmod(0o644)
    manifest.write_text(changed.to_text())
    (second.root / MODEL / "notes.txt").write_text("x")
    said = [message for _, _, message in findings(place)]
    assert "release 1 is another one than that of the primary store" in said
    assert any("notes.txt" in message for message in said)


@pytest.mark.slow
def test_a_version_of_another_release_with_the_same_number_does_not_count_as_registered(
    place: Place,
    tmp_path: Path,
    empty_database: Path,  # noqa: F811
) -> None:
    """A store was lost and made anew; MLflow still has the versions of the old one."""
    shutil.copy(empty_database, place.folder / "mlflow.db")
    uri = f"sqlite:///{place.folder}/mlflow.db"
    old = make_site(tmp_path / "old", releases=4)
    here = place.write(registry={"tracking_uri": uri})
    other = replace(old.store.manifest(MODEL, 2), created="2020-01-01T00:00:00Z")
    path = old.store.root / MODEL / "releases/2/manifest.json"
    path.chmod(0o644)
    path.write_text(other.to_text())
    register_release(here, old.store, 2, default_uri=uri)
    place.stores[0].write_record(MODEL, 2, "registration", {"stores": [], "tracking_uri": uri, "model_version": 1})

    def found(*more: str) -> list[str]:
        done = enginepress("doctor", place.file, "-w", tmp_path / "w", "--json", *more)
        return [f["message"] for f in json.loads(done.stdout) if f["what"].startswith("registry")]

    assert {"version 1 of tiny stands for another release 2", "release 2 is not registered"} <= set(found())
    assert "release 2 registered" in found("--repair")
    assert "release 2 is not registered" not in found()


@pytest.mark.slow
def test_an_alias_that_could_not_be_moved_is_moved_by_doctor(
    place: Place,
    tmp_path: Path,
    empty_database: Path,  # noqa: F811
) -> None:
    """MLflow was away while the channel moved; the store is right, and MLflow follows."""
    shutil.copy(empty_database, place.folder / "mlflow.db")
    uri = f"sqlite:///{place.folder}/mlflow.db"
    here = place.write(registry={"tracking_uri": uri})
    for number in (1, 2, 3):
        register_release(here, place.stores[0], number, default_uri=uri)
    away = place.write()
    move(away, "production", 3)
    assert place.stores[0].channel(MODEL, "production") == 3
    place.write(registry={"tracking_uri": uri})

    def alias() -> str:
        with session(uri, Registry(), doing="looking") as client:
            return str(client.get_model_version_by_alias(MODEL, "production").tags["release"])

    assert alias() == "2"
    found = enginepress("doctor", place.file, "-w", tmp_path / "w", "--json")
    wrong = [f for f in json.loads(found.stdout) if f["what"] == "channel production"]
    assert wrong[0]["message"] == "is on release 3, MLflow's alias on 2"
    assert wrong[0]["fix"] == "run the same command with --repair"
    found = enginepress("doctor", place.file, "-w", tmp_path / "w", "--json", "--repair")
    mended = [f for f in json.loads(found.stdout) if f["what"] == "channel production"]
    assert (mended[0]["status"], mended[0]["message"]) == ("mended", "MLflow's alias moved to release 3")
    assert alias() == "3"
