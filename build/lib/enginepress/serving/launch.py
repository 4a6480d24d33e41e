"""One server on several GPUs: how TensorRT-LLM's ranks are started around a tritonserver's command line.

Leader: a tritonserver for each rank, all started by one mpirun. The first is the one that clients talk to; the others load
the engine's model only and open no port. Orchestrator: one tritonserver, whose backend starts the ranks itself.

Sources: tensorrtllm_backend v0.18.2, scripts/launch_triton_server.py; NVIDIA/TensorRT-LLM,
triton_backend/scripts/launch_triton_server.py @0a2e2c1f (the same options up to 1.x).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from enginepress.errors import ServerError

Mode = Literal["leader", "orchestrator"]

PARAMETER = "multi_gpu"
"""Of an engine model's config.pbtxt, where the recipe's serving.multi_gpu stands; NVIDIA's backend does not look at it."""

_OF_RANK_0 = ("--http-", "--grpc-", "--metrics-", "--model-control-mode", "--load-model", "--allow-", "--repository-poll-secs")
_SHM = "--backend-config=python,shm-region-prefix-name="


@dataclass(frozen=True)
class Ranks:
    """An engine that takes several GPUs."""

    model: str
    world_size: int
    mode: Mode


def find_ranks(repository: Path) -> tuple[Ranks, ...]:
    """The models of a placed repository whose TensorRT-LLM engine was built for more than one rank."""
    # Here: most servers that are started have no such model, and need no protobuf.
    from enginepress.repository.config import parse_config

    found = []
    for file in sorted(repository.glob("*/config.pbtxt")):
        content = file.read_bytes()
        if b"tensorrtllm" not in content:
            continue
        config = parse_config(content, str(file))
        if config.backend != "tensorrtllm":
            continue
        parameters = {name: value.string_value for name, value in config.parameters.items()}
        world = _world_size(Path(parameters.get("gpt_model_path", "")))
        if world > 1:
            mode: Mode = "orchestrator" if parameters.get(PARAMETER) == "orchestrator" else "leader"
            found.append(Ranks(file.parent.name, world, mode))
    return tuple(found)


def spread(
    argv: Sequence[str], env: Mapping[str, str], ranks: Sequence[Ranks], *, mpirun: str, gpus: int
) -> tuple[list[str], dict[str, str]]:
    """The command line and environment that serve these engines, around those of a single server.

    Args:
        argv: of the server that clients talk to, complete.
        mpirun: the program that starts ranks.
        gpus: of this machine, for the orchestrator.

    Raises:
        ServerError: if the engines cannot be served together.
    """
    if not ranks:
        return list(argv), dict(env)
    if len({rank.mode for rank in ranks}) > 1:
        raise ServerError(
            f"{ranks[0].model} and others want both a process for each rank and an orchestrator",
            where="serving.multi_gpu",
            fix="serve them by servers of their own, or build all with one serving.multi_gpu",
        )
    if ranks[0].mode == "orchestrator":
        return orchestrator_argv(argv, gpus), {**env, **orchestrator_env()}
    if len({rank.world_size for rank in ranks}) > 1:
        listed = ", ".join(f"{rank.model} takes {rank.world_size}" for rank in ranks)
        raise ServerError(
            f"one mpirun starts one number of ranks, but {listed}",
            where="serving.multi_gpu",
            fix="serve them by servers of their own, or build them with serving.multi_gpu: orchestrator",
        )
    models = [rank.model for rank in ranks]
    return leader_argv(argv, ranks[0].world_size, models, mpirun=mpirun), dict(env)


def leader_argv(argv: Sequence[str], world_size: int, models: Sequence[str], *, mpirun: str = "mpirun") -> list[str]:
    """One mpirun line: rank 0 as it is, the others with the engines' models only and without ports.

    >>> leader_argv(["tritonserver", "--model-repository=/r", "--http-port=8000"], 2, ["m-engine"])
    ... # doctest: +NORMALIZE_WHITESPACE
    ['mpirun', '--allow-run-as-root', '-n', '1', 'tritonserver', '--model-repository=/r', '--http-port=8000', ':',
     '-n', '1', 'tritonserver', '--model-repository=/r', '--model-control-mode=explicit', '--load-model=m-engine',
     '--allow-http=false', '--allow-grpc=false', '--allow-metrics=false']
    """
    line = [mpirun, "--allow-run-as-root", "-n", "1", *argv]
    for rank in range(1, world_size):
        line += [":", "-n", "1", *_rank_argv(argv, rank, models)]
    return line


def orchestrator_env() -> dict[str, str]:
    """What tells the backend to start the ranks itself."""
    return {"TRTLLM_ORCHESTRATOR": "1", "TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES": "1"}


def orchestrator_argv(argv: Sequence[str], gpus: int) -> list[str]:
    """The ranks have the GPUs to themselves: the server that starts them takes no memory there."""
    pools = [f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in range(gpus)]
    return [*argv, "--pinned-memory-pool-byte-size=0", "--enable-peer-access=false", *pools]


def _rank_argv(argv: Sequence[str], rank: int, models: Sequence[str]) -> list[str]:
    kept = [a + f"rank{rank}_" if a.startswith(_SHM) else a for a in argv if not a.startswith(_OF_RANK_0)]
    load = [f"--load-model={name}" for name in models]
    return [
        *kept,
        "--model-control-mode=explicit",
        *load,
        "--allow-http=false",
        "--allow-grpc=false",
        "--allow-metrics=false",
    ]


def _world_size(engine: Path) -> int:
    """1 for an engine that does not say."""
    try:
        config = json.loads((engine / "config.json").read_text(encoding="utf-8"))
        return int(config["pretrained_config"]["mapping"]["world_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return 1
