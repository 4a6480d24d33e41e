from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.errors import StoreError, UsageError
from enginepress.repository import Placement
from enginepress.stores.channels import link_file
from enginepress.stores.filesystem import FileStore
from enginepress.stores.history import Move, append_move, came_before, read_moves
from tests.stores.parts import MODEL, activated, key, promote, publish
from tests.stores.processes import Reader, run_parts


@pytest.fixture
def three(store: FileStore, source: Path) -> FileStore:
    """A store with releases 1, 2 and 3."""
    for name in "abc":
        publish(store, source, key(name))
    return store


def moved(store: FileStore, *numbers: int, back: bool = False) -> FileStore:
    for number in numbers:
        promote(store, "production", number, back=back)
    return store


# Activations ----------------------------------------------------------------------------------------------------------


def test_readers_of_a_channel_see_the_release_with_new_configs_and_linked_weights(three: FileStore) -> None:
    target = promote(three, "production", 2)
    link = three.root / MODEL / "channels/production"
    assert os.readlink(link) == f"../activations/{target.name}"
    assert three.channel(MODEL, "production") == 2
    assert three.activation(MODEL, "production") == target
    release = three.repository(MODEL, 2)
    assert {p.relative_to(link).as_posix() for p in link.rglob("*") if p.is_file()} == {
        p.relative_to(release).as_posix() for p in release.rglob("*") if p.is_file()
    }
    assert (link / "tiny/2/engine/part0.bin").samefile(release / "tiny/2/engine/part0.bin")
    config = link / "tiny/config.pbtxt"
    assert b"versions: [2]" in config.read_bytes()
    assert not config.samefile(release / "tiny/config.pbtxt")
    assert three.verify(MODEL, 2) == []


def test_a_channel_can_be_read_where_the_store_is_mounted_elsewhere(three: FileStore, tmp_path: Path) -> None:
    moved(three, 3)
    three.root.rename(tmp_path / "mounted here")
    elsewhere = FileStore(tmp_path / "mounted here")
    assert elsewhere.channel(MODEL, "production") == 3
    assert (elsewhere.root / MODEL / "channels/production/tiny/3/model.py").is_file()


def test_configs_are_newer_than_anything_before_in_both_directions_even_if_the_clock_goes_wrong(three: FileStore) -> None:
    """Triton reloads only what is newer than it remembers."""
    newest = 0.0
    for number in (1, 3, 1, 2):
        target = promote(three, "production", number)
        config = target / "tiny/config.pbtxt"
        assert config.stat().st_mtime > newest
        # The next mover's clock is an hour behind.
        ahead = config.stat().st_mtime + 3600
        os.utime(config, (ahead, ahead))
        newest = max(p.stat().st_mtime for p in target.rglob("*"))


def test_a_placement_for_absolute_paths_is_told_where_its_readers_see_this_activation(store: FileStore, source: Path) -> None:
    served = FileStore(store.root, mount="/models/")
    publish(served, source)
    told: list[str] = []

    def place(root: str) -> Placement:
        told.append(root)
        return activated(served, 1)

    target = served.activate(MODEL, "production", 1, place, who="a", why="b")
    assert told == [f"/models/tiny/activations/{target.name}"]


def test_the_activation_before_is_kept_and_older_ones_are_removed(three: FileStore) -> None:
    promote(three, "candidate", 1)
    folders = [promote(three, "production", number) for number in (1, 2, 3)]
    assert [f.exists() for f in folders] == [False, True, True]
    kept = sorted(p.name.rsplit("-", 1)[0] for p in (three.root / MODEL / "activations").iterdir())
    assert kept == ["candidate-1", "production-2", "production-3"]


def test_files_on_another_file_system_are_linked_by_relative_path_or_copied(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        source = Path(other) / "weights.bin"
        source.write_bytes(b"weights")
        if source.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("/dev/shm and the temporary folder are one file system here")
        link_file(source, tmp_path / "linked", root=Path("/"))
        assert (tmp_path / "linked").is_symlink()
        assert not os.path.isabs(os.readlink(tmp_path / "linked"))
        assert (tmp_path / "linked").read_bytes() == b"weights"
        link_file(source, tmp_path / "copied", root=tmp_path)
        assert not (tmp_path / "copied").is_symlink()
        assert (tmp_path / "copied").read_bytes() == b"weights"


def test_files_from_outside_the_store_are_linked_or_copied_but_never_pointed_to(three: FileStore, tmp_path: Path) -> None:
    placement = activated(three, 1)
    placement.linked["tiny/1/outside.bin"] = tmp_path / "outside.bin"
    (tmp_path / "outside.bin").write_bytes(b"outside")
    target = three.activate(MODEL, "production", 1, lambda _root: placement, who="a", why="b")
    assert not (target / "tiny/1/outside.bin").is_symlink()
    assert (target / "tiny/1/outside.bin").read_bytes() == b"outside"


def test_a_release_that_is_not_there_cannot_be_activated(three: FileStore) -> None:
    with pytest.raises(StoreError, match="has no release 9"):
        three.activate(MODEL, "production", 9, lambda _root: Placement(9), who="a", why="b")
    with pytest.raises(StoreError, match="was placed as 2"):
        three.activate(MODEL, "production", 1, lambda _root: activated(three, 2), who="a", why="b")
    assert three.channels(MODEL) == {}
    assert three.history(MODEL, "production") == []


def test_an_activation_that_fails_halfway_changes_nothing(three: FileStore) -> None:
    moved(three, 1)
    placement = activated(three, 2)
    placement.linked["tiny/2/zzz.bin"] = three.root / "nowhere"
    with pytest.raises(StoreError, match="moving channel production of tiny failed"):
        three.activate(MODEL, "production", 2, lambda _root: placement, who="a", why="b")
    assert three.channel(MODEL, "production") == 1
    assert len(three.history(MODEL, "production")) == 1
    assert len(list((three.root / MODEL / "activations").iterdir())) == 1


@pytest.mark.parametrize("name", ["", "Production", "a/b", "..", "a.b", "-a", "x" * 64])
def test_channel_names_that_are_no_names_are_refused(three: FileStore, name: str) -> None:
    with pytest.raises(UsageError):
        promote(three, name, 1)
    with pytest.raises(UsageError):
        three.channel(MODEL, name)


def test_channels_whose_names_start_alike_do_not_meet(three: FileStore) -> None:
    for channel, number in (("a", 1), ("a-2", 2), ("a-2-3", 3), ("a", 2), ("a", 3), ("a-2", 1), ("a-2", 3)):
        promote(three, channel, number)
    assert three.channels(MODEL) == {"a": 3, "a-2": 3, "a-2-3": 3}
    assert [three.channel(MODEL, c) for c in ("a", "a-2", "a-2-3")] == [3, 3, 3]


# Compare and set ------------------------------------------------------------------------------------------------------


def test_a_move_is_refused_if_the_channel_is_not_where_it_was_expected(three: FileStore) -> None:
    promote(three, "production", 1, expect=None)
    promote(three, "production", 2, expect=1)
    with pytest.raises(StoreError, match="is on release 2, not on release 1: somebody moved it"):
        promote(three, "production", 3, expect=1)
    with pytest.raises(StoreError, match="not on no release"):
        promote(three, "production", 3, expect=None)
    assert three.channel(MODEL, "production") == 2


def test_of_promoters_at_once_that_expect_the_same_exactly_one_moves(three: FileStore) -> None:
    moved(three, 1)
    workers = [run_parts("promote", str(three.root), "production", str(2 + i % 2), "1") for i in range(6)]
    said = [w.communicate(timeout=60)[0].strip() for w in workers]
    assert sorted(s.split(":")[0] for s in said) == ["moved"] + ["refused"] * 5
    assert len(three.history(MODEL, "production")) == 2
    assert len(list((three.root / MODEL / "activations").iterdir())) == 2


def test_promoters_at_once_take_turns_and_each_move_is_in_the_history(three: FileStore) -> None:
    workers = [run_parts("promote", str(three.root), "production", str(1 + i % 3)) for i in range(8)]
    assert [w.communicate(timeout=60)[0].strip() for w in workers] == ["moved"] * 8
    history = three.history(MODEL, "production")
    assert len(history) == 8
    assert [m.previous for m in history] == [None, *[m.release for m in history[:-1]]]
    assert history[-1].release == three.channel(MODEL, "production")


# Damage ---------------------------------------------------------------------------------------------------------------


def test_a_dangling_channel_is_reported_and_mended_by_promoting_again(three: FileStore) -> None:
    shutil.rmtree(promote(three, "production", 2))
    with pytest.raises(StoreError, match="which is gone, so nobody can read release 2") as caught:
        three.channel(MODEL, "production")
    assert "promote TARGET 2 --channel production" in (caught.value.fix or "")
    assert three.channels(MODEL) == {"production": 2}
    promote(three, "production", 2)
    assert three.channel(MODEL, "production") == 2


@pytest.mark.parametrize("target", ["/etc", "../../../..", "../activations/other-1-00000000", "../releases/1/repository"])
def test_a_channel_that_leads_elsewhere_is_not_followed(three: FileStore, target: str) -> None:
    (three.root / MODEL / "channels").mkdir()
    (three.root / MODEL / "channels/production").symlink_to(target)
    with pytest.raises(StoreError, match="which is no activation of this channel"):
        three.channel(MODEL, "production")


def test_an_activation_that_is_a_link_out_is_not_followed(three: FileStore, tmp_path: Path) -> None:
    target = promote(three, "production", 1)
    target.rename(tmp_path / "outside")
    target.symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError, match="is a symbolic link"):
        three.channel(MODEL, "production")


def test_a_folder_in_place_of_a_channel_is_named(three: FileStore) -> None:
    (three.root / MODEL / "channels/production").mkdir(parents=True)
    with pytest.raises(StoreError, match="is not a channel"):
        promote(three, "production", 1)


def test_what_no_channel_may_be_called_is_a_stray_and_keeps_nobody_from_moving(three: FileStore) -> None:
    promote(three, "production", 1)
    (three.root / MODEL / "channels/Not one").symlink_to("../activations/production-1-00000000")
    promote(three, "production", 2)
    three.remove(MODEL, 3)
    three.sweep(MODEL)
    assert three.channels(MODEL) == {"production": 2}
    assert three.strays(MODEL) == ["channels/Not one"]


# History --------------------------------------------------------------------------------------------------------------


def test_the_history_says_who_moved_what_and_why(three: FileStore) -> None:
    promote(three, "production", 1, who="ana", why="first")
    promote(three, "production", 3, who="bob", why="it's “better”\nmuch")
    moves = three.history(MODEL, "production")
    assert [(m.previous, m.release, m.who, m.why) for m in moves] == [
        (None, 1, "ana", "first"),
        (1, 3, "bob", "it's “better”\nmuch"),
    ]
    assert all(m.at.endswith("Z") for m in moves)
    assert three.history(MODEL, "candidate") == []


def move(release: int, previous: int | None, name: str) -> Move:
    return Move(release, previous, name, "2026-11-20T19:30:00Z", "ana", "why")


def test_a_line_without_its_move_is_not_history_and_is_marked_by_the_next_mover(tmp_path: Path) -> None:
    path = tmp_path / "history/production.jsonl"
    append_move(path, move(1, None, "a"), current=None)
    append_move(path, move(2, 1, "b"), current="a")
    assert [m.release for m in read_moves(path, current="a")] == [1]
    append_move(path, move(3, 1, "c"), current="a")
    assert [m.release for m in read_moves(path, current="c")] == [1, 3]
    assert json.loads(path.read_text().splitlines()[2]) == {"void": "b"}


def test_a_first_move_that_was_never_made_is_not_history(tmp_path: Path) -> None:
    path = tmp_path / "history/production.jsonl"
    append_move(path, move(1, None, "a"), current=None)
    assert read_moves(path, current=None) == []
    append_move(path, move(2, None, "b"), current=None)
    assert [m.release for m in read_moves(path, current="b")] == [2]


@given(cut=st.integers(min_value=1, max_value=60))
def test_a_torn_last_line_counts_as_not_written(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("torn") / "production.jsonl"
    append_move(path, move(1, None, "a"), current=None)
    append_move(path, move(2, 1, "b"), current="a")
    path.write_bytes(path.read_bytes()[:-cut])
    assert [m.release for m in read_moves(path, current="a")] == [1]
    append_move(path, move(3, 1, "c"), current="a")
    assert [m.release for m in read_moves(path, current="c")] == [1, 3]


def test_a_damaged_line_is_named_and_the_channel_still_works(three: FileStore) -> None:
    moved(three, 1, 2)
    path = three.root / MODEL / "history/production.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["{broken", *lines[1:]]) + "\n")
    with pytest.raises(StoreError, match="line 1 is damaged"):
        three.history(MODEL, "production")
    assert three.channel(MODEL, "production") == 2


# Rollback -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moves", "before"),
    [
        ([1], None),
        ([1, 1], None),
        ([1, 2], 1),
        ([1, 2, 2], 1),
        ([1, 2, 3], 2),
        ([1, 2, 3, -2], 1),
        ([1, 2, 3, -2, -1], None),
        ([1, 2, 3, -1, 3], 1),
        ([1, 2, -1, 3], 1),
        ([1, 2, 3, -2, 3], 2),
        ([1, 2, 1], 2),
        ([1, 2, 1, -2], 1),
        ([1, 2, 4, 3], 2),
        ([1, -2], 1),
        ([], None),
    ],
)
def test_a_rollback_undoes_and_a_promotion_of_an_old_release_is_one_more_move(moves: list[int], before: int | None) -> None:
    """A negative number is a rollback to that release; release 4 is gone."""
    assert came_before([(abs(n), n < 0) for n in moves], lambda n: n != 4) == before


@given(moves=st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=12))
def test_rolling_back_again_and_again_ends(moves: list[tuple[int, bool]]) -> None:
    promotions = len(moves)
    for _ in range(promotions + 1):
        before = came_before(moves, lambda _: True)
        if before is None:
            break
        assert before != moves[-1][0]
        moves.append((before, True))
    assert came_before(moves, lambda _: True) is None


def test_previous_skips_releases_that_are_gone_and_says_when_there_is_none(three: FileStore) -> None:
    moved(three, 1, 2, 3)
    assert three.previous(MODEL, "production") == 2
    shutil.rmtree(three.root / MODEL / "releases/2")
    assert three.previous(MODEL, "production") == 1
    moved(three, 1, back=True)
    with pytest.raises(StoreError, match="no earlier release to go back to"):
        three.previous(MODEL, "production")
    with pytest.raises(StoreError, match="has no channel staging"):
        three.previous(MODEL, "staging")


# A reader that never stops --------------------------------------------------------------------------------------------


def test_a_reader_always_finds_one_whole_release_behind_a_moving_channel(three: FileStore) -> None:
    moved(three, 1)
    reader = Reader(three.root / MODEL / "channels/production")
    with ThreadPoolExecutor(1) as pool, reader:
        reading = pool.submit(reader.run)
        for turn in range(30):
            promote(three, "production", 1 + turn % 3)
            time.sleep(0.01)
        reader.stop()
        assert reading.result() > 30
    assert reader.problems == []


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign"])
def test_no_channel_is_pointed_to_a_release_whose_files_are_not_its_manifests(three: FileStore, damage: str) -> None:
    moved(three, 1)
    file = three.repository(MODEL, 2) / "tiny/2/engine/part0.bin"
    if damage == "foreign":
        file.with_name("extra.bin").write_bytes(b"extra")
    else:
        file.chmod(0o644)
        file.unlink()
    if damage == "truncated":
        file.write_bytes(b"wei")
    with pytest.raises(StoreError, match="release 2 of tiny is damaged") as caught:
        promote(three, "production", 2)
    assert caught.value.fix
    assert three.channel(MODEL, "production") == 1
