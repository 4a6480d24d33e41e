"""The real Triton is asked about the same repositories: what validate calls an error it refuses, and the rest it loads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from enginepress.repository.place import place, unplaced_files, write_placement
from enginepress.repository.validate import validate
from enginepress.serving.http_connection import HttpConnection, error_text
from enginepress.serving.tritonserver import TritonServer
from tests.repository import samples
from tests.repository.mistakes import Files, Mistake, trt
from tests.repository.test_validate_mutations import BACKEND_MISTAKES, CONFIG_MISTAKES, ENSEMBLE_MISTAKES
from tests.repository.test_validate_trtllm_mutations import TENSORRT_LLM_MISTAKES

pytestmark = pytest.mark.slow

STRICTER_THAN_TRITON = (
    "input 'features' is declared twice, in different ways",  # it takes one of them
    "version_policy.specific names version 3, but the folder has 1",  # it serves version 1 alone
)
"""What Triton loads, though it cannot do what the config says."""

OF_OTHER_BACKENDS = re.compile(r"platform '|platform is 'onnx'|backend 'onnx'|profile|repeated number|on this machine")
"""What only a backend, a GPU or a machine that is not here could judge."""


GOOD: list[Callable[[], Files]] = [samples.onnx, samples.genai, samples.chain, trt]


@dataclass(frozen=True)
class Judge:
    """A server in explicit mode on a folder whose models come and go."""

    repository: Path
    server: TritonServer

    def refusal(self, model: str) -> str | None:
        """Why Triton does not load what lies in the folder now, or None if it does.

        Nothing is unloaded: in 2 of 15 runs the server hung or died while it unloaded some models and loaded others.
        """
        with HttpConnection(self.server.http, timeout_s=60) as connection:
            status, answer = connection.ask("POST", f"/v2/repository/models/{model}/load", {})
            return None if status == 200 else error_text(status, answer)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    folder = tmp_path_factory.mktemp("judge")
    good: Files = {}
    for build in GOOD:
        good |= served_by_python(build())
    repository = samples.write(folder / "repository", good)
    with TritonServer(
        repository, log=folder / "server.log", models=["first"], control_mode="explicit", exit_timeout_s=0
    ) as server:
        yield Judge(repository, server)


def served_by_python(files: Files) -> Files:
    """The same configs with the one backend that the wheel's server has, which looks at tensors and wiring alike."""
    changed: Files = {}
    for name, content in files.items():
        text = content.decode(errors="replace") if isinstance(content, bytes) else content
        if name.endswith("/config.pbtxt") and re.search(
            r'backend: "(tensorrtllm|onnxruntime)"|platform: "onnxruntime_onnx"', text
        ):
            text = re.sub(r'backend: "(tensorrtllm|onnxruntime)"|platform: "onnxruntime_onnx"', 'backend: "python"', text)
            if "instance_group" not in text:
                text += "instance_group { kind: KIND_CPU }\n"
            changed[f"{name.split('/')[0]}/1/model.py"] = samples.PYTHON_MODEL
            content = text
        changed.setdefault(name, content)
    return changed


def renamed(files: Files, models: set[str], suffix: str) -> Files:
    """Only these models, under new names and calling each other by them: they stand beside the good ones they lean on."""
    pattern = re.compile('(?<=")(' + "|".join(sorted(map(re.escape, models), key=len, reverse=True)) + ')(?=")')
    out: Files = {}
    for name, content in files.items():
        model, rest = name.split("/", 1)
        if model in models:
            is_config = rest == "config.pbtxt" and isinstance(content, str)
            out[f"{model}{suffix}/{rest}"] = pattern.sub(rf"\g<1>{suffix}", str(content)) if is_config else content
    return out


COMPARABLE = [
    mistake
    for mistake in CONFIG_MISTAKES + BACKEND_MISTAKES + ENSEMBLE_MISTAKES + TENSORRT_LLM_MISTAKES
    if (
        mistake.where == "llama/config.pbtxt"
        if mistake.build is trt
        else mistake.build in (samples.onnx, samples.genai, samples.chain)
        and "genai" not in mistake.file
        and "sequence" not in mistake.says
        and not OF_OTHER_BACKENDS.search(mistake.says)
    )
]


@pytest.mark.parametrize("build", GOOD)
def test_triton_loads_what_is_found_to_be_right(judge: Judge, build: Callable[[], Files]) -> None:
    for model in sorted({name.split("/")[0] for name in build()}):
        assert judge.refusal(model) is None


@pytest.mark.parametrize("mistake", COMPARABLE, ids=lambda m: m.says[:60])
def test_triton_refuses_what_is_called_an_error_and_loads_the_rest(judge: Judge, mistake: Mistake) -> None:
    files = served_by_python(mistake.build())
    text = str(files[mistake.file])
    assert mistake.old in text
    suffix = f"-{COMPARABLE.index(mistake)}"
    target = mistake.where.split("/")[0]
    changed = {**files, mistake.file: text.replace(mistake.old, mistake.new, 1)}
    samples.write(judge.repository, renamed(changed, {mistake.file.split("/")[0], target}, suffix))
    refusal = judge.refusal(target + suffix)
    refused = mistake.severity == "error" and mistake.says not in STRICTER_THAN_TRITON
    assert (refusal is not None) == refused, refusal


@pytest.mark.parametrize(("folder", "file"), [("chain", ".keep"), ("first", "model.py")])
def test_a_model_without_version_folder_is_refused_by_both(judge: Judge, folder: str, file: str) -> None:
    files = samples.chain()
    del files[f"{folder}/1/{file}"]
    suffix = f"-unversioned-{folder}"
    samples.write(judge.repository, renamed(files, {folder}, suffix))
    assert judge.refusal(folder + suffix) is not None
    assert [f.model for f in validate(judge.repository).errors if f.model == folder + suffix] == [folder + suffix]


@pytest.mark.parametrize("number", [0, 7])
def test_a_placed_repository_answers_with_its_number_and_an_unplaced_one_with_0(tmp_path: Path, number: int) -> None:
    samples.write(tmp_path / "raw", samples.chain("0"))
    served = tmp_path / "served"
    write_placement(place(tmp_path / "raw", number, str(served)) if number else unplaced_files(tmp_path / "raw"), served)
    assert validate(served).ok
    with (
        TritonServer(served, log=tmp_path / "server.log", exit_timeout_s=0) as server,
        HttpConnection(server.http, timeout_s=60) as connection,
    ):
        status, answer = connection.ask("POST", "/v2/models/chain/generate", {"x": "hello"})
    assert (status, answer["y"], answer["model_version"]) == (200, "hello", str(number))
