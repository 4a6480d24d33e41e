"""The names that each builder's served model has for the same question."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from enginepress.errors import ServerError

if TYPE_CHECKING:
    from enginepress.recipe import BuilderName

Dialect = Literal["enginepress", "llmapi", "vllm"]
"""`enginepress`: text_input or messages, max_tokens, stream, as the onnxruntime and tensorrt_llm templates have them."""


def dialect_of(builder: BuilderName) -> Dialect:
    return builder if builder in ("llmapi", "vllm") else "enginepress"


def model_inputs(
    dialect: Dialect, *, text: str | None, messages: tuple[Mapping[str, str], ...] | None, max_tokens: int, stream: bool
) -> dict[str, Any]:
    """The model's inputs by name, for its likeliest answer.

    Raises:
        ServerError: chat messages for vLLM's Triton backend, which takes text only.
    """
    asked = {"text_input": text} if messages is None else {"messages": json.dumps(list(messages))}
    if dialect == "llmapi":
        return {**asked, "sampling_param_max_tokens": max_tokens, "streaming": stream}
    if dialect == "vllm":
        if messages is not None:
            raise ServerError("vLLM's Triton model takes no chat messages", where="text_input", fix="write the prompt as text")
        sampling = json.dumps({"max_tokens": max_tokens, "temperature": 0})
        return {**asked, "sampling_parameters": sampling, "exclude_input_in_output": True, "stream": stream}
    return {**asked, "max_tokens": max_tokens, "stream": stream}
