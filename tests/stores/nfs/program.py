"""Runs inside the guest: a store on NFS, used by two machines, each with a mount of its own. Prints a line for each check."""

from __future__ import annotations

import subprocess
import sys
import time
import traceback
from pathlib import Path

from enginepress.errors import StoreError
from enginepress.files import hash_folder
from enginepress.stores.filesystem import FileStore
from tests.stores.parts import MODEL, key, make_source, promote, publish


class Checks:
    def __init__(self, one: Path, two: Path) -> None:
        self.one, self.two = FileStore(one / "store"), FileStore(two / "store")
        self.source = make_source(Path("/tmp/source"), weights=b"w" * 300_000)

    def publish_and_link(self) -> None:
        """A release, and one more that links its files."""
        known = {self.source / e.path: e.sha256 for e in hash_folder(self.source)}
        for name in "ab":
            publish(self.one, self.source, key(name), expected=known)
        parts = [self.one.repository(MODEL, n) / MODEL / str(n) / "engine/part0.bin" for n in (1, 2)]
        assert parts[0].samefile(parts[1])
        assert [self.one.verify(MODEL, n) for n in (1, 2)] == [[], []]

    def channel_seen_by_the_other(self) -> None:
        """A channel that one machine moves is followed by the other, forward and back."""
        for number in (1, 2, 1):
            promote(self.one, "production", number)
            deadline = time.monotonic() + 30
            while self.two.channel(MODEL, "production") != number and time.monotonic() < deadline:
                time.sleep(0.5)
            assert self.two.channel(MODEL, "production") == number
            assert (self.two.channel_path(MODEL, "production") / MODEL / str(number) / "model.py").read_text() == "# serves\n"

    def operators_on_two_machines(self) -> None:
        """Who still has the channel of a moment ago in its cache does not overwrite what the other has done since."""
        Path("/three").mkdir()
        _run("mount.nfs4", "127.0.0.1:/share", "/three", "-o", "vers=4.2,nosharecache")  # remembers for half a minute and more
        three = FileStore(Path("/three/store"))
        for number in (1, 2):
            promote(self.one, "shared", number)
            print("it sees", three.channel(MODEL, "shared"))
        refused = ""
        try:
            promote(three, "shared", 1, expect=1)
        except StoreError as error:
            refused = str(error)
        assert "somebody moved it meanwhile" in refused, refused
        assert self.one.channel(MODEL, "shared") == 2
        assert [move.release for move in self.one.history(MODEL, "shared")] == [1, 2]

    def publishers_on_two_machines(self) -> None:
        """Both at once get two numbers and two whole releases."""
        workers = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.stores.parts", "publish", str(store.root), str(self.source), key(name)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for store, name in ((self.one, "c"), (self.two, "d"))
        ]
        numbers = sorted(int(worker.communicate()[0]) for worker in workers)
        assert numbers == [3, 4], numbers
        assert [self.one.verify(MODEL, n) for n in numbers] == [[], []]

    def removed_while_it_is_read(self) -> None:
        """An open file can be read to its end, and what NFS leaves for it is swept when it is closed."""
        path = self.one.repository(MODEL, 3) / MODEL / "3/engine/part0.bin"
        with open(path, "rb") as stream:
            begun = stream.read(1000)
            self.one.remove(MODEL, 3)
            assert 3 not in self.one.numbers(MODEL)
            assert len(begun + stream.read()) == 300_001
        self.one.sweep(MODEL)
        left = [p.name for p in (self.one.root / MODEL / "releases").iterdir() if p.name.startswith(".")]
        assert left == [], left

    def stale_handle(self) -> None:
        """The exported folder is replaced by another: a clear error, and everything is there when it is mounted again."""
        _run("cp", "-a", "/export/share", "/export/kept")
        _run("rm", "-rf", "/export/share")
        _run("mv", "/export/kept", "/export/share")
        refused: StoreError | None = None
        try:
            publish(self.one, self.source, key("e"))
        except StoreError as error:
            refused = error
        print("said", refused, "->", refused and refused.fix)
        assert refused is not None
        # Which of the two depends on what the client still has in its cache.
        stale = "Stale file handle" in str(refused)
        assert stale or "No such file or directory" in str(refused)
        assert not stale or "mount it again" in (refused.fix or "")
        _run("umount", "-l", "/one")
        _run("mount.nfs4", "127.0.0.1:/share", "/one", "-o", "vers=4.2,nosharecache,actimeo=1")
        assert publish(self.one, self.source, key("e")).release == 5
        assert self.one.verify(MODEL, 2) == []


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def main(one: Path, two: Path) -> int:
    checks = Checks(one, two)
    failed = 0
    for name, check in vars(Checks).items():
        if name.startswith("_"):
            continue
        try:
            check(checks)
            print("PASSED", name, flush=True)
        except BaseException:
            failed += 1
            traceback.print_exc(file=sys.stdout)
            print("FAILED", name, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
