"""Checks of the `parameters` of a TensorRT-LLM engine's config: names and values against what NVIDIA's backend reads."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from enginepress.repository.findings import Finding, error, warning
from enginepress.repository.inventory import Model
from enginepress.repository.plans.tensorrt_llm_parameters import PARAMETERS, Parameter

_ENGINE = {parameter.name: parameter for parameter in PARAMETERS if parameter.target == "engine"}
_CHECKED_ELSEWHERE = frozenset({"gpt_model_type", "batch_scheduler_policy", "FORCE_CPU_ONLY_INPUT_TENSORS", "gpu_device_ids"})
_OTHER_NAMES = ("gpt_model_path", "encoder_model_path", "tokenizer_dir", "multi_gpu", "worker_path")
"""Names that the backend reads beside those that a recipe may set."""

_KNOWN = sorted({*_ENGINE, *_OTHER_NAMES})


def check_parameters(model: Model, *, ours: bool) -> Iterator[Finding]:
    """
    Args:
        ours: whether enginepress wrote the repository. In another one, only what reads like a slip is warned of.
    """
    for key in model.config.parameters if model.config is not None else ():
        value = (model.parameter(key) or "").strip()
        if key in _ENGINE:
            reason = None if not value or "${" in value or key in _CHECKED_ELSEWHERE else _reason(_ENGINE[key], value)
            if reason is not None:
                # NVIDIA's own reader is laxer about texts than a recipe, but a number that it cannot be is one nowhere.
                make = error if ours or _ENGINE[key].kind in ("fraction", "int") else warning
                yield make(model.name, model.config_file, f"parameter {key} is '{value}'", reason)
        elif key not in _OTHER_NAMES:
            close = difflib.get_close_matches(key, _KNOWN, n=1, cutoff=0.85)
            if ours or close:
                make = error if ours else warning
                fix = f"did you mean '{close[0]}'?" if close else "leave it out"
                yield make(model.name, model.config_file, f"the backend reads no parameter '{key}'", fix)


def _reason(parameter: Parameter, value: str) -> str | None:
    """What the value must be, if it is not."""
    if parameter.kind == "bool":
        return None if value.lower() in ("true", "false", "0", "1") else "true or false"
    if parameter.kind == "int":
        if re.fullmatch(r"-?\d+", value) is None:
            return "a whole number"
        return None if int(value) >= parameter.least else f"a whole number from {parameter.least} on"
    if parameter.kind == "fraction":
        try:
            return None if 0 <= float(value) <= 1 else "a number from 0 to 1"
        except ValueError:
            return "a number from 0 to 1"
    if parameter.kind == "choice":
        return None if value in parameter.choices else f"one of: {', '.join(parameter.choices)}"
    if parameter.kind == "pattern":
        return None if re.fullmatch(parameter.pattern, value) else f"for example {parameter.choices[0]}"
    return None
