"""The plan of a recipe: what is read for it, from a folder and from a hub, and what the builder adds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enginepress import engines
from enginepress.engines.architecture import read_shape
from enginepress.engines.fit import FitPlan, check_parallelism
from enginepress.engines.fit.cpu_plan import CpuPlan, cpu_plan
from enginepress.errors import RecipeError, SourceError, UnsupportedModelError, UsageError
from enginepress.recipe import Recipe
from enginepress.steps import plan as step
from tests.engines.checkpoints import make_checkpoint
from tests.fit.models import config, recipe
from tests.sources.conftest import hub as hub
from tests.sources.hub_server import HubServer

GB = 10**9


class StandInBuilder:
    """Stands in for a GPU builder where the plan asks it: `refuses` is its verdict on the model."""

    def __init__(self, refuses: Exception | None = None) -> None:
        self.refuses = refuses

    def check(self, config: Mapping[str, Any], recipe: Recipe) -> None:
        if self.refuses is not None:
            raise self.refuses

    def commands(self, config: Mapping[str, Any], recipe: Recipe) -> list[list[str]]:
        return [["python3", "convert_checkpoint.py", "--model_dir", "a b"], ["trtllm-build"]]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandInBuilder:
    builder = StandInBuilder()
    import sys

    module = SimpleNamespace(builder=lambda: builder)
    monkeypatch.setitem(sys.modules, "stand_in_gpu_builder", module)  # type: ignore[arg-type]
    for name in ("tensorrt_llm", "llmapi", "vllm"):
        monkeypatch.setitem(engines._BUILDERS, name, "stand_in_gpu_builder")
    return builder


def checkpoint(folder: Path, model: str = "llama-3-8b", gigabytes: float = 16.06, shards: int = 4) -> Path:
    """A checkpoint with the config and the sizes of a real one, and not one weight in it: the files are holes."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"model-{i:05}-of-{shards:05}.safetensors" for i in range(1, shards + 1)]
    for name in names:
        (folder / name).touch()
        os.truncate(folder / name, int(gigabytes * GB / shards))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {f"t{i}": n for i, n in enumerate(names)}}))
    (folder / "config.json").write_text(json.dumps(config(model)))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def of_folder(folder: Path, **fields: Any) -> Recipe:
    made = recipe(**fields)
    return made.model_copy(update={"source": made.source.model_copy(update={"uri": f"file://{folder}"})})


def test_a_folder_is_planned_by_its_config_and_sizes_and_no_weight_is_read(tmp_path: Path, stand_in: StandInBuilder) -> None:
    folder = checkpoint(tmp_path / "checkpoint")  # holes: hashing 16 GB would take this test's whole time
    report = step.plan_recipe(of_folder(folder))
    assert isinstance(report.plan, FitPlan)
    assert report.plan.fits
    assert report.plan.weights.checkpoint == pytest.approx(16.06 * GB, rel=1e-6)
    assert report.plan.request_all == 2**30
    assert report.refusal is None
    assert report.commands == ("python3 convert_checkpoint.py --model_dir 'a b'", "trtllm-build")


def test_sizes_of_files_that_say_more_than_the_config_are_believed(tmp_path: Path, stand_in: StandInBuilder) -> None:
    folder = checkpoint(tmp_path / "checkpoint", gigabytes=32)
    report = step.plan_recipe(of_folder(folder))
    assert report.refusal is not None
    assert "weights of 32 GB do not fit" in report.refusal.message


def test_a_hub_is_asked_for_the_commit_and_for_config_json_only(tmp_path: Path, hub: HubServer, stand_in: StandInBuilder) -> None:
    files = {
        "config.json": json.dumps(config("llama-3-8b")).encode(),
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b"{}",
        "model.safetensors": b"weights",
    }
    commit = hub.add_repo("org/model", files)
    made = recipe()
    report = step.plan_recipe(made.model_copy(update={"source": made.source.model_copy(update={"uri": "hf://org/model"})}))
    assert report.seen.revision == commit
    fetched = [request.path for request in hub.requests if "/resolve/" in request.path]
    assert len(fetched) == 1
    assert fetched[0].endswith("config.json")


def test_what_the_builder_has_against_the_model_is_a_reason_too(tmp_path: Path, stand_in: StandInBuilder) -> None:
    stand_in.refuses = UnsupportedModelError("there is no script for it", where="config.json", fix="use llmapi")
    report = step.plan_recipe(of_folder(checkpoint(tmp_path / "checkpoint")))
    assert report.refusal is not None
    assert "there is no script for it" in report.refusal.message
    assert report.refusal.fix == "use llmapi"


def test_what_the_builder_repeats_is_told_once_and_what_it_adds_is_told_beside(tmp_path: Path, stand_in: StandInBuilder) -> None:
    of = of_folder(checkpoint(tmp_path / "checkpoint"), count=3, parallelism={"tensor": 3})
    with pytest.raises(RecipeError) as caught:
        check_parallelism(read_shape(config("llama-3-8b")), of)
    stand_in.refuses = caught.value
    report = step.plan_recipe(of)
    assert isinstance(report.plan, FitPlan)
    assert [p.where for p in report.plan.problems] == ["engine.parallelism.tensor"]
    stand_in.refuses = RecipeError("needs texts", where="engine.calibration", fix="name a file")
    again = step.plan_recipe(of)
    assert isinstance(again.plan, FitPlan)
    assert [p.where for p in again.plan.problems] == ["engine.parallelism.tensor", "engine.calibration"]


def test_another_gpu_takes_the_place_of_the_recipes(tmp_path: Path, stand_in: StandInBuilder) -> None:
    folder = checkpoint(tmp_path / "checkpoint")
    report = step.plan_recipe(of_folder(folder, count=2, parallelism={"tensor": 2}), gpu="nvidia a10g")
    assert isinstance(report.plan, FitPlan)
    assert report.plan.gpu.name == "A10G"
    assert report.plan.world_size == 2
    without = step.plan_recipe(of_folder(folder, gpu=None), gpu="L40S")
    assert isinstance(without.plan, FitPlan)
    assert without.plan.gpu.name == "L40S"


def test_a_gpu_builder_without_a_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        step.plan_recipe(of_folder(checkpoint(tmp_path / "checkpoint"), gpu=None))
    assert caught.value.where == "engine.gpu"


def test_a_driver_that_is_too_old_is_a_reason(tmp_path: Path, stand_in: StandInBuilder) -> None:
    of = of_folder(checkpoint(tmp_path / "checkpoint"))
    assert step.plan_recipe(of, driver="580.95.05").refusal is None
    refusal = step.plan_recipe(of, driver="535.104.05").refusal
    assert refusal is not None
    assert "driver 535.104.05 is too old" in refusal.message
    assert "25.10" in str(refusal.fix)


def test_all_gpus_are_compared_in_the_order_of_their_memory(tmp_path: Path, stand_in: StandInBuilder) -> None:
    rows = step.compare(of_folder(checkpoint(tmp_path / "checkpoint"), gpu=None))
    assert [r.gpu.memory_bytes for r in rows] == sorted(r.gpu.memory_bytes for r in rows)
    fits = {r.gpu.name: r.plan.fits for r in rows}
    assert fits["L4"]
    assert fits["B300-288GB"]
    assert not fits["T4"]
    assert not fits["V100-SXM2-32GB"]
    json.dumps([r.to_json() for r in rows], allow_nan=False)


def test_the_cpu_builder_is_planned_without_a_gpu(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    made = Recipe.model_validate(
        {
            "name": "tiny",
            "source": f"file://{folder}",
            "engine": {"precision": "int8", "limits": {"max_sequence_length": 128}},
            "stores": ["file:///releases"],
        }
    )
    report = step.plan_recipe(made)
    assert isinstance(report.plan, CpuPlan)
    assert report.refusal is None
    assert report.plan.sequence == 128
    assert report.plan.serve_memory > report.plan.engine + report.plan.cache
    assert report.plan.build_memory > report.plan.checkpoint
    json.dumps(report.to_json(), allow_nan=False)
    with pytest.raises(UsageError, match="uses no GPU"):
        step.plan_recipe(made, gpu="L4")
    with pytest.raises(UsageError, match="uses no GPU"):
        step.compare(made)


def test_the_cpu_builders_own_refusals_come_first(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    (folder / "config.json").write_text(json.dumps(config("deepseek-v3")))
    made = Recipe.model_validate({"name": "x", "source": f"file://{folder}", "stores": ["file:///releases"]})
    with pytest.raises(UnsupportedModelError):
        step.plan_recipe(made)


@pytest.mark.parametrize(("precision", "share"), [("float32", 1.0), ("int8", 0.33), ("int4", 0.21)])
def test_a_cpu_engine_shrinks_with_its_precision(precision: str, share: float) -> None:
    of = recipe(None, builder="onnxruntime", precision=precision)
    plan = cpu_plan(config("llama-3-8b"), None, of)
    assert plan.engine / (4 * 8_030_261_248) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(("text", "message"), [("[]", "not a JSON object"), ("{", "not JSON")])
def test_a_config_that_is_none_is_named(tmp_path: Path, text: str, message: str) -> None:
    folder = checkpoint(tmp_path / "checkpoint")
    (folder / "config.json").write_text(text)
    with pytest.raises(SourceError, match=message) as caught:
        step.plan_recipe(of_folder(folder))
    assert str(caught.value.where).endswith("config.json")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        step.plan_recipe(of_folder(tmp_path / "nowhere"))


def test_a_missing_shard_is_found_without_reading_the_others(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint")
    (folder / "model-00002-of-00004.safetensors").unlink()
    with pytest.raises(SourceError, match="00002"):
        step.plan_recipe(of_folder(folder))


@pytest.mark.parametrize("builder", ["tensorrt_llm", "llmapi"])
def test_a_checkpoint_that_says_only_in_modelopts_own_file_that_it_is_quantized_is_seen(tmp_path: Path, builder: str) -> None:
    folder = checkpoint(tmp_path / "m")
    said = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": None}}
    (folder / "hf_quant_config.json").write_text(json.dumps(said))
    refused = step.plan_recipe(of_folder(folder, gpu="H100-SXM5-80GB", builder=builder)).refusal
    assert refused is not None
    assert "NVFP4 needs Blackwell" in str(refused)


def test_a_quantization_that_cannot_be_read_is_refused_naming_its_file(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    (folder / "hf_quant_config.json").write_text("{}")
    with pytest.raises(SourceError, match="no 'quantization'") as caught:
        step.plan_recipe(of_folder(folder))
    assert caught.value.where == f"file://{folder}/hf_quant_config.json"


TEXTS = {"calibration": {"data": "texts.jsonl"}}
EIGHT = {"count": 8, "parallelism": {"tensor": 8}}


def _changes(report: step.PlanReport) -> list[dict[str, Any]]:
    assert isinstance(report.plan, FitPlan)
    return [dict(change.fields) for change in report.plan.changes]


def _tried(folder: Path, of: Recipe, report: step.PlanReport, driver: str | None = None) -> None:
    """Every change that is offered is applied and planned as if the user had written it."""
    assert isinstance(report.plan, FitPlan)
    for change in report.plan.changes:
        applied = change.apply(of)
        assert Recipe.model_validate(applied.model_dump()) == applied
        assert step.plan_recipe(applied, driver=driver).refusal is None, change.text


@pytest.mark.parametrize(
    ("model", "size", "fields"),
    [
        ("llama-3.1-405b", 811.7, {"gpu": "H100-SXM5-80GB", "precision": "fp8", **EIGHT,
                                    "limits": {"max_sequence_length": 8192}}),
        ("llama-3.1-70b", 141, {"gpu": "H100-SXM5-80GB", "precision": "fp8", "limits": {"max_sequence_length": 2048}}),
        ("llama-3.1-70b", 141, {"gpu": "L4", "precision": "int4_awq", "count": 4, "parallelism": {"tensor": 4},
                                "limits": {"max_sequence_length": 4096}}),
    ],
)  # fmt: skip
def test_what_the_gpus_hold_but_cannot_make_is_refused_and_modelopt_is_offered(
    tmp_path: Path, model: str, size: float, fields: dict[str, Any]
) -> None:
    of = of_folder(checkpoint(tmp_path / "checkpoint", model, size), **fields, **TEXTS)
    report = step.plan_recipe(of)
    assert isinstance(report.plan, FitPlan)
    assert [p.where for p in report.plan.problems] == ["engine.converter"]
    assert {"engine.converter": "modelopt"} in _changes(report)
    assert "GiB of host memory" in str(report.refusal and report.refusal.fix)
    by_rows = {"engine.options.convert.use_fp8_rowwise": True, "engine.calibration": None}
    assert (by_rows in _changes(report)) == (of.engine.precision == "fp8")
    _tried(tmp_path, of, report)


def test_llama_405b_in_16_bit_is_offered_fp8_that_can_be_made_and_two_nodes(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint", "llama-3.1-405b", 811.7)
    of = of_folder(folder, gpu="H100-SXM5-80GB", precision="bfloat16", **EIGHT)
    report = step.plan_recipe(of)
    fp8 = next(c for c in _changes(report) if c.get("engine.precision") == "fp8")
    assert fp8["engine.converter"] == "modelopt"
    assert "engine.calibration" in fp8
    assert any(c.get("engine.gpu.nodes") == 2 for c in _changes(report))
    _tried(tmp_path, of, report)
    json.dumps(report.to_json(), allow_nan=False)


def test_rounding_needs_no_gpu_memory_to_convert(tmp_path: Path) -> None:
    of = of_folder(checkpoint(tmp_path / "checkpoint", "llama-3.1-70b", 141), gpu="H200-SXM5-141GB", precision="int8",
                   limits={"max_sequence_length": 4096})  # fmt: skip
    assert step.plan_recipe(of).refusal is None


@pytest.mark.parametrize(
    ("model", "size", "fields", "driver"),
    [
        ("llama-3-8b", 16.06, {"gpu": "A100-SXM4-40GB", "precision": "fp8"}, None),
        ("llama-3-8b", 16.06, {"gpu": "B200-180GB", "precision": "bfloat16", "container": "25.03"}, None),
        ("llama-3-8b", 16.06, {"gpu": "L4", "parallelism": {"tensor": 2}}, None),
        ("llama-3-8b", 16.06, {"gpu": "H100-SXM5-80GB", "precision": "fp8"}, None),
        ("llama-3-8b", 16.06, {"gpu": "L40S", "precision": "float16"}, "535.104.05"),
        ("llama-3.1-70b", 141, {"gpu": "L40S", "precision": "bfloat16", "builder": "llmapi", **TEXTS}, None),
        ("llama-3.1-70b", 141, {"gpu": "L40S", "precision": "fp8", **TEXTS}, None),
    ],
)
def test_each_change_that_is_offered_has_the_builders_and_the_drivers_leave(
    tmp_path: Path, model: str, size: float, fields: dict[str, Any], driver: str | None
) -> None:
    of = of_folder(checkpoint(tmp_path / "checkpoint", model, size), **fields)
    report = step.plan_recipe(of, driver=driver)
    assert report.refusal is not None
    _tried(tmp_path, of, report, driver)


def test_a_model_that_the_builder_never_takes_is_offered_no_other_gpu(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint", "deepseek-v3", 688)
    report = step.plan_recipe(of_folder(folder, gpu="H200-SXM5-141GB", precision="fp8", **EIGHT))
    assert report.refusal is not None
    assert _changes(report) == []
    assert "llmapi" in str(report.refusal.fix)


def test_a_newer_container_is_offered_for_a_gpu_that_the_named_one_does_not_know(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint")
    report = step.plan_recipe(of_folder(folder, gpu="B200-180GB", precision="bfloat16", container="25.03"))
    assert _changes(report)[0] == {"engine.container": "26.07"}


def test_an_older_container_is_offered_for_an_older_driver(tmp_path: Path) -> None:
    report = step.plan_recipe(of_folder(checkpoint(tmp_path / "checkpoint"), gpu="L40S"), driver="535.104.05")
    assert {"engine.container": "25.10"} in _changes(report)


def test_a_driver_must_know_the_gpu_too(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint")
    of = of_folder(folder, gpu="B200-180GB", precision="bfloat16", container="25.10", builder="llmapi")
    refusal = step.plan_recipe(of, driver="525.60.13").refusal
    assert refusal is not None
    assert "driver 525.60.13 is too old for B200-180GB" in refusal.message
    assert step.plan_recipe(of, driver="570.133.20").refusal is None


def test_a_comparison_asks_the_builder_and_the_driver_of_each_gpu(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint")
    assert not any(r.plan.fits for r in step.compare(of_folder(folder), driver="470.57"))
    deepseek = of_folder(checkpoint(tmp_path / "deepseek", "deepseek-v3", 688), gpu="B300-288GB", precision="fp8", **EIGHT)
    assert not any(r.plan.fits for r in step.compare(deepseek))


def test_too_few_gpus_are_one_problem(tmp_path: Path) -> None:
    report = step.plan_recipe(of_folder(checkpoint(tmp_path / "checkpoint"), parallelism={"tensor": 2}))
    assert isinstance(report.plan, FitPlan)
    assert [p.where for p in report.plan.problems] == ["engine.gpu.count"]


def test_a_share_of_memory_that_is_too_small_is_offered_the_usual_one(tmp_path: Path) -> None:
    small = {"engine_args": {"gpu_memory_utilization": 0.1}}
    report = step.plan_recipe(of_folder(checkpoint(tmp_path / "checkpoint"), builder="vllm", serving=small))
    assert _changes(report)[0] == {"serving.engine_args.gpu_memory_utilization": 0.9}


def test_a_smaller_cache_of_16_bit_weights_is_asked_of_the_llm_api(tmp_path: Path) -> None:
    """ModelOpt has nothing to quantize then, so engine.kv_cache is no way."""
    limits = {"max_batch_size": 1, "max_sequence_length": 65536}
    of = of_folder(
        checkpoint(tmp_path / "checkpoint", "llama-3.1-8b"), builder="llmapi", precision="bfloat16", gpu="L4", limits=limits
    )
    offered = _changes(step.plan_recipe(of))
    assert {"serving.engine_args.kv_cache_config": {"dtype": "fp8"}} in offered
    assert not any("engine.kv_cache" in change for change in offered)


def _drafting(folder: Path, draft: Path) -> Recipe:
    speculation = {"model": str(draft), "num_speculative_tokens": 3}
    serving = {"engine_args": {"speculative_config": speculation}}
    return of_folder(folder, builder="vllm", precision="bfloat16", gpu="H100-SXM5-80GB", serving=serving)


def test_a_draft_model_whose_folder_is_here_is_planned_by_its_config_and_sizes(tmp_path: Path) -> None:
    draft = checkpoint(tmp_path / "draft", "qwen2.5-7b", gigabytes=15.2)
    report = step.plan_recipe(_drafting(checkpoint(tmp_path / "checkpoint"), draft))
    assert isinstance(report.plan, FitPlan)
    assert report.plan.draft_weights == pytest.approx(15.2 * GB, rel=1e-6)
    assert report.refusal is None
    assert report.to_json()["rank"]["draft_weights"] == report.plan.draft_weights
    rows = step.compare(_drafting(tmp_path / "checkpoint", draft))
    assert all(row.plan.draft_weights == report.plan.draft_weights for row in rows)


@pytest.mark.parametrize(
    ("content", "said"), [(None, "has no config.json on this machine"), ("{", "config.json"), ("{}", "num_hid")]
)
def test_a_draft_model_that_cannot_be_read_is_said_to_be_missing_and_why(tmp_path: Path, content: str | None, said: str) -> None:
    draft = tmp_path / "draft"
    draft.mkdir()
    if content is not None:
        (draft / "config.json").write_text(content)
    report = step.plan_recipe(_drafting(checkpoint(tmp_path / "checkpoint"), draft))
    assert isinstance(report.plan, FitPlan)
    (note,) = [note for note in report.plan.notes if "draft model" in note]
    assert "neither its weights nor its KV cache" in note
    assert said in note
    assert (report.plan.draft_weights, report.refusal) == (0, None)
