"""A disk that keeps what was synced and nothing else, fed with system calls: what a power cut may leave.

The rules are POSIX's, which no real file system is as strict about: a file's content is kept by fsync of the file, a name by
fsync of the folder that holds it.
"""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.stores.syscalls import Call

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_HANDLE = re.compile(r"^(\d+)<([^>]*)>")
_AT = re.compile(r'(?:AT_FDCWD|\d+)<([^>]*)>, "((?:[^"\\]|\\.)*)"')


@dataclass
class File:
    content: bytes = b""
    synced: bytes = b""


@dataclass
class Link:
    target: str


@dataclass
class Folder:
    names: dict[str, File | Link | Folder] = field(default_factory=dict)
    synced: dict[str, File | Link | Folder] = field(default_factory=dict)


Node = File | Link | Folder


class Disk:
    """What lies under one folder, now and durably. All that is there at the start is durable."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._top = _load(root)
        self._offsets: dict[str, int] = {}

    def apply(self, call: Call) -> None:
        """Does what a call did. One that failed did nothing."""
        if call.result == -1:
            return
        handler = getattr(self, f"_{call.name}", None)
        if handler is not None:
            handler(call)

    def write_durable(self, target: Path) -> None:
        """What is left if nothing survives that was not synced."""
        _write(self._top, target, names=lambda f: f.synced, content=lambda f: f.synced)

    def write_names_only(self, target: Path) -> None:
        """What is left if every name made it to the disk, and no content that was not synced: files are empty."""
        _write(self._top, target, names=lambda f: f.names, content=lambda f: f.synced)

    # Calls ------------------------------------------------------------------------------------------------------------

    def _mkdir(self, call: Call) -> None:
        self._put(_strings(call)[0], Folder())

    def _openat(self, call: Call) -> None:
        path = _at_paths(call)[0]
        self._offsets[f"{call.result}"] = 0
        if "O_CREAT" not in call.arguments:
            return
        node = self._get(path)
        if node is None:
            self._put(path, File())
        elif isinstance(node, File) and "O_TRUNC" in call.arguments:
            node.content = b""

    def _read(self, call: Call) -> None:
        self._offsets[_handle(call)[0]] = self._offsets.get(_handle(call)[0], 0) + call.result

    def _lseek(self, call: Call) -> None:
        self._offsets[_handle(call)[0]] = call.result

    def _write(self, call: Call) -> None:
        handle, path = _handle(call)
        node = self._get(path)
        assert isinstance(node, File), call
        at = self._offsets.get(handle, 0)
        data = _bytes(_QUOTED.search(call.arguments[call.arguments.index(">") :])[1])[: call.result]  # type: ignore[index]
        node.content = node.content[:at].ljust(at, b"\0") + data + node.content[at + len(data) :]
        self._offsets[handle] = at + len(data)

    def _ftruncate(self, call: Call) -> None:
        node = self._get(_handle(call)[1])
        assert isinstance(node, File), call
        node.content = node.content[: int(call.arguments.rpartition(", ")[2])]

    def _fsync(self, call: Call) -> None:
        node = self._get(_handle(call)[1])
        if isinstance(node, Folder):
            node.synced = dict(node.names)
        elif isinstance(node, File):
            node.synced = node.content

    def _rename(self, call: Call) -> None:
        old, new = _strings(call)
        node = self._get(old)
        assert node is not None, call
        self._drop(old)
        self._put(new, node)

    def _link(self, call: Call) -> None:
        old, new = _strings(call)
        self._same(old, new)

    def _linkat(self, call: Call) -> None:
        self._same(*_at_paths(call))

    def _same(self, old: str, new: str) -> None:
        node = self._get(old)
        assert node is not None, (old, new)
        self._put(new, node)

    def _symlink(self, call: Call) -> None:
        target, path = _strings(call)
        self._put(path, Link(target))

    def _unlink(self, call: Call) -> None:
        self._drop(_strings(call)[0])

    def _unlinkat(self, call: Call) -> None:
        self._drop(_at_paths(call)[0])

    def _rmdir(self, call: Call) -> None:
        self._drop(_strings(call)[0])

    def _unknown(self, call: Call) -> None:
        raise AssertionError(f"the model does not know {call}")

    _mkdirat = _renameat = _renameat2 = _symlinkat = _pwrite64 = _writev = _copy_file_range = _sendfile = _fdatasync = _unknown

    # The tree ---------------------------------------------------------------------------------------------------------

    def _parts(self, path: str) -> list[str] | None:
        inside = os.path.relpath(path, self._root)
        return None if inside.startswith("..") else [p for p in inside.split("/") if p != "."]

    def _get(self, path: str) -> Node | None:
        parts = self._parts(path)
        node: Node | None = self._top if parts is not None else None
        for part in parts or ():
            node = node.names.get(part) if isinstance(node, Folder) else None
        return node

    def _folder(self, path: str) -> Folder:
        node = self._get(os.path.dirname(path))
        assert isinstance(node, Folder), path
        return node

    def _put(self, path: str, node: Node) -> None:
        self._folder(path).names[os.path.basename(path)] = node

    def _drop(self, path: str) -> None:
        del self._folder(path).names[os.path.basename(path)]


def _load(path: Path) -> Folder:
    folder = Folder()
    for entry in sorted(path.iterdir()):
        node: Node
        if entry.is_symlink():
            node = Link(os.readlink(entry))
        elif entry.is_dir():
            node = _load(entry)
        else:
            node = File(entry.read_bytes(), entry.read_bytes())
        folder.names[entry.name] = folder.synced[entry.name] = node
    return folder


def _write(folder: Folder, target: Path, *, names, content) -> None:  # type: ignore[no-untyped-def]
    target.mkdir()
    for name, node in names(folder).items():
        if isinstance(node, Folder):
            _write(node, target / name, names=names, content=content)
        elif isinstance(node, Link):
            (target / name).symlink_to(node.target)
        else:
            (target / name).write_bytes(content(node))


def _strings(call: Call) -> list[str]:
    return [_bytes(text).decode() for text in _QUOTED.findall(call.arguments)]


def _at_paths(call: Call) -> list[str]:
    return [os.path.join(folder, _bytes(name).decode()) for folder, name in _AT.findall(call.arguments)]


def _handle(call: Call) -> tuple[str, str]:
    match = _HANDLE.match(call.arguments)
    assert match is not None, call
    return match[1], match[2]


def _bytes(quoted: str) -> bytes:
    """What strace quoted; its escapes are Python's."""
    data: bytes = ast.literal_eval(f'b"{quoted}"')
    return data
