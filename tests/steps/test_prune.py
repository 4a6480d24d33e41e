"""Pruning releases: what channels need stays, whatever the rules say; what goes is shown first and frees what was said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginepress.errors import StoreError, UsageError
from enginepress.files import hash_folder
from enginepress.recipe import Retention
from enginepress.steps.prune import Policy, plan_prune, policy_of, prune
from enginepress.stores.filesystem import FileStore
from tests.stores.parts import MODEL, key, make_source, manifest, placed, promote, publish

DAY = 86_400.0
LATER = time.time() + 100 * DAY


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "source")


def filled(folder: Path, source: Path, releases: int, *, days_apart: float = 0.0) -> FileStore:
    """A store whose newest release is of now and the others so many days older each."""
    store = FileStore(folder)
    for number in range(1, releases + 1):
        publish_aged(store, source, (releases - number) * days_apart)
    return store


def publish_aged(store: FileStore, source: Path, days: float, name: str | None = None) -> None:
    moment = datetime.fromtimestamp(time.time() - days * DAY, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    store.publish(
        MODEL,
        place=placed(source),
        describe=lambda n, files: replace(manifest(n, files, key(name or f"k{n}")), created=moment),
        expected={source / e.path: e.sha256 for e in hash_folder(source)},
    )


def going(store: FileStore, policy: Policy, now: float | None = LATER) -> list[int]:
    (plan,) = plan_prune([store], MODEL, policy, now=now)
    return [fate.release for fate in plan.doomed]


def reasons(store: FileStore, policy: Policy, now: float | None = LATER) -> dict[int, tuple[str, ...]]:
    (plan,) = plan_prune([store], MODEL, policy, now=now)
    return {fate.release: fate.kept for fate in plan.fates}


def test_the_newest_stay_and_the_others_go(tmp_path: Path, source: Path) -> None:
    store = filled(tmp_path / "store", source, 5)
    assert going(store, Policy(keep=2)) == [1, 2, 3]
    assert going(store, Policy(keep=9)) == []


def test_what_is_young_enough_stays(tmp_path: Path, source: Path) -> None:
    store = filled(tmp_path / "store", source, 5, days_apart=10)
    assert going(store, Policy(younger_than=25 * DAY), now=None) == [1, 2]
    assert going(store, Policy(keep=4, younger_than=5 * DAY), now=None) == [1]


def test_what_a_channel_needs_stays_with_the_reason(tmp_path: Path, source: Path) -> None:
    store = filled(tmp_path / "store", source, 6)
    for number in (1, 2, 4):
        promote(store, "production", number)
    promote(store, "candidate", 3)
    assert reasons(store, Policy(keep=1)) == {
        1: (),
        2: ("rollback of production",),
        3: ("on candidate",),
        4: ("on production",),
        5: (),
        6: ("new",),
    }


def test_a_store_that_cannot_say_what_a_rollback_leads_to_loses_nothing(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "store", source, 4)
    for number in (1, 2):
        promote(store, "production", number)

    def unreachable(*_: object, **__: object) -> int:
        raise StoreError("the server could not be asked")

    monkeypatch.setattr(store, "release_before", unreachable)
    with pytest.raises(StoreError, match="could not be asked"):
        going(store, Policy(keep=1))


def test_what_left_a_channel_just_now_stays_for_those_who_are_still_reading_it(tmp_path: Path, source: Path) -> None:
    store = filled(tmp_path / "store", source, 4, days_apart=10)
    for number in (1, 2, 3):
        promote(store, "production", number)
    assert reasons(store, Policy(keep=1), now=None)[1] == ("just left production",)
    assert reasons(store, Policy(keep=1), now=time.time() + 2 * 3600)[1] == ()


def test_what_was_published_just_now_stays_for_the_run_that_is_about_to_promote_it(tmp_path: Path, source: Path) -> None:
    store = filled(tmp_path / "store", source, 3)
    assert going(store, Policy(keep=1), now=None) == []
    assert going(store, Policy(keep=1, grace=0), now=None) == [1, 2]


def test_a_release_that_cannot_be_read_stays_and_says_so(tmp_path: Path, source: Path) -> None:
    store = filled(tmp_path / "store", source, 3)
    path = store.root / MODEL / "releases/1/manifest.json"
    path.chmod(0o644)
    path.write_text("{")
    assert reasons(store, Policy(keep=1))[1][0].startswith("damaged: ")
    assert going(store, Policy(keep=1)) == [2]


def test_a_release_that_cannot_be_read_is_none_of_the_newest(tmp_path: Path, source: Path) -> None:
    store = filled(tmp_path / "store", source, 4)
    path = store.root / MODEL / "releases/4/manifest.json"
    path.chmod(0o644)
    path.write_text("{")
    (store.root / MODEL / "releases/9").write_text("what somebody left there")
    assert going(store, Policy(keep=2)) == [1]
    assert reasons(store, Policy(keep=1))[3] == ("new",)


@pytest.mark.parametrize("damage", ["history", "channel"])
def test_a_damaged_channel_stops_everything_since_nobody_knows_what_it_needs(tmp_path: Path, source: Path, damage: str) -> None:
    store = filled(tmp_path / "store", source, 3)
    promote(store, "production", 1)
    if damage == "history":
        (store.root / MODEL / "history/production.jsonl").write_text("{broken\n")
    else:
        (store.root / MODEL / "channels/production").unlink()
        (store.root / MODEL / "channels/production").symlink_to("/etc")
    with pytest.raises(StoreError):
        going(store, Policy(keep=1))


def test_what_one_store_of_a_recipe_needs_stays_in_all(tmp_path: Path, source: Path) -> None:
    first, second = filled(tmp_path / "first", source, 4), filled(tmp_path / "second", source, 4)
    promote(first, "production", 1)
    promote(second, "production", 2)
    plans = plan_prune([first, second], MODEL, Policy(keep=1), now=LATER)
    assert [[f.release for f in plan.doomed] for plan in plans] == [[3], [3]]


def test_pruning_removes_what_was_planned_and_numbers_are_not_given_again(tmp_path: Path, source: Path) -> None:
    store = filled(tmp_path / "store", source, 5, days_apart=10)
    policy = Policy(keep=2)
    (done,) = prune(plan_prune([store], MODEL, policy), policy)
    assert (done.removed, done.refused) == ([1, 2, 3], {})
    assert store.numbers(MODEL) == [4, 5]
    assert all(store.verify(MODEL, n) == [] for n in (4, 5))
    assert publish(store, source, key("next")).release == 6


def test_a_channel_that_moved_after_the_plan_keeps_its_release(tmp_path: Path, source: Path) -> None:
    store = filled(tmp_path / "store", source, 3, days_apart=10)
    policy = Policy(keep=1)
    plans = plan_prune([store], MODEL, policy)
    promote(store, "production", 1)
    (done,) = prune(plans, policy)
    assert done.removed == [2]
    assert store.channel(MODEL, "production") == 1
    with pytest.raises(StoreError, match="is on production, so it is not removed"):
        store.remove(MODEL, 1)


def test_bytes_said_to_be_freed_are_those_that_nobody_else_holds(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    shared, own = b"s" * 300_000, b"o" * 500_000
    for index in range(3):
        source = make_source(tmp_path / f"source{index}", weights=shared)
        (source / MODEL / "0/own.bin").write_bytes(own + bytes([index]))
        publish_aged(store, source, 10)
    (plan,) = plan_prune([store], MODEL, Policy(keep=1))
    assert [f.release for f in plan.doomed] == [1, 2]
    assert 2 * len(own) <= plan.freed < 2 * len(own) + 100_000, "the shared files stay in release 3"

    def taken() -> int:
        done = subprocess.run(["du", "-s", "--block-size=1", store.root / MODEL / "releases"], capture_output=True, check=True)
        return int(done.stdout.split()[0])

    before = taken()
    prune([plan], Policy(keep=1))
    assert abs(before - taken() - plan.freed) < 100_000, "folders are not counted"


def test_an_activation_holds_on_to_what_its_release_would_free(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    for index in range(2):
        publish_aged(store, make_source(tmp_path / f"source{index}", weights=bytes([index]) * 300_000), 10)
    assert store.freed(MODEL, [1]) > 900_000
    promote(store, "production", 1)
    assert store.freed(MODEL, [1]) < 50_000


def test_a_promoter_and_a_pruner_of_one_release_never_leave_a_channel_without_it(tmp_path: Path, source: Path) -> None:
    """Twenty times both at once: either the channel moved and the release is there, or it was removed and no channel names it."""
    store = FileStore(tmp_path / "store")
    publish(store, source)
    promote(store, "production", 1)
    ends = []
    for turn in range(20):
        number = publish(store, source, key(f"k{turn}")).release
        gate = threading.Barrier(2)

        def move(number: int = number, gate: threading.Barrier = gate) -> str:
            gate.wait()
            try:
                promote(store, "candidate", number)
                return "moved"
            except StoreError:
                return "refused"

        def remove(number: int = number, gate: threading.Barrier = gate) -> str:
            gate.wait()
            try:
                store.remove(MODEL, number)
                return "removed"
            except StoreError:
                return "refused"

        with ThreadPoolExecutor(2) as pool:
            moved, removed = (f.result() for f in (pool.submit(move), pool.submit(remove)))
        ends.append((moved, removed))
        assert sorted((moved, removed)) in (["moved", "refused"], ["refused", "removed"])
        assert (number in store.numbers(MODEL)) == (moved == "moved")
        if moved == "moved":
            assert store.channel(MODEL, "candidate") == number
            promote(store, "candidate", 1)
    assert ends


def test_a_record_written_while_its_release_is_removed_does_not_bring_it_back(tmp_path: Path, source: Path) -> None:
    store = filled(tmp_path / "store", source, 2)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            try:
                store.write_record(MODEL, 1, "checks", {"a": 1})
            except StoreError:
                continue

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        time.sleep(0.05)
        store.remove(MODEL, 1)
        time.sleep(0.05)
        stop.set()
        writing.result()
    assert store.numbers(MODEL) == [2]
    assert not (store.root / MODEL / "releases/1").exists()


# Rules ------------------------------------------------------------------------------------------------------------------


def test_the_commands_rules_come_before_the_recipes() -> None:
    recipe = Retention(keep=5, younger_than="30d")
    assert policy_of(recipe, None, None, None) == Policy(5, 30 * DAY)
    assert policy_of(recipe, 2, None, "0s") == Policy(2, 0.0, 0.0)
    assert policy_of(None, None, "12h", None) == Policy(0, 43_200.0)
    for nothing in (None, Retention()):
        with pytest.raises(UsageError, match="says which releases to keep"):
            policy_of(nothing, None, None, None)


def test_a_span_of_time_that_is_none_is_refused_in_a_recipe() -> None:
    with pytest.raises(ValueError, match="'soon' is not a span of time"):
        Retention(younger_than="soon")


# The command ------------------------------------------------------------------------------------------------------------


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "enginepress", "prune", *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "NO_COLOR": "1"},
        check=False,
    )


def test_the_command_shows_asks_and_removes(tmp_path: Path, source: Path) -> None:
    store = filled(tmp_path / "store", source, 4, days_apart=10)
    promote(store, "production", 1)
    shown = command(store.root, "--keep", 1, "--dry-run")
    assert shown.returncode == 0
    assert "stays  release 1: on production" in shown.stdout
    assert "goes   release 2" in shown.stdout
    unasked = command(store.root / MODEL, "--keep", 1)
    assert unasked.returncode == 2
    assert "nobody is there to be asked" in unasked.stderr
    assert store.numbers(MODEL) == [1, 2, 3, 4]
    done = command(store.root / MODEL, "--keep", 1, "--yes", "--json")
    assert done.returncode == 0
    (result,) = json.loads(done.stdout)
    assert result["removed"] == [2, 3]
    assert {r["release"]: r["kept"] for r in result["releases"]}[1] == ["on production"]
    assert store.numbers(MODEL) == [1, 4]


def test_the_command_takes_a_recipe_with_its_rules_and_all_its_stores(tmp_path: Path, source: Path) -> None:
    stores = [filled(tmp_path / name, source, 4, days_apart=10) for name in ("one", "two")]
    recipe: dict[str, Any] = {
        "name": MODEL,
        "source": "file:///checkpoints/tiny",
        "stores": [f"file://{store.root}" for store in stores],
        "retention": {"keep": 2},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = command(tmp_path / "recipe.yaml", "--yes")
    assert done.returncode == 0, done.stderr
    assert [store.numbers(MODEL) for store in stores] == [[3, 4], [3, 4]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "prunes a store or a workspace"),
        (["STORE", "-w", "x"], "prunes a store or a workspace"),
        (["STORE"], "says which releases to keep"),
        (["STORE", "--max-size", "1GB"], "are about a workspace"),
        (["-w", "STORE", "--keep", "1"], "are about releases"),
        (["-w", "STORE"], "does not say what may stay"),
        (["-w", "STORE", "--max-size", "much"], "'much' is not an amount of bytes"),
        (["STORE", "--younger-than", "1"], "'1' is not a span of time"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, source: Path, arguments: list[str], said: str) -> None:
    store = filled(tmp_path / "store", source, 1)
    done = command(*[str(store.root) if a == "STORE" else a for a in arguments])
    assert done.returncode == 2
    assert said in done.stderr


def test_a_store_without_releases_says_what_to_name(tmp_path: Path) -> None:
    done = command(tmp_path, "--keep", 1)
    assert done.returncode == 1
    assert "holds no releases" in done.stderr
