"""One file standing in two places: hard link, relative symbolic link, or copy; and which links are allowed.

Hard links come first. A symbolic link breaks where a reader mounts only a part of the store (a Kubernetes `subPath` mount of
a channel does not contain the release that the link leads to), and a copy doubles tens of gigabytes. A symbolic link comes
second: for file systems without hard links (SMB, some object-store mounts), and for a gate folder on another disk than the
workspace. It is relative, so that readers may mount the store under another path. A copy works always.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

from enginepress.errors import UnsafePathError

LinkKind = Literal["hard", "symlink", "copy"]
"""The first way that is tried; the later ones follow if the file system refuses."""


def link_file(source: Path, target: Path, *, link: LinkKind = "hard") -> None:
    """Makes `target`, which must not exist, hold the bytes of `source`. Missing folders are made.

    Raises:
        OSError: if even copying fails.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    real = source.resolve(strict=True)
    if link == "hard":
        try:
            os.link(real, target)
            return
        except FileExistsError:
            raise
        except OSError:
            pass
    if link in ("hard", "symlink"):
        try:
            os.symlink(os.path.relpath(real, target.parent.resolve()), target)
            return
        except FileExistsError:
            raise
        except OSError:
            pass
    shutil.copy2(real, target)


def link_target(folder: Path, relative: str, *, version: str) -> Path:
    """Where the symbolic link `folder/relative` leads, if it may lead there.

    Allowed: a file inside the folder, or the same file of the repository that this folder was placed from, that is a target
    with the same path in its repository, except for the number of the version folder and its mark in the model's name.

    Raises:
        UnsafePathError: if it leads anywhere else, or nowhere.
    """
    path = folder / relative
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise UnsafePathError(f"is a link to nothing: {os.readlink(path)}", where=relative) from None
    root = folder.resolve()
    if root in target.parents:
        return target
    parts = relative.split("/")
    tail = list(target.parts[-len(parts) :])
    if len(tail) > 2 and parts[1] == version and tail[1].isdigit():
        tail[1] = version
        if parts[0] == f"{tail[0]}.r{version}":  # enginepress.repository.side_by_side
            tail[0] = parts[0]
    if tail == parts and target.is_file():
        return target
    raise UnsafePathError(f"is a link that leads out of the repository, to {target}", where=relative)
