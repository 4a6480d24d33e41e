"""Our text format against protobuf's: written texts read back equal, and read texts mean the same to both."""

from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from enginepress.repository import pbtext
from enginepress.repository.proto import new_config
from tests.repository import samples
from tests.repository.messages import configs

# protobuf unescapes strings with a codec that warns of unknown escapes, which broken texts have.
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")

CONFIG_TEXTS = [
    content if isinstance(content, str) else content.decode()
    for build in (samples.chain, samples.onnx, samples.genai, samples.tensorrt_llm, samples.vllm)
    for name, content in build().items()
    if name.endswith("config.pbtxt")
]
FRAGMENTS = [
    *'{}[]:,;<>"#\n\\',
    "'",
    ' "tail"',
    "-",
    "0x10",
    "010",
    "1.5",
    "1e3",
    "true",
    "TYPE_FP32",
    "input",
    "dims",
    "max_batch_size: 3",
    "name",
    "\x0c",
    "\u00a0",
    "# note",
]


def _reference(text: str) -> Any:
    """What protobuf's own parser says: a message, or None for a mistake."""
    message = new_config()
    try:
        text_format.Parse(text, message)
    except (text_format.ParseError, ValueError):
        return None
    return message


def _ours(text: str) -> Any:
    message = new_config()
    try:
        pbtext.parse_text(text, message)
    except (text_format.ParseError, ValueError):
        return None
    return message


@given(configs())
@settings(max_examples=200, deadline=None)
def test_a_printed_message_reads_back_equal_with_both_parsers(config: Any) -> None:
    text = pbtext.to_text(config)
    assert _reference(text) == config
    assert _ours(text) == config


@given(configs())
@settings(max_examples=100, deadline=None)
def test_what_protobuf_prints_reads_back_equal(config: Any) -> None:
    assert _ours(text_format.MessageToString(config)) == config
    assert _ours(text_format.MessageToString(config, as_one_line=True)) == config


@given(configs())
@settings(max_examples=100, deadline=None)
def test_printing_depends_on_the_message_alone(config: Any) -> None:
    again = new_config()
    again.ParseFromString(config.SerializeToString())
    assert pbtext.to_text(again) == pbtext.to_text(config)


@given(st.sampled_from(CONFIG_TEXTS), st.integers(0, 2**32), st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_broken_texts_get_the_same_verdict_and_meaning_from_both_parsers(text: str, seed: int, edits: int) -> None:
    chance = random.Random(seed)
    start = chance.randrange(max(len(text) - 400, 1))
    text = text[start if chance.random() < 0.3 else 0 :][:1500]
    for _ in range(edits):
        at = chance.randrange(len(text) + 1)
        if chance.random() < 0.5:
            text = text[:at] + chance.choice(FRAGMENTS) + text[at:]
        else:
            text = text[:at] + text[at + chance.randrange(1, 12) :]
    assert _ours(text) == _reference(text)


@pytest.mark.parametrize("text", CONFIG_TEXTS, ids=lambda text: text.split('"')[1])
def test_usual_configs_take_the_fast_path(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _reference(text)
    monkeypatch.setattr(text_format, "Parse", None)
    assert _ours(text) == expected


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ('a "quoted" \\ back', r'"a \"quoted\" \\ back"'),
        ("two\nlines\tand tab", r'"two\nlines\tand tab"'),
        ("bell\x07", r'"bell\007"'),
        ("Füße 模型", '"Füße 模型"'),
    ],
)
def test_strings_are_escaped_so_that_a_config_stays_readable(value: str, printed: str) -> None:
    config = new_config()
    config.name = value
    assert pbtext.to_text(config) == f"name: {printed}\n"
