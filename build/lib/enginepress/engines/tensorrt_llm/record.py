"""`enginepress.json` beside an engine: on what it was built, so that it is never served on anything else.

TensorRT's engines run only with the version that built them and on the GPU architecture that they were built for, and
config.json says neither TensorRT's version nor the GPU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from enginepress.errors import BuildError, GateError
from enginepress.files import write_atomic

FILE = "enginepress.json"
FORMAT = 1


@dataclass(frozen=True)
class EngineRecord:
    """Where an engine was built.

    Attributes:
        gpu: product name.
        sm: compute capability without the dot, e.g. "90".
        driver: of the GPU.
        image: reference of the container.
        image_digest: "sha256:…", or None if the reference names none.
        limits: by trtllm-build's names, in requests and tokens.
    """

    tensorrt_llm: str
    tensorrt: str
    gpu: str
    sm: str
    driver: str
    image: str
    image_digest: str | None
    world_size: int
    limits: Mapping[str, int]


def write_record(folder: Path, record: EngineRecord) -> None:
    write_atomic(folder / FILE, json.dumps({"format": FORMAT, **asdict(record)}, indent=1, sort_keys=True) + "\n")


def read_record(folder: Path) -> EngineRecord | None:
    """The record in this folder, or None if there is none.

    Raises:
        BuildError: if it cannot be read.
    """
    path = folder / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("format") != FORMAT:
            raise ValueError(f"format {data.get('format')!r} is not {FORMAT}")
        fields = {name: data[name] for name in EngineRecord.__dataclass_fields__}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, AttributeError) as error:
        raise BuildError(f"is no engine record: {error}", where=str(path), fix="build the engine anew") from None
    return EngineRecord(**fields)


def check_servable(record: EngineRecord, *, sm: str | None, tensorrt_llm: str | None) -> None:
    """Whether an engine runs here.

    Args:
        sm: of the GPU here, None if there is none.
        tensorrt_llm: version here, None if there is none.

    Raises:
        GateError: saying both sides.
    """
    built = f"TensorRT-LLM {record.tensorrt_llm} on {record.gpu} (SM {record.sm})"
    problems = []
    if sm != record.sm:
        problems.append(f"the GPU here is SM {sm}" if sm else "there is no GPU here")
    if tensorrt_llm != record.tensorrt_llm:
        problems.append(f"TensorRT-LLM here is {tensorrt_llm}" if tensorrt_llm else "there is no TensorRT-LLM here")
    if problems:
        raise GateError(
            f"the engine was built by {built}, and {' and '.join(problems)}: it would not load",
            where=FILE,
            fix=f"serve it in {record.image} on a GPU with SM {record.sm}, or build it here",
        )
