"""Whether an engine runs on this machine: its record against the GPUs, TensorRT-LLM and TensorRT that are here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from enginepress.engines.tensorrt_llm import machine
from enginepress.engines.tensorrt_llm.record import Here, check_servable, read_record
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
    here = Here()
    try:
        gpu = machine.local_gpu()
        here = replace(here, sm=gpu.sm, gpus=gpu.count)
    except BuildError:
        pass
    try:
        packages = machine.local_packages(find_tools(record.image).python)
        here = replace(here, tensorrt_llm=packages["tensorrt_llm"], tensorrt=packages["tensorrt"])
    except BuildError:
        pass
    check_servable(record, here)
