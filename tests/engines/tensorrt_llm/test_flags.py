"""Help texts are read, and command lines held against what a tool takes."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.engines.tensorrt_llm.flags import Contract, Flag, check_arguments, parse_help

PYTHON_3_12 = """
usage: trtllm-build [-h] [--checkpoint_dir CHECKPOINT_DIR]

options:
  -h, --help            show this help message and exit
  --checkpoint_dir CHECKPOINT_DIR
                        The directory --with dashes (default: None)
  --max_seq_len MAX_SEQ_LEN, --max_decoder_seq_len MAX_SEQ_LEN
                        Maximum total length
  --gemm_plugin {auto,fp8,disable}
                        The GEMM plugin
  --strip_plan          Enable stripping
  --smoothquant SMOOTHQUANT, -sq SMOOTHQUANT
  --precision [{int8,int4}]
  --lora_dir LORA_DIR [LORA_DIR ...]
  --ckpt-type {CheckpointType.jax,CheckpointType.hf}
"""

PYTHON_3_13 = """
options:
  --max_seq_len, --max_decoder_seq_len MAX_SEQ_LEN
                        text
  -kv, --int8_kv_cache  text
"""


def _help() -> Contract:
    return parse_help(PYTHON_3_12, tool="trtllm-build", version="1.2.1")


def test_names_choices_and_values_are_read_from_a_help_text() -> None:
    flags = {flag.name: flag for flag in _help().flags}
    assert list(flags) == [
        "--checkpoint_dir",
        "--max_seq_len",
        "--gemm_plugin",
        "--strip_plan",
        "--smoothquant",
        "--precision",
        "--lora_dir",
        "--ckpt-type",
    ]
    assert flags["--max_seq_len"].names == ("--max_seq_len", "--max_decoder_seq_len")
    assert flags["--gemm_plugin"].choices == ("auto", "fp8", "disable")
    assert flags["--strip_plan"].kind == "flag"
    assert flags["--smoothquant"].names == ("--smoothquant", "-sq")
    assert (flags["--precision"].choices, flags["--precision"].nargs) == (("int8", "int4"), "?")
    assert flags["--lora_dir"].nargs == "+"
    assert flags["--ckpt-type"].choices == ("jax", "hf")


def test_the_shorter_form_of_newer_pythons_is_read_too() -> None:
    known = parse_help(PYTHON_3_13, tool="t", version="1")
    assert known.find("--max_decoder_seq_len") is known.find("--max_seq_len")
    assert known.find("--int8_kv_cache") == Flag(("--int8_kv_cache", "-kv"), kind="flag")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--checkpoint", "x"], "it has no --checkpoint; near is --checkpoint_dir"),
        (["--gemm_plugin", "nvfp4"], "--gemm_plugin: 'nvfp4' is none of auto, fp8, disable; did you mean 'fp8'?"),
        (["--strip_plan", "yes"], "--strip_plan takes no value, not 'yes'"),
        (["--max_seq_len"], "--max_seq_len needs a value"),
        (["--max_seq_len", "1", "2"], "--max_seq_len takes one value, not 2"),
    ],
)
def test_what_a_tool_does_not_take_is_named(arguments: list[str], problem: str) -> None:
    assert check_arguments(arguments, _help()) == [problem]


def test_negative_numbers_are_values() -> None:
    contract = Contract("t", "1", (Flag(("--moe_tp_size",), kind="int"),))
    assert check_arguments(["--moe_tp_size", "-1"], contract) == []
    assert check_arguments(["--moe_tp_size", "one"], contract) == ["--moe_tp_size: 'one' is no whole number"]


def test_what_is_required_and_missing_is_named() -> None:
    contract = Contract("t", "1", (Flag(("--model-dir", "--model_dir"), required=True),))
    assert check_arguments([], contract) == ["--model-dir is missing"]
    assert check_arguments(["--model_dir", "x"], contract) == []


_NAME = st.from_regex(r"--[a-z][a-z0-9_-]{1,20}", fullmatch=True).filter(lambda n: n not in ("--help", "--h"))


@given(
    st.lists(
        st.tuples(
            _NAME,
            st.sampled_from(["flag", "value", "choices", "optional", "several"]),
            st.text(alphabet="abc %d{}[](),.:-ü'\n", max_size=60),
        ),
        unique_by=lambda flag: flag[0],
        max_size=12,
    ),
    st.integers(40, 300),
)
def test_any_help_of_argparse_is_read(flags: list[tuple[str, str, str]], width: int) -> None:
    parser = argparse.ArgumentParser(
        prog="t", allow_abbrev=False, formatter_class=lambda prog: argparse.HelpFormatter(prog, width=width)
    )
    for name, kind, text in flags:
        more: dict[str, object] = {"help": text.replace("%", "%%")}
        if kind == "flag":
            more["action"] = "store_true"
        elif kind == "choices":
            more["choices"] = ["one", "two", "3"]
        elif kind in ("optional", "several"):
            more["nargs"] = "?" if kind == "optional" else "+"
        parser.add_argument(name, **more)  # type: ignore[arg-type]
    known = parse_help(parser.format_help(), tool="t", version="1")
    for name, kind, _ in flags:
        found = known.find(name)
        assert found is not None
        assert (found.kind == "flag") == (kind == "flag")
        assert found.choices == (("one", "two", "3") if kind == "choices" else None)
        assert found.nargs == {"optional": "?", "several": "+"}.get(kind)
