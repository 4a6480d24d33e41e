"""A client's request, as the LLM API takes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
from llm_chat import parse_messages
from llm_errors import RequestError
from llm_tokenizer import Tokenizer

Array = npt.NDArray[Any]

SAMPLING = {
    "sampling_param_best_of": "best_of",
    "sampling_param_temperature": "temperature",
    "sampling_param_top_k": "top_k",
    "sampling_param_top_p": "top_p",
    "sampling_param_frequency_penalty": "frequency_penalty",
    "sampling_param_presence_penalty": "presence_penalty",
    "sampling_param_max_tokens": "max_tokens",
    "sampling_param_seed": "seed",
}
"""One value each -> argument of SamplingParams."""

INPUTS = (
    "text_input",
    "messages",
    "streaming",
    *SAMPLING,
    "sampling_param_stop",
    "sampling_param_exclude_input_from_output",
    "lora_name",
    "return_finish_reason",
    "return_stop_reason",
    "return_cumulative_logprob",
)


@dataclass(frozen=True)
class Request:
    """
    Attributes:
        prompt: text, or tokens where the chat template has written the special tokens already.
        echo: put in front of the answer: the prompt, if the client wants it there.
        adapter: name of the LoRA adapter, or None for the model itself.
        returns: outputs beside text_output that the client asked for.
    """

    prompt: str | list[int]
    sampling: Mapping[str, Any]
    streaming: bool = False
    echo: str = ""
    adapter: str | None = None
    returns: frozenset[str] = field(default_factory=frozenset)


def read_request(
    tensors: Mapping[str, Array], tokenizer: Tokenizer, *, max_tokens_default: int, adapters: Collection[str] = ()
) -> Request:
    """
    Args:
        adapters: names of the LoRA adapters that this model has.

    Raises:
        RequestError: naming the input.
    """
    if ("text_input" in tensors) == ("messages" in tensors):
        found = "both are given" if "text_input" in tensors else "neither is given"
        raise RequestError(f"exactly one of text_input and messages is needed: {found}")
    prompt: str | list[int]
    if "messages" in tensors:
        prompt = tokenizer.encode_chat(parse_messages(_text("messages", tensors["messages"])))
    else:
        prompt = _text("text_input", tensors["text_input"])
    sampling = {SAMPLING[name]: _one(name, array).item() for name, array in tensors.items() if name in SAMPLING}
    sampling.setdefault("max_tokens", max_tokens_default)
    if sampling["max_tokens"] < 1:
        raise RequestError(f"sampling_param_max_tokens: is {sampling['max_tokens']}; it must be at least 1")
    if "sampling_param_stop" in tensors:
        words = [_decode("sampling_param_stop", value) for value in tensors["sampling_param_stop"].reshape(-1)]
        sampling["stop"] = [word for word in words if word]
    # The prompt is put in front of the answer only on demand, as text: the LLM API's own switch adds its tokens.
    with_prompt = "sampling_param_exclude_input_from_output" in tensors and not _flag(
        tensors, "sampling_param_exclude_input_from_output"
    )
    asked = (name for name in ("finish_reason", "stop_reason", "cumulative_logprob") if _flag(tensors, f"return_{name}"))
    return Request(
        prompt=prompt,
        sampling=sampling,
        streaming=_flag(tensors, "streaming"),
        echo=prompt if with_prompt and isinstance(prompt, str) else "",
        adapter=_adapter(_text("lora_name", tensors["lora_name"]), adapters) if "lora_name" in tensors else None,
        returns=frozenset(asked),
    )


def _adapter(name: str, known: Collection[str]) -> str:
    if name not in known:
        listed = f"it has {', '.join(sorted(known))}" if known else "it was made without any (serving.adapters in its recipe)"
        raise RequestError(f"lora_name: this model has no adapter '{name}'; {listed}")
    return name


def _one(name: str, array: Array) -> Any:
    if array.size != 1:
        raise RequestError(f"{name}: must be one value, not {array.size}")
    return array.reshape(-1)[0]


def _flag(tensors: Mapping[str, Array], name: str) -> bool:
    return name in tensors and bool(_one(name, tensors[name]))


def _text(name: str, array: Array) -> str:
    text = _decode(name, _one(name, array))
    if not text:
        raise RequestError(f"{name}: is empty")
    return text


def _decode(name: str, value: Any) -> str:
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise RequestError(f"{name}: is not UTF-8: {error}") from None
