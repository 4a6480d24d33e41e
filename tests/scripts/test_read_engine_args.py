"""The script that reads in which releases vLLM has its arguments, on small sources of the same form."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts import read_engine_args

OLD = """
@dataclass
class EngineArgs:
    model: str = "x"
    swap_space: float = 4
    seed: Optional[int] = None
    limits: ClassVar[int] = 3
    def method(self):
        inner: int = 3

@dataclass
class AsyncEngineArgs(EngineArgs):
    disable_log_requests: bool = False
"""
NEW = """
@dataclass
class EngineArgs:
    model: str = "x"
    seed: int = 0
    async_scheduling: bool = get_field(SchedulerConfig, "async_scheduling")
    stream_interval: int = field(init=False)
    brand_new: int = 3

@dataclass
class AsyncEngineArgs(EngineArgs):
    enable_log_requests: bool = False
"""
CONFIG = """
class CompilationMode(enum.IntEnum):
    NONE = 0

@config
class CompilationConfig:
    {field}: int | None = None
    local_cache_dir: str = field(default=None, init=False)
"""


def release(folder: Path, version: str, arguments: str, *, field: str | None = None) -> Path:
    root = folder / f"vllm-{version}"
    (root / "vllm/engine").mkdir(parents=True)
    (root / "vllm/config").mkdir()
    (root / "vllm/engine/arg_utils.py").write_text(arguments)
    if field is not None:
        (root / "vllm/config/compilation.py").write_text(CONFIG.format(field=field))
    return root


def test_boundaries_are_the_releases_that_were_read_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [
        release(tmp_path, "0.10.2", NEW, field="mode"),
        release(tmp_path, "0.8.4", OLD),
        release(tmp_path, "0.9.2", OLD, field="level"),
    ]
    monkeypatch.setattr(sys, "argv", ["read_engine_args.py", *map(str, folders)])
    read_engine_args.main()
    said = capsys.readouterr().out
    since, gone = said.split("  gone:\n")
    assert "lacking: 0.9.2\n      having: 0.10.2" in since
    assert "names: [async_scheduling, compilation_config.mode, enable_log_requests]" in since
    assert "having: 0.9.2\n      lacking: 0.10.2" in gone
    assert "names: [compilation_config.level, disable_log_requests, swap_space]" in gone
    assert "# unknown here: brand_new\n" in said


def test_a_release_without_a_class_for_an_argument_says_nothing_of_what_is_inside(tmp_path: Path) -> None:
    classes = read_engine_args.read_classes(release(tmp_path, "0.8.4", OLD))
    assert read_engine_args.has(classes, "compilation_config.mode") is None
    assert (read_engine_args.has(classes, "seed"), read_engine_args.has(classes, "inner")) == (True, False)


@pytest.mark.parametrize(
    ("path", "name"),
    [("attention_config", "AttentionConfig"), ("compilation_config.pass_config", "PassConfig"), ("eplb_config", "EPLBConfig")],
)
def test_arguments_have_classes_called_like_them(path: str, name: str) -> None:
    assert read_engine_args.class_of(path) == name
