"""serving.adapters: what is refused, what the LLM API is told, and what lies in the release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginepress.engines import fit, get_builder
from enginepress.errors import RecipeError
from enginepress.recipe import Recipe
from enginepress.repository.plans import llmapi
from enginepress.repository.plans.adapters import check_adapters
from enginepress.repository.validate import validate
from tests.engines.test_checkpoint_builders import CONFIG, recipe
from tests.serving.test_checkpoints_served import make, placed

MODULES = {"lora_config": {"lora_target_modules": ["attn_q", "attn_v"]}}


@pytest.mark.parametrize(
    ("named", "given", "where", "said"),
    [
        ({"legal": "org/adapter"}, {}, "serving.adapters.legal", "no absolute path"),
        ({"": "/a"}, {}, "serving.adapters", "no name of an adapter"),
        ({"ein Name": "/a"}, {}, "serving.adapters", "no name of an adapter"),
        ({"a" * 129: "/a"}, {}, "serving.adapters", "no name of an adapter"),
        ({"a": "/a", "b": "/b"}, {}, "serving.adapters", "nothing says which matrices 2 adapters change"),
        ({"a": "/a"}, {"lora_config": {"lora_dir": ["/a", "/b"]}}, "serving.adapters", "nothing says which matrices 2 adapters"),
        ({"a": "/a"}, {"enable_lora": False}, "serving.engine_args.enable_lora", "is false"),
        ({}, {"enable_lora": True}, "serving.engine_args.enable_lora", "names no adapter that a request could ask for"),
        ({}, {"lora_config": {"max_lora_rank": 8}}, "serving.engine_args.lora_config", "names no adapter"),
        ({}, {"peft_cache_config": {"host_cache_size": 1}}, "serving.engine_args.peft_cache_config", "names no adapter"),
    ],
)
def test_adapters_that_could_not_be_served_are_refused(
    named: dict[str, str], given: dict[str, Any], where: str, said: str
) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        check_adapters(named, given)
    assert (caught.value.where, bool(caught.value.fix)) == (where, True)
    with pytest.raises(RecipeError, match=said):
        get_builder("llmapi").check(CONFIG, recipe("llmapi", adapters=named, engine_args=given))


@pytest.mark.parametrize("builder", ["vllm", "tensorrt_llm", "onnxruntime"])
def test_builders_that_take_no_adapter_by_name_refuse_them(builder: str) -> None:
    gpu = {"gpu": None} if builder == "onnxruntime" else {}
    with pytest.raises(RecipeError, match="'adapters'") as caught:
        get_builder(builder).check(CONFIG, recipe(builder, engine={"precision": "float32", **gpu}, adapters={"a": "/a"}))
    assert caught.value.where == "serving.adapters"


@pytest.mark.parametrize(
    ("named", "given", "config"),
    [
        ({"a": "/a"}, {}, {"lora_dir": ["/a"]}),
        ({"a": "/a"}, {"lora_config": {"max_lora_rank": 8}}, {"max_lora_rank": 8, "lora_dir": ["/a"]}),
        ({"a": "/a", "b": "/b"}, MODULES, MODULES["lora_config"]),
        ({"a": "/a", "b": "/b"}, {"lora_config": {"lora_dir": ["/b"]}}, {"lora_dir": ["/b"]}),
    ],
)
def test_the_llm_api_is_told_which_matrices_adapters_change(
    named: dict[str, str], given: dict[str, Any], config: dict[str, Any]
) -> None:
    wanted = recipe("llmapi", adapters=named, engine_args=given)
    get_builder("llmapi").check(CONFIG, wanted)
    (model,) = llmapi.plan(wanted)
    assert yaml.safe_load(model.texts["model.yaml"])["lora_config"] == config
    assert json.loads(model.texts["multi_lora.json"]) == named


def test_a_release_without_adapters_has_no_list_of_them() -> None:
    (model,) = llmapi.plan(recipe("llmapi"))
    assert set(model.texts) == {"model.yaml"}
    assert "lora_config" not in yaml.safe_load(model.texts["model.yaml"])


def test_adapters_change_what_is_built_and_their_cache_is_planned() -> None:
    without, wanted = recipe("llmapi"), recipe("llmapi", adapters={"a": "/a"})
    assert without.build_fields() != wanted.build_fields()
    found = fit.plan(CONFIG, None, wanted, *fit.gpu_and_container(wanted))
    assert found.adapters is not None
    assert any("LoRA adapters of rank 64" in note and "takes none" not in note for note in found.notes)


def serving(folder: Path) -> Path:
    base = {"name": "tiny", "source": "file:///checkpoint", "engine": {"builder": "llmapi", "precision": "bfloat16"}}
    wanted = Recipe.model_validate({**base, "serving": {"adapters": {"a": str(folder)}}, "stores": ["file:///store"]})
    folder.mkdir()
    return placed(make(folder.parent, wanted))


@pytest.mark.parametrize(
    ("text", "severity", "said"),
    [
        ("[]", "error", "is not a readable mapping"),
        ('{"a": "org/adapter"}', "error", "'org/adapter' is no absolute path"),
        ('{"a": 3}', "error", "3 is no absolute path"),
        ('{"a": "/nowhere/at/all"}', "warning", "/nowhere/at/all is not there on this machine"),
    ],
)
def test_a_list_of_adapters_that_cannot_be_is_found(tmp_path: Path, text: str, severity: str, said: str) -> None:
    repository = serving(tmp_path / "adapter")
    file = repository / "tiny" / "1" / "multi_lora.json"
    file.unlink()
    file.write_text(text)
    (finding,) = validate(repository).findings
    assert (finding.severity, finding.file) == (severity, "tiny/1/multi_lora.json")
    assert said in finding.message


def test_adapters_that_the_engine_is_not_told_of_are_found(tmp_path: Path) -> None:
    repository = serving(tmp_path / "adapter")
    file = repository / "tiny" / "1" / "model.yaml"
    values = yaml.safe_load(file.read_text())
    del values["lora_config"]
    file.write_text(yaml.safe_dump(values))
    (finding,) = validate(repository).findings
    assert "model.yaml has no lora_config" in finding.message
