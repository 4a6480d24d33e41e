"""The history of a channel: one JSON line a move, appended and synced before the move is made.

    history/production.jsonl
    {"activation": "production-7-1c9f03ab", "at": "2026-11-20T19:30:00Z", "back": false, "previous": 6, "release": 7,
     "who": "ana", "why": "…"}
    {"void": "production-8-77aa01de"}

A line comes before its move, so whoever sees a new release finds it explained. A mover that was killed in between leaves a
line without a move: readers see that the channel still points to the line before, and the next mover marks it void.
A line that was not finished (power cut, full disk) counts as not written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enginepress.errors import StoreError
from enginepress.files import make_folders, sync_folder, write_atomic
from enginepress.json_text import json_value
from enginepress.manifest import CREATED


@dataclass(frozen=True)
class Move:
    """One move of a channel.

    Attributes:
        release: where it points since then.
        previous: where it pointed before; None for its first move.
        activation: the folder made for it.
        at: UTC, ISO 8601.
        who, why: as the mover gave them.
        back: it was a rollback, which undoes moves, and not a promotion, which is one more.
    """

    release: int
    previous: int | None
    activation: str
    at: str
    who: str
    why: str
    back: bool = False


def read_moves(path: Path, *, current: str | None) -> list[Move]:
    """Every move that took place, oldest first.

    Args:
        current: the activation to which the channel points now, or None.

    Raises:
        StoreError: naming the line that is no move.
    """
    moves = _moves(path)
    return moves[:-1] if _is_unfinished(moves, current) else moves


def append_move(path: Path, move: Move, *, current: str | None) -> None:
    """Adds a line, durably. Call it under the channel's lock, before the move."""
    moves = _moves(path)
    lines: list[dict[str, Any]] = [{"void": moves[-1].activation}] if _is_unfinished(moves, current) else []
    lines.append(asdict(move))
    data = "".join(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n" for line in lines).encode()
    make_folders(path.parent)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with open(handle, "r+b") as stream:
        stream.seek(stream.read().rfind(b"\n") + 1)
        stream.truncate()
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(path.parent)


def write_moves(path: Path, moves: Iterable[Move]) -> None:
    """A whole history, in place of what is there. Call it under the channel's lock, before the channel is made."""
    lines = [json.dumps(asdict(move), sort_keys=True, ensure_ascii=False) + "\n" for move in moves]
    write_atomic(path, "".join(lines))


def came_before(moves: Iterable[tuple[int, bool]], exists: Callable[[int], bool]) -> int | None:
    """The release to go back to, from a channel's moves, oldest first: each a release, and whether it was a rollback.

    A rollback undoes what came after the release it leads to: after 5, 6, 7 and back to 6, the one before is 5 and not 7. A
    promotion of an old release is one more move: after 1, 2 and 1 again, the one before is 2.
    """
    line: list[int] = []
    for release, back in moves:
        if back and release in line:
            del line[len(line) - line[::-1].index(release) :]
        elif line[-1:] != [release]:
            line.append(release)
    return next((release for release in reversed(line[:-1]) if exists(release) and release != line[-1]), None)


def _is_unfinished(moves: list[Move], current: str | None) -> bool:
    """Whether the last line's move was never made: the channel is where the line before left it."""
    before = moves[-2].activation if len(moves) > 1 else None
    return bool(moves) and moves[-1].activation != current and current == before


def _moves(path: Path) -> list[Move]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    moves: list[Move] = []
    finished = data[: data.rfind(b"\n") + 1]
    for number, line in enumerate(finished.splitlines(), start=1):
        try:
            fields = json_value(line)
            if "void" not in fields:
                moves.append(move_of(fields))
            elif moves and moves[-1].activation == fields["void"]:
                moves.pop()
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"line {number} is damaged: {error}",
                where=str(path),
                fix="correct or remove that line; the channel itself is not affected",
            ) from None
    return moves


def move_of(fields: Any) -> Move:
    """The move that a JSON object describes. Raises ValueError, saying what is wrong with it, for anything else."""
    try:
        move = Move(**fields)
    except TypeError:
        raise ValueError("it does not have the fields of a move") from None
    if type(move.release) is not int or type(move.previous) not in (int, type(None)):
        raise ValueError("release and previous are not numbers")
    if not all(isinstance(text, str) for text in (move.activation, move.who, move.why)) or not isinstance(move.back, bool):
        raise ValueError("activation, who and why are not texts, or back is not true or false")
    if not isinstance(move.at, str) or not CREATED.fullmatch(move.at):
        raise ValueError(f"{move.at!r} is not when it was")
    return move
