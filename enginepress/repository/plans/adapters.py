"""`serving.adapters`: LoRA adapters that a request may name, and what the LLM API must be told to take them.

A request names one in `lora_name`; a name that the recipe does not have is an error there. NVIDIA's own llmapi model takes
`lora_path` from the client, which lets anybody who may ask load any folder of the server: here the recipe alone says folders.
The folders lie on the machine that serves; they are no part of the release.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from enginepress.errors import RecipeError
from enginepress.repository.plans.engine_args import WHERE as ARGUMENTS
from enginepress.repository.plans.engine_args import adapters, check_folder

WHERE = "serving.adapters"

FILE = "multi_lora.json"
"""Name -> folder, in the version folder: as Triton's vLLM backend reads its adapters (vllm_backend src/model.py)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")


def check_adapters(named: Mapping[str, str], given: Mapping[str, Any]) -> None:
    """Args:
        named: `serving.adapters`.
        given: `serving.engine_args` of builder llmapi, checked already.

    Raises:
        RecipeError: for a name or folder that cannot be one, for adapters without what they need, or what they need without any.
    """
    for name, folder in named.items():
        if not _NAME.fullmatch(name):
            raise RecipeError(
                f"{name!r} is no name of an adapter",
                where=WHERE,
                fix="begin with a letter or digit, and use letters, digits and . _ : / - (128 at most)",
            )
        check_folder(folder, f"{WHERE}.{name}")
    if not named:
        if adapters(given) or given.get("peft_cache_config") is not None:
            names = ("lora_config", "enable_lora", "peft_cache_config")
            field = next(name for name in names if given.get(name) not in (None, False))
            raise RecipeError(
                "has no effect: the recipe names no adapter that a request could ask for",
                where=f"{ARGUMENTS}.{field}",
                fix="name adapters in serving.adapters (name: /folder on the machine that serves), or leave it out",
            )
        return
    if given.get("enable_lora") is False:
        raise RecipeError(
            "is false, and serving.adapters names adapters", where=f"{ARGUMENTS}.enable_lora", fix="leave one of them out"
        )
    config = given.get("lora_config") or {}
    told_by = config.get("lora_dir") or list(named.values())
    if not config.get("lora_target_modules") and len(told_by) > 1:
        raise RecipeError(
            f"nothing says which matrices {len(told_by)} adapters change: the LLM API reads that from one adapter only, and "
            "would not load",
            where=WHERE,
            fix=f"set {ARGUMENTS}.lora_config.lora_target_modules, e.g. [attn_q, attn_v], or name one adapter",
        )


def lora_config(named: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any] | None:
    """What LLM() is told of adapters: the recipe's own, and where one adapter alone says which matrices it changes, that one.

    LLM() reads them from `lora_dir` if that is one folder, and from `lora_target_modules` otherwise
    (tensorrt_llm/_torch/pyexecutor/_util.py: `create_py_executor_instance`).
    """
    if not named:
        return None
    config = dict(given.get("lora_config") or {})
    if not config.get("lora_target_modules") and not config.get("lora_dir"):
        config["lora_dir"] = list(named.values())
    return config


def adapters_file(named: Mapping[str, str]) -> dict[str, str]:
    """The file of the version folder, if there are adapters: name -> content."""
    return {FILE: json.dumps(dict(named), indent=2, sort_keys=True) + "\n"} if named else {}
