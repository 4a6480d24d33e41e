"""outdated: one small request a source, what moved since the lock or the newest release, failures kept apart."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginepress.errors import SourceError
from enginepress.recipe_file import load_recipe
from enginepress.sources.local import LocalSource
from enginepress.steps.latest import LatestRevisions
from enginepress.steps.lock import lock_recipe
from enginepress.steps.outdated import outdated
from enginepress.stores.filesystem import FileStore
from enginepress.workspace import Workspace
from tests.faulty_http import Fault
from tests.run.recipes import enginepress
from tests.s3_server import S3Server
from tests.sources.hub_server import Fault as HubFault
from tests.sources.hub_server import HubServer
from tests.sources.ngc_server import NgcServer
from tests.sources.tiny import checkpoint, write
from tests.stores.parts import key, make_source, manifest, placed


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


@pytest.fixture
def ngc(monkeypatch: pytest.MonkeyPatch) -> Iterator[NgcServer]:
    monkeypatch.delenv("NGC_API_KEY", raising=False)
    with NgcServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def _recipe(path: Path, uri: str, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"name": path.stem, "source": uri, "stores": [f"file://{path.parent}/store"], **changes}))
    return path


def test_a_branch_that_moved_since_it_was_locked_is_told_for_one_request(
    hub: HubServer, tmp_path: Path, workspace: Workspace
) -> None:
    first = hub.add_repo("org/tiny", checkpoint())
    path = _recipe(tmp_path / "tiny.yaml", "hf://org/tiny@main")
    lock_recipe(path, workspace)
    hub.requests.clear()
    (state,) = outdated([path], workspace.path("cache"))
    assert (state.status, state.since, state.known, state.latest) == ("current", "lock", first, first)
    second = hub.commit("org/tiny", checkpoint(seed=2))
    (state,) = outdated([path], workspace.path("cache"))
    assert (state.status, state.known, state.latest) == ("moved", first, second)
    assert [r.path for r in hub.requests] == ["/api/models/org/tiny/revision/main"] * 2


def test_the_etag_of_the_last_answer_is_sent_and_believed(hub: HubServer, tmp_path: Path, workspace: Workspace) -> None:
    first = hub.add_repo("org/tiny", checkpoint())
    path = _recipe(tmp_path / "tiny.yaml", "hf://org/tiny")
    cache = workspace.path("cache")
    assert outdated([path], cache)[0].latest == first
    answers = json.loads((cache / "latest.json").read_text())
    assert [a["id"] for a in answers.values()] == [first]
    assert outdated([path], cache)[0].latest == first
    assert hub.unchanged == 1
    (cache / "latest.json").write_text("{broken")
    assert outdated([path], cache)[0].latest == first
    newer = hub.commit("org/tiny", checkpoint(seed=2))
    assert outdated([path], cache)[0].latest == newer


def test_a_recipe_without_a_lock_is_compared_with_its_newest_release(tmp_path: Path, workspace: Workspace) -> None:
    folder = write(tmp_path / "m", checkpoint())
    path = _recipe(tmp_path / "tiny.yaml", f"file://{folder}")
    assert outdated([path], workspace.path("cache"))[0].status == "new"
    revision = LocalSource(folder).resolve()
    made_from = {"source": revision.source, "revision": revision.id, "revision_digest": revision.digest}
    FileStore(tmp_path / "store").publish(
        "tiny",
        place=placed(make_source(tmp_path / "repository")),
        describe=lambda number, files: replace(manifest(number, files, key("a")), made_from=made_from),
    )
    (state,) = outdated([path], workspace.path("cache"))
    assert (state.status, state.since) == ("current", "release 1")
    (folder / "config.json").write_text('{"model_type": "other"}')
    assert outdated([path], workspace.path("cache"))[0].status == "moved"
    other = write(tmp_path / "other", checkpoint())
    assert outdated([_recipe(path, f"file://{other}")], workspace.path("cache"))[0].status == "new"


def test_the_latest_of_ngc_may_move_and_a_named_version_may_not(ngc: NgcServer, tmp_path: Path, workspace: Workspace) -> None:
    model = ngc.add_model("org/tiny", {"1.0": checkpoint()})
    paths = [_recipe(tmp_path / "a.yaml", "ngc://org/tiny"), _recipe(tmp_path / "b.yaml", "ngc://org/tiny:1.0")]
    for path in paths:
        lock_recipe(path, workspace)
    model.versions["1.1"] = checkpoint(seed=2)
    ngc.requests.clear()
    latest, named = outdated(paths, workspace.path("cache"))
    assert (latest.status, latest.known, latest.latest) == ("moved", "1.0", "1.1")
    assert (named.status, named.latest, named.note) == ("current", "1.0", "version 1.1 is newer")
    assert len(ngc.requests) == 2


def test_many_models_of_one_org_cost_one_exchange_of_an_older_key(
    ngc: NgcServer, tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "bGVnYWN5LWtleS1vZi1hbi1vcmc"
    monkeypatch.setenv("NGC_API_KEY", key)
    for number in range(20):
        ngc.add_model(f"org/tiny-{number}", {"1": checkpoint()}, keys={key})
    paths = [_recipe(tmp_path / f"{n}.yaml", f"ngc://org/tiny-{n}") for n in range(20)]
    assert {s.status for s in outdated(paths, workspace.path("cache"))} == {"new"}
    assert [r.path for r in ngc.requests].count("/token") == 1
    assert len(ngc.requests) == 21


def test_objects_that_were_written_are_told(tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3")
    with S3Server() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        s3.add("bucket", checkpoint(), prefix="tiny/")
        path = _recipe(tmp_path / "tiny.yaml", "s3://bucket/tiny")
        lock_recipe(path, workspace)
        s3.requests.clear()
        assert outdated([path], workspace.path("cache"))[0].status == "current"
        s3.add("bucket", {"tiny/config.json": b"{}"})
        assert outdated([path], workspace.path("cache"))[0].status == "moved"
        assert len(s3.requests) == 2


def test_a_pinned_commit_costs_no_request(hub: HubServer, tmp_path: Path, workspace: Workspace) -> None:
    commit = hub.add_repo("org/tiny", checkpoint())
    path = _recipe(tmp_path / "tiny.yaml", f"hf://org/tiny@{commit}")
    lock_recipe(path, workspace)
    hub.requests.clear()
    assert outdated([path], workspace.path("cache"))[0].status == "current"
    assert hub.requests == []


def test_what_fails_is_told_and_touches_no_other(
    hub: HubServer, ngc: NgcServer, tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/tiny", checkpoint())
    ngc.add_model("org/tiny", {"1": checkpoint()})
    ngc.faults.append(Fault("*", status=403, times=-1))
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    paths = [
        _recipe(tmp_path / "good.yaml", "hf://org/tiny"),
        _recipe(tmp_path / "missing.yaml", "hf://org/missing"),
        broken,
        _recipe(tmp_path / "refused.yaml", "ngc://org/tiny"),
        tmp_path / "nonexistent.yaml",
        _recipe(tmp_path / "token.yaml", "hf://org/tiny", source={"uri": "hf://org/tiny", "token": "${NOT_SET_AT_ALL}"}),
        _recipe(tmp_path / "good2.yaml", "hf://org/tiny"),
    ]
    states = outdated(paths, workspace.path("cache"))
    assert [s.status for s in states] == ["new", "failed", "failed", "failed", "failed", "failed", "new"]
    assert all(s.error and s.fix for s in states if s.status == "failed")
    assert "NOT_SET_AT_ALL" in states[5].error


def test_who_is_interrupted_does_not_wait_for_a_hub_that_asks_to_be_left_alone(
    hub: HubServer, tmp_path: Path, workspace: Workspace
) -> None:
    hub.add_repo("org/tiny", checkpoint())
    hub.faults.append(HubFault("/api/*", status=429, rate_limit='"api";r=0;t=299', times=-1))

    def ask(path: Path) -> str:
        if path.name == "interrupt.yaml":
            while not hub.requests:
                time.sleep(0.01)
            raise KeyboardInterrupt
        with pytest.raises(SourceError, match="fewer requests"):
            latest.id(load_recipe(path, need_reference=False).source)
        return "refused"

    paths = [_recipe(tmp_path / "interrupt.yaml", "hf://org/tiny"), _recipe(tmp_path / "a.yaml", "hf://org/tiny")]
    with LatestRevisions(workspace.path("cache")) as latest, pytest.raises(KeyboardInterrupt):
        latest.for_each(paths, ask, at_once=2)


def test_what_fails_on_a_disk_or_in_a_bucket_touches_no_other(
    hub: HubServer, tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("boto3")
    hub.add_repo("org/tiny", checkpoint())
    uris = {"hub": "hf://org/tiny", "gone": "file:///nowhere/at/all", "empty": "s3://bucket/none", "bucket": "s3://other/tiny"}
    with S3Server() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        s3.add("bucket", {"tiny/config.json": b"{}"})
        uris |= {"kept": "s3://bucket/tiny", "folder": f"file://{write(tmp_path / 'm', checkpoint())}"}
        states = outdated([_recipe(tmp_path / f"{n}.yaml", uri) for n, uri in uris.items()], workspace.path("cache"))
    assert {s.name: s.status for s in states} == {
        **dict.fromkeys(("hub", "kept", "folder"), "new"),
        **dict.fromkeys(("gone", "empty", "bucket"), "failed"),
    }
    assert all(s.error and s.fix for s in states if s.status == "failed")


def test_the_commands_lock_and_tell(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("org/tiny", checkpoint())
    path = _recipe(tmp_path / "r" / "tiny.yaml", "hf://org/tiny")
    place = ["-w", str(tmp_path / "workspace")]
    locked = enginepress("lock", path, *place)
    assert locked.returncode == 0, locked.stderr
    assert "locked hf://org/tiny to" in locked.stdout
    assert "nothing has changed" in enginepress("lock", path, *place).stdout
    hub.commit("org/tiny", checkpoint(seed=2))
    told = enginepress("outdated", path.parent, *place)
    assert told.returncode == 0, told.stderr
    assert "moved" in told.stdout
    (state,) = json.loads(enginepress("outdated", path.parent, "--json", *place).stdout)
    assert (state["status"], state["since"], state["error"]) == ("moved", "lock", "")
    relocked = json.loads(enginepress("lock", path, "--json", *place).stdout)
    assert relocked["id"] == state["latest"]
    assert "config.json has changed" in relocked["changes"]
    _recipe(tmp_path / "r" / "gone.yaml", "hf://org/gone")
    failing = enginepress("outdated", path.parent, *place)
    assert failing.returncode == 1
    assert "org/gone" in failing.stderr
    assert "current" in failing.stdout
    assert "Traceback" not in failing.stderr
