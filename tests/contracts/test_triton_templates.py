"""Our TensorRT-LLM templates against what was read of NVIDIA's, generation by generation (triton_templates/*.yaml)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from enginepress.repository.config import parse_config
from enginepress.repository.plans.tensorrt_llm_parameters import GENERATIONS, PARAMETERS, SET_ELSEWHERE
from enginepress.repository.proto import data_type_name
from enginepress.repository.templates import template_folder

MODELS = {
    "ensemble": "ensemble",
    "preprocessing": "preprocessing",
    "tensorrt_llm": "engine",
    "postprocessing": "postprocessing",
    "tensorrt_llm_bls": "bls",
}
"""NVIDIA's name -> our folder."""

OURS = {"messages", "MESSAGES", "STREAM", "OUT_STREAM"}
MADE_OPTIONAL = {"text_input", "QUERY", "max_tokens", "REQUEST_OUTPUT_LEN"}
"""A client gives text_input or messages, and max_tokens has a default."""

NOT_SERVED = ("IMAGE", "VIDEO", "PIXEL", "ASPECT", "CROSS_ATT", "IS_VIDEO", "ATTENTION_MASK", "VISION", "image_", "video_")
NOT_SERVED_EITHER = {"num_draft_tokens", "use_draft_logits"}
"""Images and video; a draft model beside the engine."""


def contract(generation: str) -> dict[str, Any]:
    file = Path(__file__).parent / "triton_templates" / f"{generation}.yaml"
    facts: dict[str, Any] = yaml.safe_load(file.read_text())
    return facts


def ours(generation: str, model: str) -> Any:
    file = template_folder(generation) / model / "config.pbtxt"
    return parse_config(file.read_bytes(), str(file))


def described(tensor: Any) -> str:
    flags = [("scalar", tensor.HasField("reshape") and not tensor.reshape.shape)]
    flags += [("optional", getattr(tensor, "optional", False)), ("ragged", getattr(tensor, "allow_ragged_batch", False))]
    kind = data_type_name(tensor.data_type).removeprefix("TYPE_")
    return f"{kind}{list(tensor.dims)}" + "".join(f" {name}" for name, on in flags if on)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["input", "output"])
def test_tensors_are_nvidias_but_for_what_is_said_here(generation: str, model: str, kind: str) -> None:
    theirs = contract(generation)[model][kind]
    mine = {tensor.name: described(tensor) for tensor in getattr(ours(generation, MODELS[model]), kind)}
    expected = {n: row for n, row in theirs.items() if not n.startswith(NOT_SERVED) and n not in NOT_SERVED_EITHER}
    for name in MADE_OPTIONAL & set(expected) if kind == "input" else ():
        expected[name] += " optional"
    assert {name: row for name, row in mine.items() if name not in OURS} == expected


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_ensemble_is_wired_as_nvidias_but_for_chat_and_streaming(generation: str) -> None:
    theirs = contract(generation)["ensemble"]["steps"]
    for step in ours(generation, "ensemble").ensemble_scheduling.step:
        name = {"engine": "tensorrt_llm"}.get(step.model_name, step.model_name)
        expected = {"input_map": dict(theirs[name]["input_map"]), "output_map": dict(theirs[name]["output_map"])}
        if name == "preprocessing":
            expected["input_map"] |= {"MESSAGES": "messages", "STREAM": "stream"}
            expected["output_map"] |= {"OUT_STREAM": "_STREAM"}
        if name == "tensorrt_llm":
            expected["input_map"]["streaming"] = "_STREAM"
        assert {"input_map": dict(step.input_map), "output_map": dict(step.output_map)} == expected


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_parameter_of_nvidias_can_be_set_or_is_refused_with_the_reason(generation: str) -> None:
    theirs = {name for model in contract(generation).values() for name in model["parameters"]}
    settable = {p.name for p in PARAMETERS if p.known_in(generation)}  # type: ignore[arg-type]
    assert theirs <= settable | set(SET_ELSEWHERE)
    assert not settable & set(SET_ELSEWHERE)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_no_parameter_is_offered_that_a_generation_does_not_have(generation: str) -> None:
    theirs = {name for model in contract(generation).values() for name in model["parameters"]}
    engine = {p.name for p in PARAMETERS if p.known_in(generation) and p.target == "engine"}  # type: ignore[arg-type]
    # Read by the backend (model_instance_state.cc), though no template has it.
    assert engine - theirs <= {"recv_poll_period_ms"}
