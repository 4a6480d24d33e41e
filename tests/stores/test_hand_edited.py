"""Files of a store that somebody edited, lost or replaced: named with what to do, never a traceback and never waited for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from enginepress.errors import StoreError
from enginepress.files import hash_folder
from enginepress.stores.filesystem import FileStore
from tests.stores.parts import MODEL, key, promote, publish

DEEP = "[" * 200_000
"""The parser gives up on it with another error than on what is no JSON."""


def read_everything(store: FileStore, to: Path | None = None) -> None:
    store.numbers(MODEL)
    store.manifest(MODEL, 1)
    store.records(MODEL, 1)
    store.history(MODEL, "production")
    if to is not None:
        store.fetch(MODEL, 1, to)


@pytest.mark.parametrize(
    "file", ["model.json", "releases/1/records/checks.json", "history/production.jsonl", "releases/1/manifest.json"]
)
@pytest.mark.parametrize("text", [DEEP, "\0" * 100, "[1]", "3", "null"], ids=["deep", "zeros", "list", "number", "null"])
def test_a_file_that_is_no_json_of_ours_is_named_with_what_to_do(store: FileStore, source: Path, file: str, text: str) -> None:
    publish(store, source)
    store.write_record(MODEL, 1, "checks", {"passed": True})
    promote(store, "production", 1)
    path = store.root / MODEL / file
    path.chmod(0o644)
    path.write_text(text + "\n")
    with pytest.raises(StoreError, match=r"damaged|is not a JSON object") as caught:
        read_everything(store)
    assert caught.value.where == str(path)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"at": "yesterday"}, "'yesterday' is not when it was"),
        ({"who": None}, "are not texts"),
        ({"activation": 5}, "are not texts"),
        ({"back": 1}, "back is not true or false"),
        ({"release": True}, "are not numbers"),
        ({"previous": "1"}, "are not numbers"),
        ({"more": 1}, "does not have the fields of a move"),
    ],
)
def test_a_move_with_a_wrong_field_is_named_by_its_line(
    store: FileStore, source: Path, change: dict[str, object], said: str
) -> None:
    publish(store, source)
    promote(store, "production", 1)
    path = store.root / MODEL / "history/production.jsonl"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}) + "\n")
    with pytest.raises(StoreError, match=rf"line 1 is damaged: .*{said}") as caught:
        store.history(MODEL, "production")
    assert caught.value.where == str(path)


def test_a_manifest_that_is_gone_is_told_as_such(store: FileStore, source: Path) -> None:
    publish(store, source)
    path = store.root / MODEL / "releases/1/manifest.json"
    path.unlink()
    with pytest.raises(StoreError, match="is gone, so nobody can tell what release 1 of tiny is") as caught:
        store.find(MODEL, key("a"))
    assert caught.value.where == str(path)
    assert "the next run of its recipe publishes it anew" in (caught.value.fix or "")


@pytest.mark.parametrize("file", ["releases/1/manifest.json", "releases/1/repository/tiny/1/model.py", "model.json"])
def test_a_pipe_in_a_store_is_refused_and_not_waited_for(store: FileStore, source: Path, tmp_path: Path, file: str) -> None:
    publish(store, source)
    path = store.root / MODEL / file
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreError, match="is neither a file nor a folder") as caught:
        read_everything(store, tmp_path / "out")
    assert caught.value.where == str(path)
    if "repository" in file:
        assert [str(d) for d in store.lost(MODEL, 1)] == ["tiny/1/model.py is missing"]
        known = {source / e.path: e.sha256 for e in hash_folder(source)}
        number = publish(store, source, key("b"), expected=known).release
        assert store.verify(MODEL, number) == [], "it is not linked either"


LINKED = {
    "promote": [".locks", "activations", "channels", "history", "history/production.jsonl"],
    "sweep": [".locks", "activations", "channels", "history", "history/production.jsonl"],
    "remove": [".locks", "channels"],
}


@pytest.mark.parametrize(("work", "part"), [(work, part) for work, parts in LINKED.items() for part in parts])
def test_a_link_in_place_of_what_moves_and_removals_write_is_refused(
    store: FileStore, source: Path, tmp_path: Path, work: str, part: str
) -> None:
    for name in "abc":
        publish(store, source, key(name))
    for number in (1, 2):
        promote(store, "production", number)
    path, outside = store.root / MODEL / part, tmp_path / "outside"
    if path.is_dir():
        path.rename(store.root / "away")
        (outside / "production-1-01234567").mkdir(parents=True)
    else:
        path.unlink()
        outside.write_text("")
    path.symlink_to(outside)
    with pytest.raises(StoreError, match="is a symbolic link") as caught:
        {
            "promote": lambda: promote(store, "production", 3),
            "sweep": lambda: store.sweep(MODEL),
            "remove": lambda: store.remove(MODEL, 1),
        }[work]()
    assert caught.value.where == str(path)
    left = list(outside.iterdir()) if outside.is_dir() else outside.read_text()
    assert left in ([outside / "production-1-01234567"], "")
