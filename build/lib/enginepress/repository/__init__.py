"""Triton model repositories: assemble, place, validate.

An *unplaced* repository is what `assemble` makes. Its version folders are called `0`; Triton would serve them, as version 0,
which no release has. `place(repository, number, root)` writes the release's number and its readers' root path.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

UNPLACED_VERSION = "0"


@dataclass(frozen=True)
class Placement:
    """A repository with a number: which file stands where. Pure data; stores and servers write it to disk.

    Attributes:
        number: the release number, also every version folder's name; 0 for an unplaced repository.
        written: relative path -> content of the files that placing rewrites (config.pbtxt and the like).
        linked: relative path -> the existing file whose bytes stand there unchanged.
    """

    number: int
    written: dict[str, bytes] = field(default_factory=dict)
    linked: dict[str, Path] = field(default_factory=dict)
