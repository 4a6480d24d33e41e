"""What the model was configured with: `parameters` of config.pbtxt, and what the engine and tokenizer folders say.

<version folder>/engine/genai_config.json           context length, vocabulary, padding token
<version folder>/tokenizer/generation_config.json   which tokens end an answer
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_generation import Generation, SettingsError, read_json, token_ids
from llm_threads import usable_cores


@dataclass(frozen=True)
class Settings:
    """The parameters of config.pbtxt."""

    max_concurrent_requests: int = 64
    """Requests answered or waiting at one time; one more gets an error."""
    max_tokens_default: int = 128
    """Tokens of an answer whose request does not say, at most: clipped to what the prompt leaves."""
    slow_path_requests: int = 2
    """Requests on the second path at one time (see llm_slow_path); 0 switches that path off."""
    max_batch_size: int = 8
    """Requests that one engine answers together, at most."""
    engines: int = 4
    """Groups of requests answered at one time, at most."""
    threads: int = 0
    """Threads of the inference library; 0 takes as many as there are cores to use (llm_threads)."""
    max_sequence_length: int = 0
    """Tokens of prompt and answer together, at most; 0 means the model's own limit."""

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> Settings:
        """Reads strings as config.pbtxt has them; "" counts as not given."""
        least = {"slow_path_requests": 0, "threads": 0, "max_sequence_length": 0}
        values: dict[str, int] = {}
        for name in cls.__dataclass_fields__:
            text = parameters.get(name, "").strip()
            if not text:
                continue
            minimum = least.get(name, 1)
            if not text.isascii() or not text.isdigit() or int(text) < minimum:
                raise SettingsError(
                    f"config.pbtxt: parameter {name} is {text!r}; it must be a whole number of at least {minimum}"
                )
            values[name] = int(text)
        return cls(**values)


@dataclass(frozen=True)
class EngineFacts:
    """What the engine can take."""

    context_length: int
    vocab_size: int
    pad_token_id: int
    eos_token_ids: frozenset[int]

    @classmethod
    def read(cls, engine: Path, tokenizer: Path) -> EngineFacts:
        """Reads genai_config.json and, for the end-of-answer tokens, the checkpoint's own files."""
        model = read_json(engine / "genai_config.json").get("model", {})
        try:
            context_length, vocab_size = int(model["context_length"]), int(model["vocab_size"])
        except KeyError as error:
            raise SettingsError(f"{engine / 'genai_config.json'}: model.{error.args[0]} is missing") from None
        return cls(
            context_length=context_length,
            vocab_size=vocab_size,
            pad_token_id=int(model.get("pad_token_id") or 0),
            eos_token_ids=frozenset(Generation.read(tokenizer).end_tokens or token_ids(model.get("eos_token_id"))),
        )


def sequence_limit(settings: Settings, facts: EngineFacts) -> int:
    """The most tokens that a prompt and its answer can have together."""
    return min(facts.context_length, settings.max_sequence_length or facts.context_length)


def engine_overlay(settings: Settings, facts: EngineFacts) -> str:
    """What is changed in genai_config.json at load, as JSON: the file itself belongs to the release and stays as it is."""
    session: dict[str, Any] = {"intra_op_num_threads": settings.threads or usable_cores()}
    model: dict[str, Any] = {"decoder": {"session_options": session}}
    if facts.eos_token_ids:
        model["eos_token_id"] = sorted(facts.eos_token_ids)
    return json.dumps({"engine": {"static_batching": {"max_batch_size": settings.max_batch_size}}, "model": model})
