"""What names may hold, as regular expressions for schema and stores, and in words for people."""

from __future__ import annotations

import re

MODEL_NAME = r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?"
CHANNEL_NAME = r"[a-z][a-z0-9-]{0,62}"
RECORD_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}"

_IN_WORDS = {
    MODEL_NAME: "it holds at most 63 lower-case letters, digits, '.', '_' and '-', with a letter or digit first and last",
    CHANNEL_NAME: "it holds at most 63 lower-case letters, digits and '-', with a letter first",
    RECORD_NAME: "it holds at most 201 letters, digits, '.', '_' and '-', with a letter or digit first",
}


def name_trouble(name: str, form: str) -> str | None:
    """What such a name may hold, if this one holds something else."""
    return None if re.fullmatch(form, name) else _IN_WORDS[form]


def reserved_channel(name: str) -> str | None:
    """Why a channel cannot be called like that although it has the form of a channel's name."""
    if name == "latest" or re.fullmatch(r"v\d+", name):
        return "MLflow keeps 'latest' and 'v<number>' for itself; take another name"
    return None
