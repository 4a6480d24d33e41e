"""In which release an argument of serving.engine_args is: what is refused, with both sides and a way on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from enginepress.engines import get_builder
from enginepress.engines.versions import load_matrix
from enginepress.errors import RecipeError
from enginepress.repository.plans import engine_args_releases
from enginepress.repository.plans.engine_args import load_arguments
from enginepress.repository.plans.engine_args_releases import Span, check_release, load_spans
from tests.engines.test_checkpoint_builders import CONFIG, recipe

Builder = Literal["llmapi", "vllm"]
KINDS: dict[Builder, str] = {"llmapi": "trtllm", "vllm": "vllm"}
BOTH = pytest.mark.parametrize("builder", ["llmapi", "vllm"])


def checked(builder: Builder, tag: str, given: dict[str, Any]) -> RecipeError | None:
    try:
        check_release(given, builder, load_matrix().container(tag, KINDS[builder]))
    except RecipeError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("builder", "tag", "given", "where", "said", "fix"),
    [
        (
            "llmapi",
            "25.10",
            {"sampler_type": "TorchSampler"},
            "sampler_type",
            "TensorRT-LLM 1.0.0 (Triton 25.10) does not know 'sampler_type' yet: 1.1.0 is the first",
            "leave it out, or set engine.container: 25.12 or a later one",
        ),
        (
            "llmapi",
            "26.07",
            {"use_torch_sampler": True},
            "use_torch_sampler",
            "TensorRT-LLM 1.2.1 (Triton 26.07) no longer knows 'use_torch_sampler': it is gone since 1.1.0; 1.0.0 is the last",
            "set sampler_type: TorchSampler instead, leave it out, or set engine.container: 25.10 or an earlier one",
        ),
        (
            "vllm",
            "25.08",
            {"async_scheduling": True},
            "async_scheduling",
            "vLLM 0.9.2 (Triton 25.08) does not know 'async_scheduling' yet: 0.10.1.1 is the first with it of those",
            "leave it out, or set engine.container: 25.09 or a later one",
        ),
        (
            "vllm",
            "25.03",
            {"speculative_config": {}},
            "speculative_config",
            "does not know",
            "engine.container: 25.05 or a later one",
        ),
        (
            "vllm",
            "26.08",
            {"swap_space": 4},
            "swap_space",
            "vLLM 0.27.1 (Triton 26.08) no longer knows 'swap_space': it is gone since 0.19.0; 0.17.1 is the last with it",
            "leave it out, or set engine.container: 26.03 or an earlier one",
        ),
        (
            "vllm",
            "25.12",
            {"disable_log_requests": True},
            "disable_log_requests",
            "no longer knows",
            "set enable_log_requests, which says the opposite, instead, leave it out, or set engine.container: 25.08 or an",
        ),
        (
            "vllm",
            "26.05",
            {"compilation_config": {"level": 3}},
            "compilation_config.level",
            "no longer knows 'compilation_config.level'",
            "26.03 or an earlier one",
        ),
        (
            "vllm",
            "25.08",
            {"compilation_config": {"pass_config": {"enable_fi_allreduce_fusion": True}}},
            "compilation_config.pass_config.enable_fi_allreduce_fusion",
            "does not know",
            "25.09 or a later one",
        ),
        (
            "vllm",
            "25.08",
            {"enable_log_requests": True},
            "enable_log_requests",
            "does not know",
            "the nearest that vLLM 0.9.2 has: 'disable_log_requests'",
        ),
        ("llmapi", "26.02", {"sparse_attention_config": {"algorithm": "dsa"}}, "sparse_attention_config", "not know", "26.03"),
    ],
)
def test_an_argument_of_another_release_is_refused_with_both_and_a_way_on(
    builder: Builder, tag: str, given: dict[str, Any], where: str, said: str, fix: str
) -> None:
    error = checked(builder, tag, given)
    assert error is not None
    assert error.where == f"serving.engine_args.{where}"
    assert said in error.message
    assert fix in (error.fix or "")


def test_the_builders_ask_before_anything_is_downloaded() -> None:
    asked = recipe("llmapi", engine={"container": "25.09"}, engine_args={"sampler_type": "auto"})
    with pytest.raises(RecipeError, match="does not know 'sampler_type' yet"):
        get_builder("llmapi").check(CONFIG, asked)


def test_a_release_that_nobody_read_has_the_last_word_itself() -> None:
    assert checked("llmapi", "25.11", {"sampler_type": "auto", "use_torch_sampler": True}) is None, "1.0.3.2510 lies between"
    assert checked("vllm", "26.02", {"kernel_config": {}, "logits_processor_pattern": "x"}) is None, "so does 0.15.1"


def test_every_release_of_a_container_was_read_or_is_said_not_to_be() -> None:
    text = Path(engine_args_releases.__file__).with_suffix(".yaml").read_text()
    read = yaml.safe_load(text)["vllm"]["sources"]["read"]
    held = {str(row.vllm) for row in load_matrix().of_kind("vllm") if "vllm" in row.builders}
    missing = held - {str(version) for version in read}
    assert missing == {"0.9.0rc1", "0.15.1"}
    assert all(version in text.partition("read: [")[0] for version in missing)


def test_a_name_of_which_only_the_end_is_known_is_taken_before_it() -> None:
    assert checked("llmapi", "25.10", {"enable_trtllm_sampler": True}) is None
    error = checked("llmapi", "25.12", {"enable_trtllm_sampler": True})
    assert error is not None
    assert error.message.endswith("it is gone since 1.1.0")
    assert "engine.container" not in (error.fix or "")


@pytest.mark.parametrize(
    ("span", "release", "why"),
    [
        (Span("0.9.2", "0.10.2"), "0.9.2", "not yet"),
        (Span("0.9.2", "0.10.2"), "0.9.0rc1", "not yet"),
        (Span("0.9.2", "0.10.2"), "0.10.1.1", None),
        (Span("0.9.2", "0.10.2"), "0.10.2", None),
        (Span(None, None, "0.9.2", "0.10.2"), "0.9.2", None),
        (Span(None, None, "0.9.2", "0.10.2"), "0.10.1.1", None),
        (Span(None, None, "0.9.2", "0.10.2"), "0.10.2", "no longer"),
        (Span(None, None, "0.9.2", "0.10.2"), "0.27.1", "no longer"),
        (Span(), "0.1", None),
    ],
)
def test_only_what_was_read_refuses(span: Span, release: str, why: str | None) -> None:
    assert span.refuses(release) == why


@BOTH
def test_every_name_with_a_release_is_a_known_one(builder: Builder) -> None:
    arguments, spans = load_arguments(builder), load_spans(builder)
    instead = {re.split("[:,]", span.instead)[0]: name for name, span in spans.items() if span.instead is not None}
    for name in (*spans, *instead):
        path, _, last = name.rpartition(".")
        assert last in ((arguments.names_in(path, {}) or []) if path else arguments.known), name
    for name, gone in instead.items():
        last = spans[gone].after
        assert last is not None
        assert name not in spans or spans[name].refuses(last) is None, f"{name} takes no place in {last}"


@BOTH
def test_the_newest_container_is_offered_what_it_has(builder: Builder) -> None:
    """A fix never names a container that refuses the argument as well."""
    rows = [row for row in load_matrix().of_kind(KINDS[builder]) if builder in row.builders]
    for name in load_spans(builder):
        given: dict[str, Any] = {}
        inner = given
        for part in name.split(".")[:-1]:
            inner = inner.setdefault(part, {})
        inner[name.rpartition(".")[2]] = 1
        for row in rows:
            error = checked(builder, row.tag, given)
            if error is not None and "engine.container: " in (error.fix or ""):
                tag = (error.fix or "").partition("engine.container: ")[2][:5]
                other = checked(builder, tag, given)
                assert other is None or other.where != error.where, (name, row.tag, tag)
