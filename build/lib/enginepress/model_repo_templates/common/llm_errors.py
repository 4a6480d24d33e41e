"""The one error that a client sees, and the kinds that Triton tells apart."""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """What went wrong, seen from the client: its name is the name of the code in Triton's TritonError."""

    INVALID_ARG = "the request cannot be answered as it stands"
    UNAVAILABLE = "the server has no room or is going away: the same request may succeed later"
    CANCELLED = "the client went away"
    INTERNAL = "the server failed"


class RequestError(Exception):
    """A request that gets an error instead of (the rest of) its answer. Every other request goes on."""

    def __init__(self, message: str, kind: Kind = Kind.INVALID_ARG) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
