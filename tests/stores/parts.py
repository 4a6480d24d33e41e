"""Small model repositories, and how to publish them. Also a program, for tests that need processes of their own:

python -m tests.stores.parts publish STORE SOURCE KEY          prints the release number
python -m tests.stores.parts promote STORE CHANNEL NUMBER [EXPECT]
python -m tests.stores.parts churn STORE SOURCE                publishes and promotes until it is killed
python -m tests.stores.parts prune STORE KEEP                  prunes without a grace period until it is killed
python -m tests.stores.parts remove STORE NUMBER               and sweeps first, as prune does

With ONE_THREAD in the environment files are copied and synced one after the other, so that every run makes the same system
calls in the same order.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

from enginepress.errors import StoreError
from enginepress.files import FileEntry, hash_folder
from enginepress.manifest import Manifest
from enginepress.repository import Placement
from enginepress.steps.prune import Policy, plan_prune, prune
from enginepress.stores import copying
from enginepress.stores.filesystem import FileStore

MODEL = "tiny"


def key(text: str) -> str:
    """A hex digest made of a short text."""
    return text.encode().hex().ljust(64, "0")[:64]


def make_source(folder: Path, *, weights: bytes = b"weights", files: int = 3) -> Path:
    """An unplaced repository."""
    version = folder / MODEL / "0"
    (version / "engine").mkdir(parents=True)
    (folder / MODEL / "config.pbtxt").write_text('name: "tiny"\n')
    (version / "model.py").write_text("# serves\n")
    for index in range(files):
        (version / "engine" / f"part{index}.bin").write_bytes(weights + bytes([index]))
    return folder


def placed(source: Path) -> Callable[[int], Placement]:
    """What `place` does, for repositories made here."""

    def place(number: int) -> Placement:
        linked = {}
        for path in sorted((source / MODEL / "0").rglob("*")):
            if path.is_file():
                linked[f"{MODEL}/{number}/{path.relative_to(source / MODEL / '0').as_posix()}"] = path
        return Placement(number, {f"{MODEL}/config.pbtxt": _config(number)}, linked)

    return place


def activated(store: FileStore, number: int) -> Placement:
    """A release, placed for readers."""
    version = store.repository(MODEL, number) / MODEL / str(number)
    linked = {f"{MODEL}/{number}/{p.relative_to(version).as_posix()}": p for p in sorted(version.rglob("*")) if p.is_file()}
    return Placement(number, {f"{MODEL}/config.pbtxt": _config(number)}, linked)


def _config(number: int) -> bytes:
    return f'name: "tiny"\nversion_policy {{ specific {{ versions: [{number}] }} }}\n'.encode()


def manifest(number: int, files: tuple[FileEntry, ...], build_key: str) -> Manifest:
    return Manifest(
        model=MODEL,
        release=number,
        build_key=build_key,
        content_digest=key("content " + build_key[:20]),
        files=files,
        made_from={"source": "file:///checkpoints/tiny", "revision": "abc", "revision_digest": key("revision")},
        made_with={"enginepress": "0.1.0", "builder": "onnxruntime"},
        recipe={"name": MODEL},
        served_by=["triton"],
    )


def publish(store: FileStore, source: Path, build_key: str = key("a"), **more: object) -> Manifest:
    return store.publish(
        MODEL,
        place=placed(source),
        describe=lambda number, files: manifest(number, files, build_key),
        **more,  # type: ignore[arg-type]
    )


def promote(store: FileStore, channel: str, number: int, **more: object) -> Path:
    return store.activate(
        MODEL, channel, number, lambda _root: activated(store, number), **{"who": "test", "why": "because", **more}
    )  # type: ignore[arg-type]


def churn(store: FileStore, source: Path) -> None:
    """Publishes and promotes until it is killed; what goes wrong on the way ends it with a traceback."""
    while True:
        publish(store, source)
        promote(store, "production", random.choice(store.numbers(MODEL)[-3:]))
        print("turn", flush=True)


def prune_on(store: FileStore, keep: int) -> None:
    """Prunes again and again until it is killed."""
    policy = Policy(keep=keep, grace=0.0)
    while True:
        for done in prune(plan_prune([store], MODEL, policy), policy):
            print("turn", *done.removed, flush=True)


def main(arguments: list[str]) -> None:
    verb, root, *rest = arguments
    store = FileStore(Path(root))
    if os.environ.get("ONE_THREAD"):
        copying.WORKERS = 1
    if verb == "publish":
        source = Path(rest[0])
        known = {source / e.path: e.sha256 for e in hash_folder(source)}
        print(publish(store, source, rest[1], expected=known).release)
    elif verb == "prune":
        prune_on(store, int(rest[0]))
    elif verb == "remove":
        store.sweep(MODEL)
        store.remove(MODEL, int(rest[0]))
        print("removed")
    elif verb == "promote":
        expect = {"expect": int(rest[2])} if len(rest) > 2 else {}
        try:
            promote(store, rest[0], int(rest[1]), **expect)
            print("moved")
        except StoreError as error:
            print(f"refused: {error}")
    elif verb == "churn":
        churn(store, Path(rest[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
