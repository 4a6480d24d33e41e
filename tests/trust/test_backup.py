"""Backup and restore: what comes back is what was there, whatever is killed when, and nothing else is overwritten."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from enginepress.errors import EnginepressError, RegistryError, StoreError
from enginepress.mlflow_access import session
from enginepress.recipe import Registry
from enginepress.recipe import Store as StoreSettings
from enginepress.registry_entries import BEFORE
from enginepress.repository.place import content_digest_of, place
from enginepress.signing import RECORD, Trust
from enginepress.steps.backup import backup, copy_release
from enginepress.steps.catalogue import CATALOGUE
from enginepress.steps.promote import activate, move_channel
from enginepress.steps.prune import Policy, plan_prune
from enginepress.steps.restore import restore
from enginepress.steps.signing import key_from_files, require_signature, sign_release, trust_from_files
from enginepress.steps.stored_recipe import stored_recipe
from enginepress.steps.verify_store import verify_store
from enginepress.stores.filesystem import FileStore
from enginepress.stores.store import Allotment
from enginepress.workspace import Workspace
from tests.registry.conftest import empty_database  # noqa: F401
from tests.repository import samples
from tests.run.recipes import enginepress
from tests.stores.parts import MODEL, key, make_source, manifest, publish
from tests.trust.keys import KeyPair
from tests.trust.site import Site, make_site, publish_release, registered


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "site")


@pytest.fixture
def kept(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "kept")


@pytest.fixture
def fresh(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "fresh")


def history(store: FileStore, channel: str) -> list[tuple[object, ...]]:
    return [(m.release, m.previous, m.at, m.who, m.why, m.back) for m in store.history(MODEL, channel)]


def same(one: FileStore, other: FileStore) -> None:
    """Everything that readers, operators and verifiers see."""
    assert one.numbers(MODEL) == other.numbers(MODEL)
    for number in one.numbers(MODEL):
        assert one.manifest_bytes(MODEL, number) == other.manifest_bytes(MODEL, number)
        assert content_digest_of(other.repository(MODEL, number)) == one.manifest(MODEL, number).content_digest
        theirs = {k: v for k, v in other.records(MODEL, number).items() if k not in (CATALOGUE, "registration")}
        assert {k: v for k, v in one.records(MODEL, number).items() if k not in (CATALOGUE, "registration")} == theirs
    assert one.channels(MODEL) == other.channels(MODEL)
    for channel in one.channels(MODEL):
        assert history(one, channel) == history(other, channel)
        assert [m.activation for m in one.history(MODEL, channel)] == [m.activation for m in other.history(MODEL, channel)]
        seen = other.channel_path(MODEL, channel)
        assert content_digest_of(Path(os.path.realpath(seen))) == one.manifest(MODEL, one.channels(MODEL)[channel]).content_digest
    assert one.allotment(MODEL) == other.allotment(MODEL)


# There and back -------------------------------------------------------------------------------------------------------


def test_what_comes_back_is_what_was_there(site: Site, kept: FileStore, fresh: FileStore, workspace: Workspace) -> None:
    (done,) = backup(site.store, kept, workspace=workspace)
    assert (done.copied, done.there, done.channels) == ([1, 2, 3], [], ["candidate", "production"])
    shutil.rmtree(site.store.root.parent / "source-1")
    (back,) = restore(kept, fresh, workspace=workspace, registry=None)
    assert back.copied == [1, 2, 3]
    same(site.store, fresh)
    for store in (site.store, kept, fresh):
        assert verify_store(store, deep=True).troubles == []


def test_a_restored_channel_moves_and_rolls_back_as_if_nothing_had_happened(
    site: Site, kept: FileStore, fresh: FileStore, workspace: Workspace
) -> None:
    backup(site.store, kept, workspace=workspace)
    restore(kept, fresh, workspace=workspace, registry=None)
    for store in (site.store, fresh):
        activate(store, MODEL, "production", store.previous(MODEL, "production"), who="eve", why="again", back=True)
        activate(store, MODEL, "candidate", 2, who="eve", why="down", expect=3)
        assert [m.release for m in store.history(MODEL, "production")] == [1, 2, 3, 2, 1]
        assert [m.release for m in store.history(MODEL, "candidate")] == [3, 2]


def test_the_next_release_gets_a_number_that_none_ever_had(
    site: Site, kept: FileStore, fresh: FileStore, workspace: Workspace, tmp_path: Path
) -> None:
    activate(site.store, MODEL, "candidate", 2, who="ana", why="so that 3 can go")
    site.store.remove(MODEL, 3)
    backup(site.store, kept, workspace=workspace)
    restore(kept, fresh, workspace=workspace, registry=None)
    assert fresh.numbers(MODEL) == [1, 2]
    assert publish_release(fresh, site.recipe, tmp_path / "new", b"new").release == 4


def test_signatures_hold_after_a_restore(
    site: Site, kept: FileStore, fresh: FileStore, workspace: Workspace, pair: KeyPair
) -> None:
    sign_release(site.store, MODEL, 2, key_from_files(pair.private, None, None))
    backup(site.store, kept, workspace=workspace)
    restore(kept, fresh, workspace=workspace, registry=None)
    trust: Trust | None = trust_from_files(pair.public, None)
    for store in (kept, fresh):
        assert require_signature(store, MODEL, 2, trust) is not None


def test_a_second_backup_copies_only_what_is_new_and_brings_records_and_channels_up_to_date(
    site: Site, kept: FileStore, fresh: FileStore, workspace: Workspace, tmp_path: Path, pair: KeyPair
) -> None:
    backup(site.store, kept, workspace=workspace)
    before = (kept.root / MODEL / "releases/1/repository/tiny/1/engine/part0.bin").stat().st_mtime_ns
    publish_release(site.store, site.recipe, tmp_path / "four", b"four")
    activate(site.store, MODEL, "production", 4, who="ana", why="four")
    sign_release(site.store, MODEL, 1, key_from_files(pair.private, None, None))
    (done,) = backup(site.store, kept, workspace=workspace)
    assert (done.copied, done.there) == ([4], [1, 2, 3])
    assert (kept.root / MODEL / "releases/1/repository/tiny/1/engine/part0.bin").stat().st_mtime_ns == before
    assert kept.read_record(MODEL, 1, RECORD) == site.store.read_record(MODEL, 1, RECORD)
    restore(kept, fresh, workspace=workspace, registry=None)
    same(site.store, fresh)


def test_releases_that_the_store_removed_stay_in_the_backup_are_not_restored_and_go_when_asked(
    site: Site, kept: FileStore, fresh: FileStore, workspace: Workspace
) -> None:
    backup(site.store, kept, workspace=workspace)
    site.store.remove(MODEL, 1)
    activate(site.store, MODEL, "candidate", 2, who="ana", why="so that 3 can go")
    site.store.remove(MODEL, 3)
    (done,) = backup(site.store, kept, workspace=workspace)
    assert (done.left, done.removed, kept.numbers(MODEL)) == ([1, 3], [], [1, 2, 3])
    restore(kept, fresh, workspace=workspace, registry=None)
    assert fresh.numbers(MODEL) == [2]
    (done,) = backup(site.store, kept, workspace=workspace, prune=True)
    assert (done.removed, kept.numbers(MODEL)) == ([1, 3], [2])
    restore(kept, FileStore(fresh.root.with_name("again")), workspace=workspace, registry=None)


def test_until_a_backup_that_failed_half_way_is_run_again_the_complete_one_before_is_restored(
    site: Site, kept: FileStore, fresh: FileStore, workspace: Workspace, tmp_path: Path
) -> None:
    backup(site.store, kept, workspace=workspace)
    publish_release(site.store, site.recipe, tmp_path / "four", b"four")
    # As a backup leaves it that is killed just before its catalogue: the newest release has none.
    copy_release(site.store, kept, site.store.manifest(MODEL, 4), workspace, primary=site.store.url, progress=None)
    assert kept.read_record(MODEL, 4, CATALOGUE) is None
    restore(kept, fresh, workspace=workspace, registry=None)
    assert fresh.numbers(MODEL) == [1, 2, 3]
    assert fresh.channels(MODEL) == {"candidate": 3, "production": 2}


def test_models_behind_others_carry_the_number_of_the_release_in_a_restored_channel(
    kept: FileStore, fresh: FileStore, workspace: Workspace, tmp_path: Path
) -> None:
    store = FileStore(tmp_path / "store")
    source = samples.write(tmp_path / "source", samples.tensorrt_llm("0"))
    store.publish(
        MODEL,
        place=lambda n: place(source, n, None),
        describe=lambda n, files: replace(manifest(n, files, key("e")), content_digest=content_digest_of(source)),
    )
    activate(store, MODEL, "production", 1, who="ana", why="first")
    backup(store, kept, workspace=workspace, registry=False)
    restore(kept, fresh, workspace=workspace, registry=None)
    seen = [sorted(os.listdir(s.channel_path(MODEL, "production"))) for s in (store, fresh)]
    assert seen[0] == seen[1]
    assert any(name.endswith(".r1") for name in seen[1])


def test_a_store_that_is_not_there_is_no_backup_that_succeeded(kept: FileStore, workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "not-mounted").mkdir()
    with pytest.raises(StoreError, match="holds no models"):
        backup(FileStore(tmp_path / "not-mounted"), kept, workspace=workspace)


def test_a_file_that_was_replaced_by_a_link_is_not_followed_out_of_the_store(
    site: Site, kept: FileStore, workspace: Workspace, tmp_path: Path
) -> None:
    path = site.store.root / MODEL / "releases/2/repository/tiny/2/engine/part0.bin"
    path.parent.chmod(0o755)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"release 2 of tiny is damaged: .*is a symbolic link"):
        backup(site.store, kept, workspace=workspace)
    with pytest.raises(StoreError, match="is a symbolic link"):
        site.store.fetch(MODEL, 2, tmp_path / "fetched")


def test_channels_of_a_backup_are_not_moved_and_nothing_in_it_is_pruned(
    site: Site, kept: FileStore, workspace: Workspace
) -> None:
    backup(site.store, kept, workspace=workspace)
    recipe = site.recipe.model_copy(update={"stores": [StoreSettings(url=kept.url)]})
    with pytest.raises(StoreError, match="is the backup of"):
        move_channel(recipe, "production", 3, who="ana", why="", default_uri="")
    with pytest.raises(StoreError, match=r"is the backup of .*--prune"):
        plan_prune([kept], MODEL, Policy(younger_than=1.0, grace=0.0))
    assert kept.channels(MODEL) == {}
    # Made a store of its own on purpose, it is one.
    kept.allot(MODEL, Allotment(None, 3))
    plan_prune([kept], MODEL, Policy(younger_than=1.0, grace=0.0))


def test_named_models_alone_are_backed_up(site: Site, kept: FileStore, workspace: Workspace) -> None:
    with pytest.raises(StoreError, match="holds no model 'large'"):
        backup(site.store, kept, ["large"], workspace=workspace)
    assert not kept.root.exists()
    assert [d.model for d in backup(site.store, kept, [MODEL], workspace=workspace)] == [MODEL]


def test_a_channel_that_no_restore_could_bring_back_is_told_before_anything_is_copied(
    site: Site, kept: FileStore, workspace: Workspace
) -> None:
    """Its release was deleted by hand; who mounts the store still reads it."""
    shutil.rmtree(site.store.root / MODEL / "releases/3")
    with pytest.raises(StoreError, match="candidate of tiny is on release 3, which is not in the store") as caught:
        backup(site.store, kept, workspace=workspace)
    assert f"`enginepress promote {site.store.url}/{MODEL} N --channel candidate`" in str(caught.value.fix)
    assert not kept.root.exists()
    activate(site.store, MODEL, "candidate", 2, who="ana", why="3 is gone")
    assert backup(site.store, kept, workspace=workspace)[0].copied == [1, 2]


# MLflow ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def databases(tmp_path: Path, empty_database: Path) -> tuple[str, str]:  # noqa: F811
    """Two MLflows, both empty."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        shutil.copy(empty_database, tmp_path / name / "mlflow.db")
    return f"sqlite:///{tmp_path}/old/mlflow.db", f"sqlite:///{tmp_path}/new/mlflow.db"


def test_an_empty_mlflow_knows_the_releases_again_and_what_people_wrote_beside_them(
    tmp_path: Path, databases: tuple[str, str], kept: FileStore, fresh: FileStore, workspace: Workspace
) -> None:
    old, new = databases
    site = make_site(tmp_path / "site", uri=old)
    assert registered(old) == {3: ("candidate",), 2: ("production", "shadow"), 1: ()}
    (done,) = backup(site.store, kept, workspace=workspace)
    assert done.registered == 3
    (back,) = restore(kept, fresh, workspace=workspace, registry=Registry(tracking_uri=new))
    assert back.registered == 3
    assert registered(new) == registered(old)
    with session(new, Registry(), doing="looking") as client:
        model = client.get_registered_model(MODEL)
        version = client.get_model_version(MODEL, "1")
    assert (model.description, model.tags) == ("the small one", {"team": "search"})
    assert (version.description, version.tags["approved_by"]) == ("fast but proud", "legal")
    assert version.tags["release"] == "3"
    assert version.tags["stores"] == json.dumps([fresh.url])
    assert version.tags[BEFORE] == f"version 1 of {old}"
    record = fresh.read_record(MODEL, 3, "registration")
    assert record is not None
    assert record["tracking_uri"] == new
    # Once more changes nothing.
    restore(kept, fresh, workspace=workspace, registry=Registry(tracking_uri=new))
    assert registered(new) == registered(old)


def test_an_mlflow_with_other_releases_of_the_model_is_refused_before_anything_is_copied(
    tmp_path: Path, databases: tuple[str, str], kept: FileStore, fresh: FileStore, workspace: Workspace
) -> None:
    old, new = databases
    backup(make_site(tmp_path / "site", uri=old).store, kept, workspace=workspace)
    make_site(tmp_path / "other", uri=new, releases=2)
    with pytest.raises(RegistryError, match="version 1 of tiny there stands for another release 2"):
        restore(kept, fresh, workspace=workspace, registry=Registry(tracking_uri=new))
    assert not fresh.root.exists()


def test_without_its_mlflow_a_backup_says_so_and_goes_on_without_it_if_told(
    tmp_path: Path, kept: FileStore, workspace: Workspace
) -> None:
    site = make_site(tmp_path / "site", named="http://127.0.0.1:9")
    with pytest.raises(RegistryError, match="MLflow cannot be reached at"):
        backup(site.store, kept, workspace=workspace)
    (done,) = backup(site.store, kept, workspace=workspace, registry=False)
    assert (done.there, done.registered) == ([1, 2, 3], None)


def test_an_mlflow_that_has_lost_the_model_is_no_reason_to_forget_what_was_there(
    tmp_path: Path, databases: tuple[str, str], kept: FileStore, workspace: Workspace
) -> None:
    site = make_site(tmp_path / "site", named=databases[1])
    with pytest.raises(RegistryError, match="does not know tiny, though"):
        backup(site.store, kept, workspace=workspace)


# Refusals -------------------------------------------------------------------------------------------------------------


def test_places_that_hold_something_else_are_refused_and_left_alone(
    site: Site, kept: FileStore, fresh: FileStore, workspace: Workspace, tmp_path: Path
) -> None:
    kept.root.mkdir()
    (kept.root / "thesis.doc").write_text("mine")
    with pytest.raises(StoreError, match=r"holds something that is no backup: thesis\.doc"):
        backup(site.store, kept, workspace=workspace)
    assert [p.name for p in kept.root.iterdir()] == ["thesis.doc"]
    for around in (site.store.root / "kept", site.store.root.parent):
        with pytest.raises(StoreError, match="or around it"):
            backup(site.store, FileStore(around), workspace=workspace)
    other = FileStore(tmp_path / "other")
    publish(other, make_source(tmp_path / "elsewhere"), key("z"))
    with pytest.raises(StoreError, match="tiny there is a store of its own"):
        backup(site.store, other, workspace=workspace)
    with pytest.raises(StoreError, match="is the store itself"):
        backup(site.store, site.store, workspace=workspace)
    backup(site.store, FileStore(tmp_path / "good"), workspace=workspace)
    with pytest.raises(StoreError, match="is a backup or copy of"):
        backup(other, FileStore(tmp_path / "good"), workspace=workspace)
    with pytest.raises(StoreError, match="holds releases of tiny already: 1"):
        restore(FileStore(tmp_path / "good"), other, workspace=workspace, registry=None)
    assert other.numbers(MODEL) == [1]
    for nothing in (fresh, other):
        with pytest.raises(StoreError, match="backup"):
            restore(nothing, FileStore(tmp_path / "nowhere"), workspace=workspace, registry=None)


def test_nobody_publishes_into_a_backup_or_a_store_that_is_half_restored(
    site: Site, kept: FileStore, workspace: Workspace, tmp_path: Path
) -> None:
    backup(site.store, kept, workspace=workspace)
    with pytest.raises(StoreError, match="follows the store"):
        publish_release(kept, site.recipe, tmp_path / "new", b"new")


def test_a_damaged_release_is_not_backed_up_and_a_damaged_backup_not_restored(
    site: Site, kept: FileStore, fresh: FileStore, workspace: Workspace
) -> None:
    backup(site.store, kept, workspace=workspace)
    for store in (site.store, kept):
        path = store.root / MODEL / "releases/2/repository/tiny/2/engine/part0.bin"
        data = path.read_bytes()
        path.unlink()  # releases share files
        path.write_bytes(data[::-1])
    with pytest.raises(StoreError, match="sha256") as caught:
        backup(site.store, FileStore(kept.root.with_name("second")), workspace=workspace)
    assert "restore it from another store or a backup" in str(caught.value.fix)
    with pytest.raises(StoreError, match="sha256"):
        restore(kept, fresh, workspace=workspace, registry=None)
    assert fresh.numbers(MODEL) == [1], "what is whole is there, and nobody takes it for all: the backup gives the numbers"
    assert fresh.allotment(MODEL).primary == kept.url


@pytest.mark.parametrize("place", ["inside", ".."])
def test_a_store_is_not_restored_into_its_own_backup_or_around_it(
    site: Site, kept: FileStore, workspace: Workspace, place: str
) -> None:
    backup(site.store, kept, workspace=workspace)
    with pytest.raises(StoreError, match=r"lies in .*, or around it"):
        restore(kept, FileStore((kept.root / place).resolve()), workspace=workspace, registry=None)
    assert kept.strays() == []


def test_a_damaged_catalogue_is_refused_in_words(site: Site, kept: FileStore, fresh: FileStore, workspace: Workspace) -> None:
    backup(site.store, kept, workspace=workspace)
    good = kept.read_record(MODEL, 3, CATALOGUE)
    assert good is not None
    elsewhere = [{**good["channels"]["production"][-1], "release": 77}]
    channels = ([{"release": 1}], [], elsewhere)
    broken = [{**good, "format": 2}, {**good, "releases": 7}, *({**good, "channels": {"production": c}} for c in channels), {}]
    for record in broken:
        kept.write_record(MODEL, 3, CATALOGUE, record)
        with pytest.raises(StoreError, match="the catalogue of tiny is damaged"):
            restore(kept, fresh, workspace=workspace, registry=None)
    assert not fresh.root.exists()


# Killed ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [("1",), pytest.param(("2", "3", "4"), marks=pytest.mark.slow)], ids=["first", "later"])
@pytest.mark.parametrize(
    ("verb", "when"), [("backup", "before"), ("backup", "after"), ("restore", "before"), ("restore", "after")]
)
def test_killed_anywhere_and_run_again_nothing_is_missing_and_nothing_half(
    tmp_path: Path, workspace: Workspace, verb: str, when: str, turns: tuple[str, ...]
) -> None:
    site = make_site(tmp_path / "site", releases=2)
    kept, fresh = FileStore(tmp_path / "kept"), FileStore(tmp_path / "fresh")
    if verb == "restore":
        backup(site.store, kept, workspace=workspace)
    source, target = (site.store, kept) if verb == "backup" else (kept, fresh)
    program = [sys.executable, "-m", "tests.trust.killer", verb, str(source.root), str(target.root), when, *turns]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kills"] >= 2
    if verb == "backup":
        backup(site.store, kept, workspace=workspace, registry=False)
    restore(kept, fresh, workspace=workspace, registry=None)
    same(site.store, fresh)
    assert verify_store(fresh, deep=True).troubles == []


# The commands ---------------------------------------------------------------------------------------------------------


def test_the_commands_say_what_they_did(tmp_path: Path, site: Site) -> None:
    work = ("-w", tmp_path / "workspace")
    done = enginepress("backup", site.store.url, tmp_path / "kept", *work)
    assert done.returncode == 0, done.stderr
    assert "tiny: 3 releases copied" in done.stdout
    again = enginepress("backup", site.store.root, f"file://{tmp_path}/kept", *work, "--json")
    assert json.loads(again.stdout)[0]["there"] == [1, 2, 3]
    back = enginepress("restore", tmp_path / "kept", tmp_path / "fresh", *work)
    assert back.returncode == 0, back.stderr
    assert "channels candidate, production; MLflow left alone" in back.stdout
    bad = enginepress("restore", tmp_path / "nothing", tmp_path / "more", *work)
    assert bad.returncode == 1
    assert "holds no backup" in bad.stderr


def test_a_store_that_lies_elsewhere_than_its_recipe_says_stands_for_itself(
    site: Site, kept: FileStore, fresh: FileStore, workspace: Workspace
) -> None:
    backup(site.store, kept, workspace=workspace)
    restore(kept, fresh, workspace=workspace, registry=None)
    assert [s.url for s in stored_recipe(f"{fresh.url}/{MODEL}").stores] == [fresh.url]
    done = enginepress("promote", f"{fresh.root}/{MODEL}", "3", "--channel", "production", "-w", workspace.root)
    assert fresh.channels(MODEL)["production"] == 3, done.stderr
    assert site.store.channels(MODEL)["production"] == 2


def test_an_error_is_an_enginepress_error(kept: FileStore, fresh: FileStore, workspace: Workspace) -> None:
    kept.root.mkdir()
    kept.root.chmod(0o755)
    (kept.root / MODEL).mkdir()
    (kept.root / MODEL / "model.json").write_text("[]")
    with pytest.raises(EnginepressError):
        restore(kept, fresh, workspace=workspace, registry=None)
