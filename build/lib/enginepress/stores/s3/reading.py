"""Reading objects whole: hashed in one pass, tried again from where the connection broke."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from enginepress.errors import SourceError, StoreError
from enginepress.files import contained_path, explain_os_error, remove_tree, sync_file, sync_folder
from enginepress.manifest import Manifest
from enginepress.sources import Body, Digest, Interrupted, RemoteFile, Revision
from enginepress.sources.transfer import Download, PartialStore, Stopped
from enginepress.stores.fetching import PARTIAL, keep_whole
from enginepress.stores.s3.client import PAUSES, Missing, StoreClient
from enginepress.stores.store import Progress

AT_ONCE = 8


def sha256_of_object(client: StoreClient, key: str, size: int, *, progress: Callable[[int], None] | None = None) -> str | None:
    """sha256 (hex) of an object of this size; None if there is none.

    Raises:
        StoreError: if the server cannot be asked.
    """
    digest, at, pauses = hashlib.sha256(), 0, iter(PAUSES)
    while True:
        before = at
        try:
            with client.open_range(key, at, size) as (start, blocks, _):
                skip = at - start
                if skip < 0:
                    raise Interrupted("the server sent another part of the object than the one it was asked for")
                for block in blocks:
                    block, skip = block[skip:], max(0, skip - len(block))
                    digest.update(block)
                    at += len(block)
                    if progress is not None:
                        progress(len(block))
            if at >= size:
                return digest.hexdigest()
            raise Interrupted("the answer ended early")
        except Missing:
            return None
        except Interrupted as error:
            if at > before:
                pauses = iter(PAUSES)  # something came: it goes on
            pause = next(pauses, None)
            if pause is None:
                raise StoreError(
                    f"cannot be read: {error}", where=client.where(key), fix="check the network, then run again"
                ) from None
            time.sleep(max(pause, error.wait or 0))


def fetch_files(client: StoreClient, folder: str, manifest: Manifest, target: Path, *, progress: Progress | None) -> None:
    """Every file of a release into `target`; see `Store.fetch`. Several streams a file, resumed where a killed call was.

    Raises:
        StoreError: bytes that are not those of the manifest, or a disk that cannot be written.
    """
    left = keep_whole(manifest, target, progress)
    partial = target / PARTIAL
    try:
        partial.mkdir(parents=True, exist_ok=True)
        files = {entry.path: RemoteFile(entry.path, entry.size, Digest("sha256", entry.sha256)) for entry in left}
        revision = Revision(client.where(folder), manifest.digest, tuple(files.values()))
        download = Download(_Repository(client, folder), revision, PartialStore(partial))  # type: ignore[arg-type]
        with ThreadPoolExecutor(AT_ONCE, "s3-fetch") as pool:
            largest_first = sorted(files.values(), key=lambda f: -f.size)
            futures = [pool.submit(_fetch, download, f, contained_path(target, f.path), progress) for f in largest_first]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                download.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
        for future in done:
            if not isinstance(future.exception(), Stopped):
                future.result()
        remove_tree(partial)
        sync_folder(target)
    except OSError as error:
        raise explain_os_error(error, "fetching a release", StoreError) from None
    except SourceError as error:
        raise StoreError(error.message, where=error.where, fix=error.fix) from None


def _fetch(download: Download, file: RemoteFile, target: Path, progress: Progress | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    download.fetch(file, target, progress or (lambda count: None))
    sync_file(target)


class _Repository:
    """A release's files, as the transfer wants a source."""

    def __init__(self, client: StoreClient, folder: str) -> None:
        self._client = client
        self._folder = folder

    @contextmanager
    def open_range(self, revision: Revision, file: RemoteFile, start: int, stop: int) -> Iterator[Body]:
        try:
            with self._client.open_range(self._folder + file.path, start, stop) as (begins, blocks, etag):
                yield Body(begins, blocks, version=etag)
        except Missing:
            raise StoreError("is missing", where=self.where(revision, file)) from None

    def where(self, revision: Revision, file: RemoteFile) -> str:
        return self._client.where(self._folder + file.path)
