"""A progress bar for work that is measured in bytes. Only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


def many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@dataclass(frozen=True)
class BytesBar:
    """What the work calls while it goes on. `progress` is None where nobody looks."""

    progress: Callable[[int], None] | None
    tell: Callable[[str], None]


@contextmanager
def bytes_bar(what: str, *, total: Callable[[], int], shown: bool = True) -> Iterator[BytesBar]:
    """A bar on stderr, if that is a terminal. `total` is asked only then."""
    if not shown or not sys.stderr.isatty():
        yield BytesBar(None, lambda _text: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total())
        yield BytesBar(lambda count: bar.advance(task, count), lambda text: bar.update(task, description=text))
