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


@dataclass(frozen=True)
class Here:
    """A machine that shall serve; None for what it does not have.

    Attributes:
        gpus: how many of this SM.
    """

    sm: str | None = None
    gpus: int = 0
    tensorrt_llm: str | None = None
    tensorrt: str | None = None


def check_servable(record: EngineRecord, here: Here) -> None:
    """Whether an engine runs here.

    Raises:
        GateError: saying both sides.
    """
    built = f"TensorRT-LLM {record.tensorrt_llm} with TensorRT {record.tensorrt} on {record.gpu} (SM {record.sm})"
    problems = []
    if here.sm != record.sm:
        problems.append(f"the GPU here is SM {here.sm}" if here.sm else "there is no GPU here")
    elif here.gpus < record.world_size:
        problems.append(f"it has {record.world_size} ranks, a GPU for each, and there {_are(here.gpus)} here")
    if here.tensorrt_llm != record.tensorrt_llm:
        said = f"TensorRT-LLM here is {here.tensorrt_llm}" if here.tensorrt_llm else "there is no TensorRT-LLM here"
        problems.append(said)
    elif here.tensorrt != record.tensorrt:
        problems.append(f"TensorRT here is {here.tensorrt}")
    if problems:
        gpus = f"{record.world_size} GPUs" if record.world_size > 1 else "a GPU"
        raise GateError(
            f"the engine was built by {built}, and {' and '.join(problems)}: it would not load",
            where=FILE,
            fix=f"serve it in {record.image} on {gpus} with SM {record.sm}, or build it here",
        )


def _are(gpus: int) -> str:
    return "is 1" if gpus == 1 else f"are {gpus}"
