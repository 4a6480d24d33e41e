"""Servers over several ranks: the command lines as text, and the real Triton started by a stand-in for mpirun."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enginepress.errors import ServerError
from enginepress.recipe import Recipe
from enginepress.serving import tritonserver
from enginepress.serving.launch import Ranks, find_ranks, leader_argv, orchestrator_argv, orchestrator_env, spread
from enginepress.serving.tritonserver import TritonServer
from tests.repository import samples
from tests.serving.processes import leftovers
from tests.serving.trt_repository import engine_folder, make_repository, serving_stand_ins, trt_recipe
from tests.templates.ask import generate
from tests.templates.repository import build_engine

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "examples" / "checkpoints" / "tiny-llama"

SERVER = [
    "/opt/tritonserver/bin/tritonserver",
    "--model-repository=/models",
    "--http-address=127.0.0.1",
    "--http-port=8000",
    "--grpc-port=8001",
    "--metrics-port=8002",
    "--model-control-mode=none",
    "--disable-auto-complete-config",
    "--allow-sagemaker=false",
    "--backend-config=python,shm-region-prefix-name=mine_",
]


def groups(line: list[str]) -> list[list[str]]:
    """The command of each rank of an mpirun line."""
    found: list[list[str]] = [[]]
    for word in line[2:]:
        if word == ":":
            found.append([])
        else:
            found[-1].append(word)
    assert all(group[:2] == ["-n", "1"] for group in found)
    return [group[2:] for group in found]


@pytest.mark.parametrize("world", [2, 4, 8])
def test_leader_mode_is_one_mpirun_with_a_server_for_each_rank(world: int) -> None:
    line = leader_argv(SERVER, world, ["m-engine"])
    assert line[:2] == ["mpirun", "--allow-run-as-root"]
    first, *others = groups(line)
    assert first == SERVER
    assert len(others) == world - 1
    for rank, command in enumerate(others, start=1):
        assert command == [
            "/opt/tritonserver/bin/tritonserver",
            "--model-repository=/models",
            "--disable-auto-complete-config",
            f"--backend-config=python,shm-region-prefix-name=mine_rank{rank}_",
            "--model-control-mode=explicit",
            "--load-model=m-engine",
            "--allow-http=false",
            "--allow-grpc=false",
            "--allow-metrics=false",
        ]


def test_orchestrator_mode_is_one_server_that_starts_the_others() -> None:
    assert orchestrator_env() == {"TRTLLM_ORCHESTRATOR": "1", "TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES": "1"}
    assert orchestrator_argv(SERVER, 2)[len(SERVER) :] == [
        "--pinned-memory-pool-byte-size=0",
        "--enable-peer-access=false",
        "--cuda-memory-pool-byte-size=0:0",
        "--cuda-memory-pool-byte-size=1:0",
    ]


def test_a_server_without_ranks_is_started_as_it_is() -> None:
    assert spread(SERVER, {"A": "1"}, (), mpirun="mpirun", gpus=0) == (SERVER, {"A": "1"})


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        ([Ranks("a", 2, "leader"), Ranks("b", 4, "leader")], "a takes 2, b takes 4"),
        ([Ranks("a", 2, "leader"), Ranks("b", 2, "orchestrator")], "both a process for each rank and an orchestrator"),
    ],
)
def test_engines_that_cannot_share_a_server_are_refused(ranks: list[Ranks], said: str) -> None:
    with pytest.raises(ServerError, match=said):
        spread(SERVER, {}, ranks, mpirun="mpirun", gpus=2)


def test_the_repository_says_how_many_ranks_and_how(tmp_path: Path) -> None:
    root = tmp_path / "models"
    samples.write(root, samples.tensorrt_llm(root=f"{root}/"))
    assert find_ranks(root) == (Ranks("llama-engine", 2, "leader"),)
    config = root / "llama-engine" / "config.pbtxt"
    config.write_text(config.read_text() + samples.parameter("multi_gpu", "orchestrator"))
    assert find_ranks(root) == (Ranks("llama-engine", 2, "orchestrator"),)
    samples.write(tmp_path / "other", samples.chain())
    assert find_ranks(tmp_path / "other") == ()


# ------------------------------------------------------------------------------------------------------------------
# Started for real
# ------------------------------------------------------------------------------------------------------------------

MPIRUN = """#!/usr/bin/env python3
# A stand-in for mpirun: starts the command of each rank, waits for the first, ends the others.
import signal, subprocess, sys

words = sys.argv[1:]
assert words.pop(0) == "--allow-run-as-root"
commands = [[]]
for word in words:
    if word == ":":
        commands.append([])
    else:
        commands[-1].append(word)
ranks = []
for command in commands:
    assert command[:2] == ["-n", "1"]
    ranks.append(subprocess.Popen(command[2:]))

def end(*_):
    for rank in ranks:
        rank.terminate()

signal.signal(signal.SIGTERM, end)
status = ranks[0].wait()
end()
for rank in ranks:
    rank.wait()
sys.exit(status)
"""


def spread_recipe(**serving: Any) -> Recipe:
    recipe = trt_recipe("tensorrt_llm_1_0", "wide", **serving)
    engine = recipe.engine.model_copy(update={"parallelism": recipe.engine.parallelism.model_copy(update={"tensor": 2})})
    return recipe.model_copy(update={"engine": engine})


@pytest.fixture(scope="module")
def genai(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_engine(CHECKPOINT, tmp_path_factory.mktemp("genai") / "tiny")


@pytest.fixture
def wide(genai: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A placed repository whose engine says that it has two ranks."""
    serving_stand_ins(patch=monkeypatch)
    engine = engine_folder(genai, tmp_path / "engine")
    config = json.loads((engine / "config.json").read_text())
    config["pretrained_config"]["mapping"] = {"world_size": 2, "tp_size": 2, "pp_size": 1}
    (engine / "config.json").write_text(json.dumps(config))
    (engine / "rank1.engine").write_bytes(b"a stand-in")
    return make_repository(tmp_path, spread_recipe(), generation="tensorrt_llm_1_0", checkpoint=CHECKPOINT, engine=engine)


def test_a_server_for_each_rank_is_started_answers_and_leaves_nothing(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mpirun = tmp_path / "mpirun"
    mpirun.write_text(MPIRUN)
    mpirun.chmod(0o755)
    real = tritonserver.shutil.which
    monkeypatch.setattr(tritonserver.shutil, "which", lambda name, **kw: str(mpirun) if name == "mpirun" else real(name, **kw))
    log = tmp_path / "server.log"
    with TritonServer(wide, log=log, exit_timeout_s=5) as server:
        assert generate(server.http, "wide", text_input="Every object has", max_tokens=2)["text_output"] == " an identity"
    said = log.read_text()
    # Both ranks loaded the engine; only the first has the other models and listens.
    assert said.count("successfully loaded 'wide-engine'") == 2
    assert said.count("successfully loaded 'wide-preprocessing'") == 1
    assert said.count("Started HTTPService") == 1
    assert leftovers(log) == []


def test_without_mpirun_the_error_says_what_is_missing(wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tritonserver.shutil.which
    monkeypatch.setattr(tritonserver.shutil, "which", lambda name, **kw: None if name == "mpirun" else real(name, **kw))
    with (
        pytest.raises(ServerError, match="wide-engine takes 2 ranks, and there is no mpirun on PATH"),
        TritonServer(wide, log=tmp_path / "server.log"),
    ):
        raise AssertionError("started")
