"""What config.json says of a checkpoint: architecture, quantization, and code of its own. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginepress.errors import SourceError
from enginepress.json_text import parse_json

_FIX = "fetch config.json again from where it came from"


@dataclass(frozen=True)
class ModelConfig:
    """Attributes:
    architectures: class names in transformers, empty if none is named.
    model_type: transformers' name of the family, or empty.
    quantization: how the weights are quantized already (`gptq`, `fp8`, …), or None.
    code: modules of the checkpoint's own that `auto_map` names; loading them would run them.
    """

    architectures: tuple[str, ...]
    model_type: str
    quantization: str | None
    code: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "architectures": list(self.architectures),
            "model_type": self.model_type,
            "quantization": self.quantization,
            "code": list(self.code),
        }


def read_model_config(path: Path) -> ModelConfig:
    """Reads config.json.

    Raises:
        SourceError: if it is none: an LFS pointer, an error page, no object, or fields of another kind than transformers writes.
    """
    raw = path.read_bytes()
    if raw.startswith(b"version https://git-lfs."):
        raise SourceError("is a git-lfs pointer", where=str(path), fix="run `git lfs pull` where it came from")
    if raw.lstrip()[:1] == b"<":
        raise SourceError("is a web page, not a model's settings", where=str(path), fix=_FIX)
    data = parse_json(raw, where=str(path), fix=_FIX)
    if not isinstance(data, dict):
        raise SourceError("is not a JSON object", where=str(path), fix=_FIX)
    architectures, kind = data.get("architectures") or [], data.get("model_type") or ""
    quantization, auto_map = data.get("quantization_config") or {}, data.get("auto_map") or {}
    for name, value, wanted in (
        ("architectures", architectures, list),
        ("model_type", kind, str),
        ("quantization_config", quantization, dict),
        ("auto_map", auto_map, dict),
    ):
        if not isinstance(value, wanted):
            raise SourceError(f"has a {name} that transformers never writes: {str(value)[:60]!r}", where=str(path), fix=_FIX)
    method = quantization.get("quant_method") or quantization.get("quant_algo") or ("unknown" if quantization else None)
    return ModelConfig(
        tuple(str(name) for name in architectures),
        kind,
        None if method is None else str(method).lower(),
        tuple(sorted({str(name) for name in _names(auto_map.values())})),
    )


def _names(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from (item for item in value if item is not None)
        elif value is not None:
            yield value


def model_settings(config: bytes, quantization: bytes | None, *, where: str) -> dict[str, Any]:
    """config.json as a dict. What ModelOpt says in hf_quant_config.json only stands under `quantization_config` then, where
    newer checkpoints have it: whoever looks at the settings sees that the checkpoint is quantized.

    Args:
        where: the checkpoint's address, for messages.

    Raises:
        SourceError: if one of them is no JSON object.
    """
    found = _object(config, f"{where}/config.json")
    if quantization is None:
        return found
    file = f"{where}/hf_quant_config.json"
    said = _object(quantization, file).get("quantization")
    if not isinstance(said, dict):
        raise SourceError("has no 'quantization', so how the weights are quantized cannot be known", where=file)
    return {**found, "quantization_config": {**said, "quant_method": "modelopt"}}


def _object(raw: bytes, where: str) -> dict[str, Any]:
    value = parse_json(raw, where=where)
    if not isinstance(value, dict):
        raise SourceError("is not a JSON object", where=where)
    return value
