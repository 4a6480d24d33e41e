"""The contracts: every fact has its source, and reads as a parser that Python itself accepts."""

from __future__ import annotations

import re

import pytest

from enginepress.engines.tensorrt_llm import contracts
from enginepress.engines.tensorrt_llm.architectures import FAMILIES
from enginepress.engines.tensorrt_llm.flags import parse_help
from enginepress.errors import RecipeError
from tests.engines.stand_ins.parser import make_parser

TOOLS = contracts.names()


@pytest.mark.parametrize("tool", TOOLS)
def test_every_reading_names_repository_commit_and_path(tool: str) -> None:
    data = contracts.read_file(tool)
    assert data["tool"] == tool
    for reading in data["readings"].values():
        assert reading["version"]
        assert reading["sources"]
        for source in reading["sources"]:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", source["repository"])
            assert re.fullmatch(r"[0-9a-f]{40}", source["commit"])
            assert source["path"].endswith(".py")


@pytest.mark.parametrize("tool", TOOLS)
def test_a_release_that_was_not_read_says_so(tool: str) -> None:
    data = contracts.read_file(tool)
    for release, readings in data["releases"].items():
        if len(readings) > 1:
            assert any(data["readings"][name].get("unread") for name in readings), release


def test_each_family_has_a_contract_for_each_release_with_engines() -> None:
    for family in FAMILIES.values():
        assert contracts.releases(family.contract) == ["0.18", "0.19", "0.20", "0.21", "1.0", "1.1", "1.2"]


@pytest.mark.parametrize("tool", TOOLS)
def test_what_is_taken_to_be_there_is_in_every_reading(tool: str) -> None:
    data = contracts.read_file(tool)
    for release, readings in data["releases"].items():
        for flag in contracts.load(tool, f"{release}.0").flags:
            for name in readings:
                known = {n for n, f in data["readings"][name]["flags"].items() for n in (n, *f.get("aliases", ()))}
                assert set(flag.names) <= known, (release, name)


@pytest.mark.parametrize(
    ("tool", "release", "flag", "there"),
    [
        ("convert-gemma", "1.2", "--tp_size", False),
        ("convert-gemma", "0.18", "--model_dir", False),
        ("convert-gemma", "1.2", "--model_dir", True),
        ("convert-phi", "1.2", "--log_level", False),
        ("convert-qwen", "0.20", "--cp_size", False),
        ("convert-qwen", "1.0", "--cp_size", True),
        ("convert-llama", "1.2", "--use_nvfp4", True),
        ("convert-deepseek_v2", "1.2", "--use_weight_only", False),
        ("trtllm-build", "1.2", "--auto_parallel", False),
        ("trtllm-build", "0.18", "--dora_plugin", False),
        ("trtllm-build", "1.2", "--dora_plugin", True),
    ],
)
def test_families_and_releases_differ(tool: str, release: str, flag: str, there: bool) -> None:
    assert (contracts.load(tool, f"{release}.0").find(flag) is not None) is there


def test_choices_of_an_unread_release_are_those_that_all_readings_have() -> None:
    assert contracts.load("trtllm-build", "0.20.0").takes("--gemm_plugin", "fp8")
    assert not contracts.load("trtllm-build", "0.20.0").takes("--gemm_plugin", "nvfp4")
    assert contracts.load("trtllm-build", "1.1.0").takes("--gemm_plugin", "nvfp4")


def test_defaults_that_moved_are_known() -> None:
    readings = contracts.read_file("trtllm-build")["readings"]
    assert readings["v0_16"]["flags"]["--tokens_per_block"]["default"] == 64
    assert readings["v1"]["flags"]["--tokens_per_block"]["default"] == 32
    assert readings["v0_16"]["flags"]["--use_paged_context_fmha"]["default"] == "disable"
    assert readings["v1"]["flags"]["--use_paged_context_fmha"]["default"] == "enable"
    assert contracts.load("trtllm-build", "0.20.0").find("--tokens_per_block").default is None  # type: ignore[union-attr]


def test_a_release_of_which_nothing_is_known_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"nothing is known of trtllm-build in TensorRT-LLM 1\.3\.0"):
        contracts.load("trtllm-build", "1.3.0rc20")


@pytest.mark.parametrize("tool", TOOLS)
def test_what_argparse_prints_for_help_is_read_back(tool: str) -> None:
    data = contracts.read_file(tool)
    for name, reading in data["readings"].items():
        text = "[TensorRT-LLM] TensorRT-LLM version: 1.2.1\n" + make_parser(tool, name).format_help()
        known = parse_help(text, tool=tool, version="1")
        for flag, facts in reading["flags"].items():
            found = known.find(flag)
            assert found is not None, flag
            assert set(found.names) == {flag, *facts.get("aliases", ())}
            assert (found.kind == "flag") == (facts["type"] == "flag")
            if facts.get("nargs") in ("?", "+"):
                assert found.nargs == facts["nargs"]
            if "choices" in facts and facts.get("choices_in_help", True):
                assert found.choices == tuple(str(choice) for choice in facts["choices"])
        assert len(known.flags) == len(reading["flags"])
