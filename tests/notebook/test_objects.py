"""What `import enginepress as ep` gives, as plain Python: objects that say what they are, as text and as HTML."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import enginepress as ep
from enginepress.errors import EnginepressError, RecipeError, StoreError
from enginepress.notebook import html
from enginepress.notebook.plans import Comparison, Plan
from enginepress.notebook.steps_view import StepsView
from enginepress.recipe_file import load_recipe
from enginepress.steps.resolve import plan_of
from enginepress.workspace import Workspace
from tests.run.conftest import checkpoint as checkpoint
from tests.run.recipes import write_recipe
from tests.steps.pretend import pretend_release

ROOT = Path(__file__).parents[2]
LAPTOP = ROOT / "examples" / "recipes" / "laptop.yaml"


class _Balanced(HTMLParser):
    """Fails for a tag that is not closed, or closed where it is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag not in ("rect", "line", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "line"):
            assert self.open.pop() == tag


def _checked(text: str) -> str:
    parser = _Balanced()
    parser.feed(text)
    assert parser.open == []
    assert "<script" not in text
    assert "<style" not in text
    return text


def _on_a_gpu(**engine: Any) -> dict[str, Any]:
    settings = {"builder": "tensorrt_llm", "precision": "float16", "gpu": {"name": "L4"}, **engine}
    source = f"file://{ROOT}/examples/checkpoints/tiny-llama"
    return {"name": "tiny", "source": source, "engine": settings, "stores": ["file:///tmp/none"]}


def test_the_package_itself_stays_light() -> None:
    code = (
        "import sys, enginepress as ep\n"
        "assert {'plan', 'run', 'submit', 'releases', 'promote', 'rollback'} <= set(dir(ep))\n"
        "assert callable(ep.run)\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'pydantic', 'kfp', 'mlflow', 'yaml', 'IPython', 'rich'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_run_can_be_called_whatever_was_imported_before() -> None:
    import enginepress.run.local

    assert callable(ep.run)
    assert ep.run is sys.modules["enginepress.run"]
    assert enginepress.run.local.run_recipe


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'bild'"):
        _ = ep.bild  # type: ignore[attr-defined]


def test_a_plan_says_what_it_takes_as_text_and_as_html() -> None:
    plan = ep.plan(LAPTOP)
    assert isinstance(plan, Plan)
    assert plan.fits
    assert repr(plan).splitlines()[-1] == "fits"
    assert "memory to serve" in repr(plan)
    shown = _checked(plan._repr_html_())
    assert "Memory to serve" in shown
    assert "KV cache" in shown


def test_a_plan_for_a_gpu_has_its_memory_as_a_bar_and_the_commands() -> None:
    plan = ep.plan(_on_a_gpu())
    assert isinstance(plan, Plan)
    shown = _checked(plan._repr_html_())
    widths = [float(w) for w in re.findall(r"width:([\d.]+)%;background", shown)]
    assert len(widths) == 4
    assert 50 < sum(widths) <= 100.5
    assert "trtllm-build" in shown


def test_what_does_not_fit_is_no_error_and_says_what_would_do() -> None:
    plan = ep.plan(_on_a_gpu(limits={"max_batch_size": 2048, "max_sequence_length": 512}, parallelism={"tensor": 3}))
    assert isinstance(plan, Plan)
    assert not plan.fits
    assert plan.refusal is not None
    assert "does not fit" in repr(plan)
    assert "Why not, and what would do" in _checked(plan._repr_html_())


def test_all_gpus_are_compared() -> None:
    found = ep.plan(_on_a_gpu(), gpu="all")
    assert isinstance(found, Comparison)
    assert any(row.plan.fits for row in found.rows)
    assert "L4" in repr(found)
    assert _checked(found._repr_html_()).count("<tr") == len(found.rows) + 1


def test_a_wrong_mapping_is_explained() -> None:
    with pytest.raises(RecipeError, match="did you mean 'builder'"):
        ep.plan({"name": "x", "source": "hf://a/b", "stores": ["file:///s"], "engine": {"bilder": "vllm"}})


def test_releases_are_listed_and_moved(tmp_path: Path, checkpoint: Path) -> None:
    path = write_recipe(tmp_path, checkpoint, registry={"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"})
    recipe, workspace = load_recipe(path), Workspace(tmp_path / "workspace")
    assert len(ep.releases(path)) == 0
    assert "no releases yet" in _checked(ep.releases(path)._repr_html_())
    pretend_release(recipe, *plan_of(recipe, workspace.path("cache"), "r"), tmp_path)
    found = ep.releases(path)
    assert [row.release for row in found] == [1]
    assert found.channels == {"candidate": 1}
    assert "candidate" in _checked(found._repr_html_())
    assert repr(found).startswith("tiny release 1  candidate  passed")
    assert ep.releases(f"file://{tmp_path}/store/tiny").channels == {"candidate": 1}
    with pytest.raises(StoreError, match="no earlier release"):
        ep.rollback(path, channel="candidate", workspace=workspace.root)
    with pytest.raises(StoreError, match="has no release 7"):
        ep.promote(path, 7, channel="candidate", workspace=workspace.root)


def test_steps_are_shown_as_they_go() -> None:
    view = StepsView("<tiny>", ["download", "build"])
    assert not view.is_started
    view.follow("download", "running", "")
    view.follow("download", "running", "3 MB of <9> MB")
    assert "3 MB of &lt;9&gt; MB" in _checked(view._repr_html_())
    view.follow("download", "done", "1.5 s")
    view.follow("build", "running", "")
    assert view.news() == [("download", "done", "1.5 s"), ("build", "running", "")]
    view.end("failed")
    assert "■ build" in repr(view)
    assert "&lt;tiny&gt;" in _checked(view._repr_html_())


@pytest.mark.parametrize("address", ["javascript:alert(1)", "data:text/html,x", "vbscript:x"])
def test_only_pages_and_files_are_linked(address: str) -> None:
    assert "href" not in html.link(address, "see")


def test_an_error_shows_no_traceback_in_a_notebook() -> None:
    error = EnginepressError("is wrong", where="here", fix="mend it")
    assert error._render_traceback_() == ["error: here: is wrong", "next:  mend it"]
