"""Brings a whole checkpoint onto this disk. A killed download goes on where it was.

    <partial store>/<digest>                    a complete, verified file
                    <digest>.<owner>.part       being written, or left by a killed process (see transfer.partial)

Each file is fetched into the store under the digest that its source published and gets its plain name there once it is
verified. When all are there, they are synced and linked into the output, the checkpoint is checked as a whole, and the
store's names are removed. The next attempt hashes what it finds in the store before it is used. On volumes without hard links
(SMB, some FUSE mounts) the files are moved instead, so that a killed download fetches its complete ones again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from enginepress.errors import SourceError, WorkspaceError
from enginepress.files import CHUNK_BYTES, NO_LINKS, FileEntry, contained_path, explain_os_error, sync_file, sync_folder
from enginepress.json_text import parse_json
from enginepress.quantities import size_text
from enginepress.sources import CheckpointSource, RemoteFile, Revision
from enginepress.sources.model_config import read_model_config
from enginepress.sources.transfer import Download, FileHash, PartialStore, Stopped
from enginepress.sources.weights import check_weights

AT_ONCE = 8
"""Files fetched at the same time. Their streams are limited together (transfer.fetch.Download)."""

SYNCED_AT_ONCE = 16

_ATTEMPTS = 4
CheckpointProgress = Callable[[str, int, int], None]
"""Called with a file's path, its bytes so far and its size; from several threads, one at a time."""


def download_checkpoint(
    source: CheckpointSource,
    revision: Revision,
    output: Path,
    *,
    partial_store: Path,
    progress: CheckpointProgress,
    **settings: Any,
) -> tuple[FileEntry, ...]:
    """Fetches all files of a revision into `output`, which exists and is empty.

    The caller makes sure that nobody else downloads the same revision through the same store. Store and output are on one
    file system.

    Args:
        settings: of transfer.fetch.Download, such as `bytes_per_second`.

    Returns:
        The files of the checkpoint, sorted by path.

    Raises:
        SourceError: a file cannot be had, is not what its source published, or the checkpoint is not whole.
        WorkspaceError: there is not enough space, or the disk cannot be written.
    """
    try:
        partial_store.mkdir(parents=True, exist_ok=True)
        store = PartialStore(partial_store)
        _check_space(revision, store)
        download = Download(source, revision, store, **settings)
        paths = {file.path: contained_path(output, file.path) for file in revision.files}
        try:
            hashes = _Checkpoint(download, progress, paths).run()
        except BaseException:
            for file in revision.files:  # what was verified stays in the store, for the next attempt
                _put_back(paths[file.path], _stored(partial_store, file))
            raise
        _sync(paths.values())
        with _named_by_source(revision, output):
            check_weights(paths)
            read_model_config(paths["config.json"])
            check_tokenizer(paths["tokenizer.json"])
        sync_folder(output)
        for file in revision.files:
            _stored(partial_store, file).unlink(missing_ok=True)
    except OSError as error:
        raise explain_os_error(error, "writing the checkpoint", WorkspaceError) from None
    return tuple(FileEntry(file.path, file.size, hashes[file.path]) for file in revision.files)


@contextlib.contextmanager
def _named_by_source(revision: Revision, folder: Path) -> Iterator[None]:
    """What is wrong with a file is said about the file at its source: the copy in `folder` is gone when it is read."""
    try:
        yield
    except SourceError as error:
        where = (error.where or "").replace(str(folder), revision.source)
        raise type(error)(error.message, where=where or None, fix=error.fix) from None


def check_tokenizer(path: Path) -> None:
    """Whether tokenizer.json is one; asks `tokenizers` itself where that is installed.

    Raises:
        SourceError: naming the file and what is wrong with it.
    """
    fix = "name a checkpoint with an intact tokenizer.json"
    raw = path.read_bytes()
    if raw.startswith(b"version https://git-lfs."):
        raise SourceError("is a git-lfs pointer; run `git lfs pull` where it came from", where=str(path), fix=fix)
    data = parse_json(raw, where=str(path), fix=fix)
    if not isinstance(data, dict) or "model" not in data:
        raise SourceError("is no tokenizer: it has no 'model'", where=str(path), fix=fix)
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return
    try:
        Tokenizer.from_str(raw.decode("utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise SourceError(f"cannot be loaded by tokenizers: {error}", where=str(path), fix=fix) from None


class _Checkpoint:
    """The files of one revision on their way into the store."""

    def __init__(self, download: Download, progress: CheckpointProgress, paths: Mapping[str, Path]) -> None:
        self._download = download
        self._paths = paths
        self._store = download.store.folder
        self._progress = progress
        self._report = threading.Lock()
        # Two paths of a checkpoint may be the same bytes: they are fetched once.
        self._names: Mapping[str, RemoteFile] = {file.digest.value: file for file in download.revision.files}
        self._done: dict[str, int] = {}

    def run(self) -> dict[str, str]:
        """Fetches what is missing; returns sha256 by path."""
        largest_first = sorted(self._names.values(), key=lambda file: -file.size)
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="download") as pool:
            futures = {file.digest.value: pool.submit(self._obtain, file) for file in largest_first}
            try:
                done, unfinished = wait(futures.values(), return_when=FIRST_EXCEPTION)
                if unfinished:
                    self._download.give_up()
            except BaseException:
                self._download.give_up()
                raise
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        for future in done:
            if not isinstance(future.exception(), Stopped):
                future.result()  # raises what made the others stop
        return {file.path: futures[file.digest.value].result() for file in self._download.revision.files}

    def _obtain(self, file: RemoteFile) -> str:
        """Fetches a file, unless an earlier attempt has, and links it to its places at once.

        Another checkpoint that shares it may be under way, and removes it from the store when it has finished: before it is
        linked here it is fetched once more, afterwards that does not matter.
        """
        stored = _stored(self._store, file)
        for attempt in range(_ATTEMPTS):
            if self._download.stop.is_set():
                raise Stopped
            try:
                sha256 = self._verified(file, stored) if stored.exists() else None
                if sha256 is None:
                    stored.unlink(missing_ok=True)
                    self._tell(file, -self._done.get(file.path, 0))
                    sha256 = self._download.fetch(file, stored, lambda count: self._tell(file, count))
                self._link(file, stored)
                return sha256
            except OSError as error:
                # Over NFS, what another machine has removed is a stale handle; and where the answer to a request was lost that
                # made a file, the repeated one says that it is there.
                if error.errno not in (errno.ENOENT, errno.ESTALE, errno.EEXIST) or attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _link(self, file: RemoteFile, stored: Path) -> None:
        paths = [self._paths[other.path] for other in self._download.revision.files if other.digest == file.digest]
        for path in paths:
            path.unlink(missing_ok=True)
        try:
            for path in paths:
                os.link(stored, path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            for path in paths[1:]:
                shutil.copyfile(stored, path)
            os.rename(stored, paths[0])

    def _verified(self, file: RemoteFile, stored: Path) -> str | None:
        """sha256 of what an earlier attempt finished, or None if it has been damaged since."""
        hashes = FileHash(file)
        with open(stored, "rb") as stream:
            while block := stream.read(CHUNK_BYTES):
                hashes.update(block)
        if not hashes.matches():
            return None
        self._tell(file, file.size)
        return hashes.sha256

    def _tell(self, file: RemoteFile, count: int) -> None:
        with self._report:
            self._done[file.path] = self._done.get(file.path, 0) + count
            self._progress(file.path, self._done[file.path], file.size)


def _sync(paths: Iterable[Path]) -> None:
    """Makes files durable. Several at a time: the file system then writes its journal once for many."""
    with ThreadPoolExecutor(SYNCED_AT_ONCE) as pool:
        for _ in pool.map(sync_file, paths):
            pass


def _stored(store: Path, file: RemoteFile) -> Path:
    return store / file.digest.value


def _put_back(path: Path, stored: Path) -> None:
    """Takes a file out of an output that came to nothing: into the store, where that has it under no other name."""
    with contextlib.suppress(OSError):
        if stored.exists():
            path.unlink(missing_ok=True)
        else:
            os.rename(path, stored)


def _check_space(revision: Revision, store: PartialStore) -> None:
    folder = store.folder
    missing = {f.digest.value: f.size - store.bytes_left(f) for f in revision.files if not _stored(folder, f).exists()}
    need, free = sum(missing.values()), shutil.disk_usage(folder).free
    if need > free:
        raise WorkspaceError(
            f"there is not enough space for the checkpoint: {size_text(need)} are needed, {size_text(free)} are free",
            where=str(folder),
            fix="free some space, or name another workspace",
        )
