"""Whether an engine runs on this machine: its record against the GPU and the TensorRT-LLM that are here."""

from __future__ import annotations

from pathlib import Path

from enginepress.engines.tensorrt_llm import machine
from enginepress.engines.tensorrt_llm.record import check_servable, read_record
from enginepress.engines.tensorrt_llm.tools import find_tools
from enginepress.errors import BuildError


def check_runs_here(engine: Path) -> None:
    """Asked before a server is started with an engine. A folder without a record is not one of ours, and passes.

    Raises:
        GateError: saying what the engine was built on and what is here.
    """
    record = read_record(engine)
    if record is None:
        return
    sm = version = None
    try:
        sm = machine.local_gpu().sm
    except BuildError:
        pass
    try:
        version = machine.local_packages(find_tools(record.image).python)["tensorrt_llm"]
    except BuildError:
        pass
    check_servable(record, sm=sm, tensorrt_llm=version)
