"""examples/notebook.ipynb, executed in a real kernel; and a kernel that is interrupted."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.run.conftest import checkpoint as checkpoint
from tests.run.recipes import write_recipe
from tests.run.test_killed import _processes_of

nbformat = pytest.importorskip("nbformat", reason="the extra `notebook` and nbclient are not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra `notebook` and nbclient are not installed")
manager = pytest.importorskip("jupyter_client.manager", reason="the extra `notebook` is not installed")

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


def _html(cell: Any) -> str:
    return "".join(output.get("data", {}).get("text/html", "") for output in cell["outputs"])


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook as it was executed beside a copy of the examples."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "examples", site / "examples")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(site / "examples")}}
    )
    client.execute()
    notebook["site"] = str(site)
    return notebook


def _cell(notebook: Any, pattern: str) -> Any:
    (cell,) = [c for c in notebook["cells"] if c["cell_type"] == "code" and re.search(pattern, c["source"])]
    return cell


def test_the_example_notebook_builds_and_shows_the_release(executed: Any) -> None:
    plan = _html(_cell(executed, r"^ep\.plan\(recipe\)"))
    assert "Memory to serve" in plan
    assert "Memory of the GPU" in _html(_cell(executed, r"on_a_gpu"))
    steps = _html(_cell(executed, r"^run = ep\.run"))
    assert "done: release 1" in steps
    assert steps.count("✔") == 9
    run = _html(_cell(executed, r"^run$"))
    assert "All 15 checks passed" in run
    assert run.count("<svg") == 3
    assert "report.html" in run
    assert "staging" in _html(_cell(executed, r"^ep\.promote"))
    (again,) = _cell(executed, r"^again = ")["outputs"]
    assert again["data"]["text/plain"] == "True", "a run with nothing to do shows no steps"
    assert (Path(executed["site"]) / "var" / "store" / "tiny-llama" / "channels" / "staging").exists()


def test_nothing_is_printed_beside_what_is_shown(executed: Any) -> None:
    streams = [o for c in executed["cells"] for o in c.get("outputs", ()) if o["output_type"] == "stream"]
    assert streams == []


def test_the_committed_notebook_holds_no_outputs_and_no_place_of_its_authors() -> None:
    text = NOTEBOOK.read_text()
    cells = json.loads(text)["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert "/home/" not in text
    assert str(NOTEBOOK.parents[1]) not in text
    nbformat.validate(nbformat.reads(text, as_version=4))


class Kernel:
    """A kernel of this environment, asked cell by cell."""

    def __init__(self, folder: Path) -> None:
        self.manager = manager.KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "kernel-ipc"))
        self.manager.start_kernel(cwd=str(folder))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def ask(self, code: str, *, interrupt_when: Any = None) -> tuple[dict[str, Any], str]:
        """The reply and what was printed or shown as text."""
        message = self.client.execute(code)
        said, interrupted, deadline = "", interrupt_when is None, time.monotonic() + 200
        while time.monotonic() < deadline:
            if not interrupted and interrupt_when():
                interrupted = True
                self.manager.interrupt_kernel()
            try:
                got = self.client.get_iopub_msg(timeout=0.2)
            except Exception:  # the queue was empty
                continue
            if got["parent_header"].get("msg_id") != message:
                continue
            content = got["content"]
            said += content.get("text", "") + content.get("data", {}).get("text/plain", "")
            said += "\n".join(content.get("traceback", ()))
            if got["msg_type"] == "status" and content["execution_state"] == "idle":
                break
        while True:
            reply = self.client.get_shell_msg(timeout=60)
            if reply["parent_header"]["msg_id"] == message:
                return reply["content"], said

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path)
    yield kernel
    kernel.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_interrupting_a_cell_ends_the_run_and_the_next_cell_goes_on(kernel: Kernel, tmp_path: Path, checkpoint: Path) -> None:
    write_recipe(tmp_path, checkpoint, checks={"served": False})
    workspace = tmp_path / "workspace"
    kernel.ask("import enginepress as ep")
    reply, said = kernel.ask(
        "run = ep.run('recipe.yaml', workspace='workspace')",
        interrupt_when=lambda: list(workspace.glob("checkpoints/*/record.json")),
    )
    assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt"), said
    assert not _processes_of(workspace)
    assert not list(workspace.glob("locks/*"))
    # In a kernel an event loop runs already: nothing here needs one of its own, and a run can be awaited.
    reply, said = kernel.ask(
        "background = ep.run('recipe.yaml', workspace='workspace', background=True)\n"
        "was = background.is_running\n"
        "done = await background\n"
        "print(was, done is background, background.release, background.result.up_to_date)"
    )
    assert reply["status"] == "ok", said
    assert "True True 1 False" in said
    # An error is told without a traceback.
    reply, said = kernel.ask("ep.run({'name': 'x', 'source': 'file:///nowhere', 'stores': ['file:///tmp/s'], 'channel': []})")
    assert reply["ename"] == "RecipeError"
    assert "did you mean 'channels'?" in said
    assert "Traceback" not in said
