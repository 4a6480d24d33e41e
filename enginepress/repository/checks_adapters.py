"""Checks of multi_lora.json: the LoRA adapters that a served checkpoint takes, for llmapi and Triton's vLLM backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from enginepress.repository.findings import Finding, error, warning
from enginepress.repository.inventory import Model
from enginepress.repository.mappings import read_mapping
from enginepress.repository.plans.adapters import FILE


def check_adapters_file(model: Model, version: str, values: Mapping[str, Any], *, llmapi: bool) -> Iterator[Finding]:
    """
    Args:
        values: of model.yaml or model.json beside it.
    """
    path = f"{version}/{FILE}"
    if path not in model.entries:
        return
    file = f"{model.name}/{path}"
    named = read_mapping(model.folder / path)
    if named is None:
        yield error(model.name, file, "is not a readable mapping of adapters' names to their folders")
        return
    on = "lora_config" if llmapi else "enable_lora"
    if named and not values.get(on):
        said = "model.yaml" if llmapi else "model.json"
        yield error(model.name, file, f"names adapters, and {said} has no {on}: none is taken", f"set {on}, or remove the file")
    for name, folder in named.items():
        if not isinstance(folder, str) or not folder.startswith("/"):
            yield error(model.name, file, f"adapter '{name}': {folder!r} is no absolute path", "name the adapter's folder")
        elif not Path(folder).exists():
            yield warning(
                model.name, file, f"adapter '{name}': {folder} is not there on this machine", "check it where the server runs"
            )
