"""The recipe's lock: what it says, what it refuses, from each kind of source."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from enginepress.errors import EnginepressError, RecipeError, SourceError, StoreError, WorkspaceError
from enginepress.lockfile import Lock, lock_path, parse_lock
from enginepress.recipe import Recipe
from enginepress.recipe_file import load_recipe, recipe_from_json, travelling_json
from enginepress.sources import Digest, RemoteFile, Revision
from enginepress.sources.glance import glance
from enginepress.steps.download import produce_checkpoint
from enginepress.steps.job import Job
from enginepress.steps.lock import Locked, lock_from_release, lock_of_build, lock_recipe
from enginepress.steps.resolve import plan_of
from enginepress.steps.revision import revision_of
from enginepress.stores.open import open_store
from enginepress.workspace import Output, Workspace
from tests.run.recipes import enginepress
from tests.s3_server import S3Server
from tests.sources.hub_server import HubServer
from tests.sources.ngc_server import NgcServer
from tests.sources.tiny import checkpoint, write
from tests.steps.pretend import pretend_release


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_a_plan_of_a_locked_recipe_is_the_plan_of_what_is_locked(hub: HubServer, workspace: Workspace, tmp_path: Path) -> None:
    commit = hub.add_repo("org/tiny", checkpoint(seed=1))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: tiny\nsource: hf://org/tiny@main\nstores: [file://{tmp_path}/store]\n")
    lock_recipe(recipe, workspace)
    moved = hub.commit("org/tiny", checkpoint(seed=2, size=900_000), branch="main")
    locked = glance(load_recipe(recipe).source)
    assert locked.revision == commit != moved
    assert locked.files == {f.path: f.size for f in revision_of(load_recipe(recipe), workspace.path("cache")).files}


@pytest.mark.parametrize("changed", ["config.json", "model.safetensors"])
def test_a_plan_of_a_locked_folder_that_has_changed_says_so(changed: str, workspace: Workspace, tmp_path: Path) -> None:
    """As far as it looks: at sizes, and at config.json."""
    folder = write(tmp_path / "checkpoint", checkpoint())
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: tiny\nsource: file://{folder}\nstores: [file://{tmp_path}/store]\n")
    lock_recipe(recipe, workspace)
    assert glance(load_recipe(recipe).source).config
    data = (folder / changed).read_bytes()
    (folder / changed).write_bytes(data.replace(b"a", b"A", 1) if changed == "config.json" else data + b"x")
    with pytest.raises(SourceError, match=re.escape(changed) if changed != "config.json" else "lock"):
        glance(load_recipe(recipe).source)


@pytest.fixture
def ngc(monkeypatch: pytest.MonkeyPatch) -> Iterator[NgcServer]:
    monkeypatch.delenv("NGC_API_KEY", raising=False)
    with NgcServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    pytest.importorskip("boto3")
    with S3Server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def _recipe(folder: Path, uri: str, **source: Any) -> Path:
    path = folder / "model.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"name": "tiny", "source": {"uri": uri, **source}, "stores": ["file://store"]}))
    return path


def _fetch(recipe: Recipe, workspace: Workspace) -> Output:
    """What resolve and download do."""
    revision = revision_of(recipe, workspace.path("cache"))
    workspace.write_json(revision.to_json(), "revisions", f"{revision.digest}.json")
    return produce_checkpoint(Job(recipe, workspace, "test"), revision.digest)


def _sha256(files: dict[str, bytes], locked: Locked) -> bool:
    return dict(locked.lock.sha256) == {f.path: hashlib.sha256(files[f.path]).hexdigest() for f in locked.lock.revision.files}


# What is locked -------------------------------------------------------------------------------------------------------


def test_a_branch_is_locked_to_its_commit_with_the_sha256_of_every_file(
    hub: HubServer, tmp_path: Path, workspace: Workspace
) -> None:
    files = checkpoint(shards=2)
    first = hub.add_repo("org/tiny", files)
    path = _recipe(tmp_path, "hf://org/tiny@main")
    before = revision_of(load_recipe(path), workspace.path("cache"))
    locked = lock_recipe(path, workspace)
    assert locked.path == tmp_path / "model.lock.json"
    assert locked.lock.revision.id == first
    assert _sha256(files, locked)
    assert not [p for p in hub.downloads() if p.endswith(".safetensors")]

    hub.commit("org/tiny", checkpoint(shards=2, seed=7))
    hub.requests.clear()
    recipe = load_recipe(path)
    assert revision_of(recipe, workspace.path("cache")).digest == before.digest, "a lock must not lead to another build"
    assert hub.requests == []
    done = _fetch(recipe, workspace)
    assert (done.folder / "model-00001-of-00002.safetensors").read_bytes() == files["model-00001-of-00002.safetensors"]

    again = lock_recipe(path, workspace)
    assert again.lock.revision.id != first
    assert again.changes is not None
    assert "config.json has changed" in again.changes
    told = [change.split()[0] for change in again.changes]
    assert len(told) == len(set(told)), "each file is told once"
    assert lock_recipe(path, workspace).changes == []


def test_a_version_of_ngc_without_digests_is_downloaded_once_to_be_locked(
    ngc: NgcServer, tmp_path: Path, workspace: Workspace
) -> None:
    files = checkpoint()
    ngc.add_model("org/tiny", {"1": files}).publishes = False
    path = _recipe(tmp_path, "ngc://org/tiny")
    said: list[str] = []
    locked = lock_recipe(path, workspace, say=said.append)
    assert "does not publish" in said[0]
    assert _sha256(files, locked)
    ngc.requests.clear()
    assert _fetch(load_recipe(path), workspace).record["revision"] == "1"
    assert ngc.requests == []


def test_locked_bytes_of_ngc_are_demanded_in_every_workspace(ngc: NgcServer, tmp_path: Path, workspace: Workspace) -> None:
    model = ngc.add_model("org/tiny", {"1": checkpoint()})
    model.publishes = False
    path = _recipe(tmp_path, "ngc://org/tiny:1")
    lock_recipe(path, workspace)
    model.versions["1"] = {**checkpoint(seed=3), "config.json": checkpoint()["config.json"]}
    elsewhere = Workspace(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match="is not what its lock says") as caught:
        _fetch(load_recipe(path), elsewhere)
    assert caught.value.where == "ngc://org/tiny:1/model.safetensors"
    assert "enginepress lock" in (caught.value.fix or "")
    assert not elsewhere.path("checkpoints").exists()


def test_bytes_that_came_first_are_demanded_ever_after_without_a_lock(
    ngc: NgcServer, tmp_path: Path, workspace: Workspace
) -> None:
    model = ngc.add_model("org/tiny", {"1": checkpoint()})
    model.publishes = False
    recipe = load_recipe(_recipe(tmp_path, "ngc://org/tiny:1"))
    first = _fetch(recipe, workspace)
    workspace.discard("checkpoints", first.key)
    assert _fetch(recipe, workspace).key == first.key
    workspace.discard("checkpoints", first.key)
    model.versions["1"] = {**checkpoint(), "model.safetensors": checkpoint(seed=3)["model.safetensors"]}
    with pytest.raises(SourceError, match="is not what came when it was first fetched"):
        _fetch(recipe, workspace)
    assert not workspace.path("checkpoints", first.key).exists()


def test_objects_are_locked_to_their_versions(s3: S3Server, tmp_path: Path, workspace: Workspace) -> None:
    files = checkpoint()
    s3.add("bucket", {}).versioned = True
    s3.add("bucket", files, prefix="tiny/", parts=2)
    path = _recipe(tmp_path, "s3://bucket/tiny")
    assert _sha256(files, lock_recipe(path, workspace))
    s3.add("bucket", checkpoint(seed=4), prefix="tiny/")
    elsewhere = Workspace(tmp_path / "elsewhere")
    done = _fetch(load_recipe(path), elsewhere)
    assert (done.folder / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_a_folder_must_still_hold_what_was_locked(tmp_path: Path, workspace: Workspace) -> None:
    write(tmp_path / "m", checkpoint())
    path = _recipe(tmp_path, "file://m")
    locked = lock_recipe(path, workspace)
    assert locked.lock.to_json()["source"] == "file://m", "recipe, lock and folder can move together"
    assert revision_of(load_recipe(path), workspace.path("cache")).source == f"file://{tmp_path}/m"
    (tmp_path / "m" / "README.md").write_text("a file that no build needs")
    assert revision_of(load_recipe(path), workspace.path("cache"))
    (tmp_path / "m" / "config.json").write_text('{"model_type": "other"}')
    (tmp_path / "m" / "merges.txt").write_text("x")
    with pytest.raises(SourceError, match=r"config\.json has changed, merges\.txt is new") as caught:
        revision_of(load_recipe(path), workspace.path("cache"))
    assert "enginepress lock" in (caught.value.fix or "")


def test_a_lock_that_cannot_be_written_is_said(hub: HubServer, tmp_path: Path, workspace: Workspace) -> None:
    hub.add_repo("org/tiny", checkpoint())
    path = _recipe(tmp_path, "hf://org/tiny")
    (tmp_path / "model.lock.json").mkdir()
    with pytest.raises(RecipeError, match="writing the lock failed"):
        lock_recipe(path, workspace)


# What the lock refuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"uri": "hf://org/other@main"}, {"uri": "hf://org/tiny@v2"}, {"allow_pickle": True}, {"trust_remote_code": True}],
    ids=str,
)
def test_a_lock_of_another_source_or_choice_is_refused(
    change: dict[str, Any], hub: HubServer, tmp_path: Path, workspace: Workspace
) -> None:
    hub.add_repo("org/tiny", checkpoint())
    path = _recipe(tmp_path, "hf://org/tiny@main")
    lock_recipe(path, workspace)
    _recipe(tmp_path, **{"uri": "hf://org/tiny@main", **change})
    with pytest.raises(RecipeError, match="is a lock of") as caught:
        load_recipe(path)
    assert caught.value.where == str(lock_path(path))


def test_a_checkpoint_in_the_workspace_that_is_not_what_is_demanded_is_not_built_from(
    hub: HubServer, tmp_path: Path, workspace: Workspace
) -> None:
    hub.add_repo("org/tiny", checkpoint())
    _fetch(load_recipe(_recipe(tmp_path, "hf://org/tiny")), workspace)
    path = _recipe(tmp_path, "hf://org/tiny", digests={"config.json": "0" * 64})
    with pytest.raises(WorkspaceError, match=r"config\.json has sha256"):
        _fetch(load_recipe(path), workspace)


def test_digests_of_the_recipe_are_compared_with_any_source(hub: HubServer, tmp_path: Path, workspace: Workspace) -> None:
    files = checkpoint()
    hub.add_repo("org/tiny", files)
    cache = workspace.path("cache")
    right = {p: hashlib.sha256(files[p]).hexdigest() for p in ("config.json", "model.safetensors")}
    assert revision_of(load_recipe(_recipe(tmp_path, "hf://org/tiny", digests=right)), cache)
    wrong = _recipe(tmp_path, "hf://org/tiny", digests={"model.safetensors": "1" * 64})
    with pytest.raises(SourceError, match=r"source\.digests demands 1111"):
        revision_of(load_recipe(wrong), cache)
    unused = _recipe(tmp_path, "hf://org/tiny", digests={"README.md": "1" * 64})
    with pytest.raises(SourceError, match=r"README\.md.*not among the files"):
        revision_of(load_recipe(unused), cache)
    small = _recipe(tmp_path, "hf://org/tiny", digests={"config.json": "1" * 64})
    with pytest.raises(SourceError, match=r"is not what source\.digests demands"):
        _fetch(load_recipe(small), workspace)


def test_the_lock_travels_with_the_recipe(hub: HubServer, tmp_path: Path, workspace: Workspace) -> None:
    hub.add_repo("org/tiny", checkpoint())
    path = _recipe(tmp_path, "hf://org/tiny@main")
    unlocked = load_recipe(path)
    lock_recipe(path, workspace)
    recipe = load_recipe(path)
    assert recipe_from_json(travelling_json(recipe), recipe.digest()) == recipe
    assert recipe.build_fields() == unlocked.build_fields()
    assert recipe.checks_digest() == unlocked.checks_digest()
    assert load_recipe(path, locked=False) == unlocked


def test_the_same_bytes_from_another_source_do_not_confuse_a_download(
    hub: HubServer, ngc: NgcServer, tmp_path: Path, workspace: Workspace
) -> None:
    """Two recipes with equal bytes have one revision digest; the second's resolve overwrote the first's revision."""
    files = checkpoint()
    hub.add_repo("org/tiny", files)
    write(tmp_path / "m", files)
    ngc.add_model("org/tiny", {"1": files})
    local = load_recipe(_recipe(tmp_path / "a", f"file://{tmp_path}/m"))
    remote = load_recipe(_recipe(tmp_path / "b", "ngc://org/tiny:1"))
    revisions = [revision_of(recipe, workspace.path("cache")) for recipe in (remote, local)]
    assert revisions[0].digest == revisions[1].digest
    workspace.write_json(revisions[1].to_json(), "revisions", f"{revisions[1].digest}.json")
    done = produce_checkpoint(Job(remote, workspace, "test"), revisions[0].digest)
    assert done.record["source"] == "ngc://org/tiny"


def test_a_build_can_leave_its_own_lock(hub: HubServer, tmp_path: Path, workspace: Workspace) -> None:
    files = checkpoint()
    hub.add_repo("org/tiny", files)
    path = _recipe(tmp_path, "hf://org/tiny")
    recipe = load_recipe(path)
    _fetch(recipe, workspace)
    hub.requests.clear()
    lock = lock_of_build(recipe, workspace, revision_of(recipe, workspace.path("cache")), uri="hf://org/tiny")
    assert lock.sha256["config.json"] == hashlib.sha256(files["config.json"]).hexdigest()
    assert hub.downloads() == []
    assert lock.to_json() == lock_recipe(path, workspace).lock.to_json()


def test_a_run_refuses_a_folder_that_is_not_what_was_locked(tmp_path: Path, workspace: Workspace) -> None:
    write(tmp_path / "m", checkpoint())
    path = _recipe(tmp_path, "file://m")
    lock_recipe(path, workspace)
    (tmp_path / "m" / "config.json").write_text('{"model_type": "other"}')
    done = enginepress("run", path, "-w", workspace.root)
    assert done.returncode == 2
    assert "is not what the lock says: config.json has changed" in done.stderr
    assert "enginepress lock" in done.stderr
    assert not workspace.path("runs").exists()


def test_a_locked_source_is_resolved_without_asking_or_importing_anybody(
    hub: HubServer, s3: S3Server, tmp_path: Path, workspace: Workspace
) -> None:
    hub.add_repo("org/tiny", checkpoint())
    s3.add("bucket", checkpoint(), prefix="tiny/", sha256=True)
    paths = [_recipe(tmp_path / "a", "hf://org/tiny"), _recipe(tmp_path / "b", "s3://bucket/tiny")]
    for path in paths:
        lock_recipe(path, workspace)
    hub.requests.clear()
    s3.requests.clear()
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from enginepress.recipe_file import load_recipe\nfrom enginepress.steps.revision import revision_of\n"
        "for name in sys.argv[1:]:\n    assert revision_of(load_recipe(Path(name)), Path('cache')).files\n"
        "print(sorted({'boto3', 'huggingface_hub', 'kfp', 'mlflow', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, *map(str, paths)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert hub.requests == s3.requests == []


# The file -------------------------------------------------------------------------------------------------------------

_hex = st.text("0123456789abcdef", min_size=64, max_size=64)
_files = st.lists(
    st.builds(
        RemoteFile,
        st.from_regex(r"[a-z][a-z0-9_.-]{0,20}", fullmatch=True),
        st.integers(0, 2**50),
        st.one_of(
            st.builds(Digest, st.sampled_from(["sha256", "none"]), _hex),
            st.builds(Digest, st.just("git-sha1"), _hex.map(lambda h: h[:40])),
            st.builds(Digest, st.just("md5"), _hex.map(lambda h: h[:32])),
        ),
        st.sampled_from(["", "etag:abc", "v1"]),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda f: f.path,
)


@given(files=_files, sha256=_hex, pickle=st.booleans())
def test_a_lock_comes_back_from_its_file_as_it_was(files: list[RemoteFile], sha256: str, pickle: bool) -> None:
    ordered = tuple(sorted(files, key=lambda f: f.path))
    digests = {f.path: f.digest.value if f.digest.algorithm == "sha256" else sha256 for f in ordered}
    choices = {"allow_pickle": pickle, "trust_remote_code": False}
    lock = Lock("hf://org/n@main", choices, Revision("hf://org/n", "c" * 40, ordered), digests)
    assert parse_lock(json.loads(json.dumps(lock.to_json()))) == lock


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    data=st.dictionaries(st.sampled_from(["format", "uri", "allow_pickle", "trust_remote_code", "source", "id", "files"]), _json)
)
def test_what_is_no_lock_is_refused_in_words(data: dict[str, Any]) -> None:
    with pytest.raises(EnginepressError) as caught:
        parse_lock({**data, **({"format": 1} if "format" in data else {})})
    assert caught.value.fix or "path" in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', "{" * 5000, "\x00"])
def test_a_broken_lock_file_is_named_and_replaced_by_a_new_lock(
    content: str, hub: HubServer, tmp_path: Path, workspace: Workspace
) -> None:
    hub.add_repo("org/tiny", checkpoint())
    path = _recipe(tmp_path, "hf://org/tiny")
    lock_path(path).write_text(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.where == str(lock_path(path))
    assert "enginepress lock" in (caught.value.fix or "")
    lock_recipe(path, workspace)
    assert load_recipe(path).source.lock


def test_a_lock_that_names_a_file_outside_its_folder_is_refused(hub: HubServer, tmp_path: Path, workspace: Workspace) -> None:
    hub.add_repo("org/tiny", checkpoint())
    path = _recipe(tmp_path, "hf://org/tiny")
    lock_recipe(path, workspace)
    data = json.loads(lock_path(path).read_text())
    data["files"]["../evil"] = data["files"].pop("config.json")
    lock_path(path).write_text(json.dumps(data))
    with pytest.raises(SourceError, match="not a plain relative path"):
        load_recipe(path)


def test_a_lock_is_taken_from_a_release(hub: HubServer, tmp_path: Path, workspace: Workspace) -> None:
    hub.add_repo("org/tiny", checkpoint())
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({"name": "tiny", "source": "hf://org/tiny@main", "stores": [f"file://{tmp_path}/store"]}))
    recipe = load_recipe(path)
    plan, revision = plan_of(recipe, workspace.path("cache"), "r")
    with pytest.raises(StoreError, match="no release 1"):
        lock_from_release(path, 1)
    pretend_release(recipe, plan, revision, tmp_path)
    with pytest.raises(StoreError, match="has no lock beside it"):
        lock_from_release(path, 1)
    lock = lock_of_build(recipe, workspace, revision, uri=recipe.source.uri)
    open_store(recipe.stores[0]).write_record("tiny", 1, "lock", lock.to_json())
    hub.commit("org/tiny", checkpoint(seed=2))
    taken = lock_from_release(path, 1)
    assert taken.lock.revision.id == revision.id
    locked = load_recipe(path)
    assert plan_of(locked, workspace.path("cache"), "r")[0].release == 1, "the release is what the locked recipe builds"
    path.write_text(path.read_text().replace("org/tiny", "org/other"))
    with pytest.raises(StoreError, match="was built from"):
        lock_from_release(path, 1)
