"""Triton's `ModelConfig` protobuf, imported cheaply.

It ships in tritonclient's gRPC package, whose `__init__` imports all of grpc (0.2 s) that a config file does not need. The
module itself only needs protobuf (0.03 s), so it is loaded from its own file. protobuf keeps one class per message, so the
classes are the same ones that `tritonclient.grpc` uses if somebody imports that as well.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from enginepress.errors import EnginepressError

_MODULE = "tritonclient.grpc.model_config_pb2"

ModelConfig: TypeAlias = Any
"""An `inference.ModelConfig` message; generated classes carry no types."""


@functools.cache
def model_config_module() -> ModuleType:
    """The generated module `model_config_pb2`.

    Raises:
        EnginepressError: if tritonclient is not installed.
    """
    if _MODULE in sys.modules:
        return sys.modules[_MODULE]
    package = importlib.util.find_spec("tritonclient")
    for folder in (package.submodule_search_locations or []) if package is not None else []:
        file = Path(folder, "grpc", "model_config_pb2.py")
        if file.is_file():
            spec = importlib.util.spec_from_file_location("enginepress.repository._model_config_pb2", file)
            if spec is not None and spec.loader is not None:
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                return module
    try:
        return importlib.import_module(_MODULE)
    except ImportError as error:
        raise EnginepressError(
            f"Triton's model configuration cannot be imported: {error}", fix="pip install 'tritonclient[grpc]'"
        ) from None


def new_config() -> ModelConfig:
    """An empty ModelConfig."""
    return model_config_module().ModelConfig()


def data_type_name(number: int) -> str:
    """`TYPE_FP32` for 11; the number itself for one that this tritonclient does not know."""
    values = model_config_module().DataType.DESCRIPTOR.values_by_number
    return str(values[number].name) if number in values else str(number)
