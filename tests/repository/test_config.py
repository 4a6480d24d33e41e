"""config.pbtxt: what is read, what is refused and how the message helps, what is set."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginepress.errors import RepositoryError
from enginepress.repository.config import MAX_BYTES, fill, find_placeholders, parse_config, print_config
from enginepress.repository.values import ConfigValues, InstanceGroup
from tests.repository import samples

GOOD = samples.python_config("first")


def test_an_unknown_field_is_refused_with_its_line_and_the_nearest_known_field() -> None:
    with pytest.raises(RepositoryError) as caught:
        parse_config(GOOD + "max_batchsize: 3\n", "m/config.pbtxt")
    line = GOOD.count("\n") + 1
    assert f"line {line}: ModelConfig has no field 'max_batchsize'" in str(caught.value)
    assert caught.value.where == "m/config.pbtxt"
    assert caught.value.fix == "did you mean 'max_batch_size'?"


def test_an_unknown_field_of_a_nested_message_is_compared_with_the_fields_of_that_message() -> None:
    with pytest.raises(RepositoryError) as caught:
        parse_config('input { name: "x" datatype: TYPE_FP32 }', "c")
    assert "ModelInput has no field 'datatype'" in caught.value.message
    assert caught.value.fix == "did you mean 'data_type'?"


def test_an_unknown_data_type_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(RepositoryError) as caught:
        parse_config('input { name: "x" data_type: TYPE_FLOAT32 dims: 1 }', "c")
    assert "DataType has no value 'TYPE_FLOAT32'" in caught.value.message
    assert caught.value.fix is not None
    assert "TYPE_" in caught.value.fix


@pytest.mark.parametrize(
    "text",
    [
        "max_batch_size: many",
        "name: 3",
        "input {",
        'input [ { name: "x" }',
        "}",
        "input: 3",
        "max_batch_size: 99999999999",
        "{{{{",
    ],
)
def test_text_that_is_no_config_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(RepositoryError, match=r"line 1|1:1|configuration"):
        parse_config(text, "c")


@pytest.mark.parametrize(
    ("text", "line", "placeholder"),
    [
        ('backend: "${triton_backend}"', 1, "${triton_backend}"),
        ("max_batch_size: ${triton_max_batch_size}", 1, "${triton_max_batch_size}"),
        ('name: "m"\nparameters { key: "k" value { string_value: "a${b}c" } }', 2, "${b}"),
        ("name: 'm'\nbackend: '${x}'", 2, "${x}"),
    ],
)
def test_a_placeholder_that_nobody_filled_is_refused_with_its_line(text: str, line: int, placeholder: str) -> None:
    with pytest.raises(RepositoryError) as caught:
        parse_config(text, "c")
    assert f"line {line}: the placeholder {placeholder} was never filled" in caught.value.message


def test_a_placeholder_hidden_behind_escapes_is_refused() -> None:
    with pytest.raises(RepositoryError, match="placeholder"):
        parse_config(r'name: "\x24{hidden}"', "c")


def test_a_placeholder_in_a_comment_is_no_placeholder() -> None:
    config = parse_config('# fill ${name} with fill_template.py\nname: "m" # or ${this}\n', "c")
    assert config.name == "m"
    assert list(find_placeholders('name: "a # ${b}"')) == [(1, "${b}")]


def test_a_config_of_ten_megabytes_is_refused_at_once() -> None:
    with pytest.raises(RepositoryError, match=f"larger than {MAX_BYTES} bytes"):
        parse_config("#" * 10_000_000, "c")


def test_bytes_that_are_not_text_are_refused() -> None:
    with pytest.raises(RepositoryError, match="is not text"):
        parse_config(b'name: "\xff\xfe"', "c")


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_no_bytes_break_the_parser(content: bytes) -> None:
    with contextlib.suppress(RepositoryError):
        assert parse_config(content, "c").IsInitialized()


def test_values_are_set_on_a_copy_and_the_template_stays_as_it_is() -> None:
    template = parse_config(GOOD, "c")
    before = print_config(template)
    values = ConfigValues(
        name="renamed",
        max_batch_size=16,
        decoupled=True,
        instance_group=InstanceGroup("KIND_GPU", count=2, gpus=(0, 1)),
        parameters={"threads": "4", 'with "quotes"': "line\nbreak"},
    )
    config = parse_config(print_config(fill(template, values)), "c")
    assert (config.name, config.max_batch_size, config.model_transaction_policy.decoupled) == ("renamed", 16, True)
    assert [(group.count, list(group.gpus)) for group in config.instance_group] == [(2, [0, 1])]
    assert config.parameters['with "quotes"'].string_value == "line\nbreak"
    assert [tensor.name for tensor in config.input] == ["x"]
    assert print_config(template) == before


def test_values_left_out_leave_the_template_as_it_is() -> None:
    template = parse_config(GOOD + samples.parameter("kept", "yes"), "c")
    config = fill(template, ConfigValues(name="renamed"))
    assert config.max_batch_size == 4
    assert config.parameters["kept"].string_value == "yes"
    assert len(config.instance_group) == 1


def test_the_protobuf_is_imported_without_grpc_and_is_the_one_that_tritonclient_uses() -> None:
    code = (
        "import sys\n"
        "from enginepress.repository.proto import new_config\n"
        "mine = type(new_config())\n"
        "assert not [m for m in sys.modules if m == 'grpc' or m.startswith('grpc.')], 'grpc was imported'\n"
        "from tritonclient.grpc import model_config_pb2\n"
        "assert model_config_pb2.ModelConfig is mine\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
