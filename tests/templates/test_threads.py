"""How many threads the served engine computes with."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from llm_settings import EngineFacts, Settings, engine_overlay
from llm_threads import usable_cores

FACTS = EngineFacts(context_length=64, vocab_size=8, pad_token_id=0, eos_token_ids=frozenset({1}))


def _machine(root: Path, siblings: dict[int, str]) -> Path:
    for processor, names in siblings.items():
        file = root / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
        file.parent.mkdir(parents=True)
        file.write_text(names + "\n")
    return root


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")


@pytest.mark.parametrize(
    ("siblings", "allowed", "cores"),
    [
        ({0: "0", 1: "1"}, {0, 1}, 2),
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, {0, 1, 2, 3}, 2),
        ({0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}, {0, 4, 5}, 2),
        ({0: "0-1", 1: "0-1"}, {1}, 1),
        ({n: str(n) for n in range(64)}, set(range(64)), 16),
        ({}, {0, 1, 2}, 3),
    ],
    ids=["plain", "hyperthreads", "a cpuset", "half a core", "a large machine", "no topology"],
)
def test_each_core_that_may_be_used_gets_a_thread(
    siblings: dict[int, str], allowed: set[int], cores: int, tmp_path: Path
) -> None:
    assert usable_cores(processors=allowed, root=_machine(tmp_path, siblings)) == cores


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "350000 100000"}, 3),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, 8),
        ({"proc/self/cgroup": "0::/kubepods/pod1/c", "sys/fs/cgroup/kubepods/pod1/cpu.max": "400000 100000"}, 4),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/b/cpu.max": "600000 100000",
                "sys/fs/cgroup/a/cpu.max": "300000 100000",
            },
            3,
        ),
        ({"proc/self/cgroup": "0::/of/the/host", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/docker/1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "500000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            5,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/x",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
            },
            8,
        ),
        ({"proc/self/cgroup": "nonsense", "sys/fs/cgroup/cpu.max": "1 2 3"}, 8),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "200000 0"}, 8),
        ({}, 8),
    ],
    ids=[
        "two processors",
        "three and a half",
        "half of one",
        "no limit",
        "the pod's",
        "the tightest of those above",
        "the host's path in a container",
        "version 1",
        "version 1 without a limit",
        "nonsense",
        "no period",
        "no control groups",
    ],
)
def test_a_containers_limit_counts(files: dict[str, str], threads: int, tmp_path: Path) -> None:
    _write(_machine(tmp_path, {n: str(n) for n in range(8)}), files)
    assert usable_cores(processors=range(8), root=tmp_path) == threads


def test_this_machine_gives_no_more_threads_than_it_has_processors() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("threads", "wanted"), [(0, usable_cores()), (5, 5)])
def test_the_engine_is_loaded_with_that_many_threads_unless_the_recipe_says(threads: int, wanted: int) -> None:
    overlay = json.loads(engine_overlay(Settings(threads=threads), FACTS))
    assert overlay["model"]["decoder"]["session_options"] == {"intra_op_num_threads": wanted}
