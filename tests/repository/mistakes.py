"""Mistakes in a repository that is right otherwise, and what must be said about each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from enginepress.repository.validate import validate
from tests.repository import samples

Files = dict[str, str | bytes]


@dataclass(frozen=True)
class Mistake:
    """A change to a good repository, and what must be said about it."""

    build: Callable[[], Files]
    file: str
    old: str
    new: str
    where: str
    says: str
    severity: str = "error"


def edit(
    build: Callable[[], Files], file: str, old: str, new: str, says: str, *, where: str = "", severity: str = "error"
) -> Mistake:
    """`old` becomes `new` in `file`; the finding is expected there, or in `where`."""
    return Mistake(build, file, old, new, where or file, says, severity)


def trt() -> Files:
    return samples.tensorrt_llm(root="")


ENSEMBLE = "llama/config.pbtxt"
PRE = "llama-preprocessing/config.pbtxt"
ENGINE = "llama-engine/config.pbtxt"
POST = "llama-postprocessing/config.pbtxt"
BLS = "llama-bls/config.pbtxt"
RECORD = "llama-engine/1/engine/config.json"
GENAI = "tiny/1/engine/genai_config.json"
CHAIN = "chain/config.pbtxt"


def check_found(tmp_path: Path, mistake: Mistake) -> None:
    """The mistake is found once, with its severity, and with its file."""
    files = mistake.build()
    before = str(files[mistake.file])
    assert mistake.old in before
    samples.write(tmp_path, {**files, mistake.file: before.replace(mistake.old, mistake.new, 1)})
    result = validate(tmp_path)
    found = [f for f in result.findings if f.file == mistake.where and mistake.says in f.message]
    assert [f.severity for f in found] == [mistake.severity], "\n".join(map(str, result.findings))
    assert result.ok == (mistake.severity != "error")
    json.dumps(result.to_json())
