"""The registry on SQLite, which is the default."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from enginepress.errors import RegistryError
from enginepress.mlflow_access import session
from enginepress.recipe import Registry
from enginepress.registry import MlflowRegistry
from tests.registry.conftest import Register, manifest_of, register_with
from tests.stores.parts import MODEL, key


def rows(uri: str, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        return database.execute(query).fetchall()


def test_a_release_becomes_a_version_with_a_run_that_says_how_it_came_about(
    register: Register, registry: MlflowRegistry, uri: str, tmp_path: Path
) -> None:
    done = register(7)
    assert done.tracking_uri == uri
    (version,) = registry.describe(MODEL)
    assert (version.model_version, version.release, version.build_key) == (1, 7, key("a"))
    assert version.manifest_digest == manifest_of(7, key("a")).digest
    assert version.stores == ("file:///srv/models",)
    assert (version.run_id, version.aliases) == (done.run_id, ())
    with session(uri, Registry(), doing="looking") as client:
        run = client.get_run(done.run_id)
        source = client.get_model_version(MODEL, "1").source
    assert run.info.status == "FINISHED"
    assert run.data.params == {"engine.precision": "int4", "serving.threads": "2", "weird_key": '["a",1]'}
    assert run.data.metrics == {"tokens_per_second": 123.5, "seconds.build": 7.25, "seconds.verify": 3.0}
    assert source == "enginepress://tiny/7?store=file:///srv/models"
    folder = tmp_path / "workspace/mlflow-artifacts" / done.run_id / "artifacts"
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "report.json", "report.md"]


def test_nothing_is_written_into_the_current_folder_or_said(tmp_path: Path, uri: str) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "workspace").mkdir()
    program = [sys.executable, "-m", "tests.registry.program", uri, "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(program, cwd=here, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "ready\n1\n"
    assert done.stderr == ""
    assert list(here.iterdir()) == []


def test_registering_again_makes_nothing_new_but_brings_the_stores_up_to_date(
    register: Register, registry: MlflowRegistry, uri: str
) -> None:
    first = register(7)
    assert register(7, stores=["file:///srv/models", "file:///backup"], metrics={"tokens_per_second": 1.0}) == first
    (version,) = registry.describe(MODEL)
    assert version.stores == ("file:///srv/models", "file:///backup")
    assert rows(uri, "select count(*) from runs") == [(1,)]
    assert rows(uri, "select count(*) from metrics where key = 'tokens_per_second'") == [(1,)]


def test_the_same_number_of_another_build_is_another_version(register: Register, registry: MlflowRegistry) -> None:
    register(7)
    register(7, key("b"))
    register(8, key("b"))
    assert [(v.model_version, v.release) for v in registry.describe(MODEL)] == [(1, 7), (2, 7), (3, 8)]
    registry.set_alias(MODEL, "production", 7)
    assert registry.describe(MODEL)[1].aliases == ("production",)


def test_more_parameters_and_metrics_than_one_request_takes_all_arrive(register: Register, uri: str) -> None:
    done = register(1, params={f"p{i}": "x" * 7000 for i in range(250)}, metrics={f"m{i}": float(i) for i in range(120)})
    with session(uri, Registry(), doing="looking") as client:
        data = client.get_run(done.run_id).data
    assert len(data.params) == 250
    assert len(data.metrics) == 122
    assert {len(v) for v in data.params.values()} == {6000}


# Aliases --------------------------------------------------------------------------------------------------------------


def test_an_alias_follows_its_channel(register: Register, registry: MlflowRegistry) -> None:
    assert registry.alias(MODEL, "production") is None
    for release in (1, 2):
        register(release, key(f"k{release}"))
        registry.set_alias(MODEL, "production", release)
        assert registry.alias(MODEL, "production") == release
    registry.set_alias(MODEL, "production", 1)
    assert [v.aliases for v in registry.describe(MODEL)] == [("production",), ()]


def test_an_alias_for_a_release_that_is_not_registered_is_refused_with_the_command_that_mends_it(
    registry: MlflowRegistry,
) -> None:
    with pytest.raises(RegistryError, match="release 3 of tiny is not registered") as caught:
        registry.set_alias(MODEL, "production", 3)
    assert "doctor TARGET --repair" in (caught.value.fix or "")


def test_lost_aliases_and_versions_can_be_made_again(register: Register, registry: MlflowRegistry, uri: str) -> None:
    register(1)
    registry.set_alias(MODEL, "production", 1)
    with session(uri, Registry(), doing="damaging") as client:
        client.delete_registered_model(MODEL)
    assert registry.describe(MODEL) == []
    assert registry.alias(MODEL, "production") is None
    register(1)
    registry.set_alias(MODEL, "production", 1)
    assert registry.alias(MODEL, "production") == 1
    assert rows(uri, "select count(*) from runs") == [(1,)]


def test_an_alias_that_somebody_put_on_a_foreign_version_is_no_release(
    register: Register, registry: MlflowRegistry, uri: str
) -> None:
    register(1)
    with session(uri, Registry(), doing="preparing") as client:
        foreign = client.create_model_version(MODEL, "s3://somewhere/else")
        client.set_registered_model_alias(MODEL, "production", str(foreign.version))
    assert registry.alias(MODEL, "production") is None
    assert [v.release for v in registry.describe(MODEL)] == [1]


@pytest.mark.parametrize("channel", ["latest", "v3"])
def test_names_that_mlflow_keeps_for_itself_are_refused_in_its_words(
    register: Register, registry: MlflowRegistry, channel: str
) -> None:
    register(1)
    with pytest.raises(RegistryError, match="reserved"):
        registry.set_alias(MODEL, channel, 1)


# What was killed or done twice ----------------------------------------------------------------------------------------


def test_a_run_that_was_left_half_made_is_finished(register: Register, registry: MlflowRegistry, uri: str) -> None:
    done = register(7)
    with session(uri, Registry(), doing="damaging") as client:
        client.delete_registered_model(MODEL)
        client.update_run(done.run_id, status="RUNNING")
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        database.execute("delete from params where key = 'engine.precision'")
        database.execute("delete from latest_metrics where key = 'seconds.build'")
    again = register(7)
    assert again.run_id == done.run_id
    with session(uri, Registry(), doing="looking") as client:
        run = client.get_run(done.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["engine.precision"] == "int4"
    assert run.data.metrics["seconds.build"] == 7.25
    assert rows(uri, "select count(*) from metrics where key = 'tokens_per_second'") == [(1,)]


def test_a_second_version_of_the_same_release_is_removed_by_the_next_registration(
    register: Register, registry: MlflowRegistry, uri: str
) -> None:
    done = register(7)
    with session(uri, Registry(), doing="damaging") as client:
        first = client.get_model_version(MODEL, "1")
        second_run = client.create_run(client.get_run(done.run_id).info.experiment_id)
        client.create_model_version(MODEL, first.source, run_id=second_run.info.run_id, tags=first.tags)
    assert len(registry.describe(MODEL)) == 2
    assert register(7) == done
    assert [v.model_version for v in registry.describe(MODEL)] == [1]
    assert rows(uri, "select run_uuid from runs where lifecycle_stage = 'active'") == [(done.run_id,)]


def test_two_processes_that_register_at_once_on_a_new_database_make_one_version(registry: MlflowRegistry, uri: str) -> None:
    Path(uri.removeprefix("sqlite:///")).unlink()
    program = [sys.executable, "-m", "tests.registry.program", uri, "1"]
    workers = [subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [w.communicate(timeout=120) for w in workers]
    assert [out for out, _ in outputs] == ["ready\n1\n"] * 2, outputs
    assert [v.release for v in registry.describe(MODEL)] == [1]
    assert rows(uri, "select count(*) from runs") == [(1,)]


@pytest.mark.parametrize("delay", [0.0, 0.3, 0.9])
def test_a_kill_while_the_tables_are_made_leaves_no_database_that_cannot_be_opened(
    registry: MlflowRegistry, tmp_path: Path, report: list[Path], delay: float
) -> None:
    path = tmp_path / "new.db"
    uri = f"sqlite:///{path}"
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.registry.program", uri, "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size for p in tmp_path.glob("new.db.new-*")) and not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(delay)
    worker.kill()
    worker.communicate()
    assert register_with(MlflowRegistry(Registry(tracking_uri=uri), default_uri=""), 1, key("a"), report).model_version == 1
    assert not list(tmp_path.glob("new.db.new-*"))


@pytest.mark.slow
def test_registrations_killed_at_any_moment_leave_one_version_once_one_gets_through(
    registry: MlflowRegistry, uri: str, report: list[Path]
) -> None:
    register_with(registry, 1, key("first"), report)
    program = [sys.executable, "-m", "tests.registry.program", uri]
    start = time.monotonic()
    subprocess.run([*program, "2"], check=True, capture_output=True)
    whole = time.monotonic() - start
    for turn in range(16):
        worker = subprocess.Popen([*program, "3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(whole * (0.55 + 0.03 * turn))
        worker.kill()
        worker.communicate()
    register_with(registry, 3, key("a"), report)
    assert [v.release for v in registry.describe(MODEL)] == [1, 2, 3]
    assert rows(uri, "select count(*) from runs where status = 'FINISHED'") == [(3,)]
    assert rows(uri, "select count(*) from runs") == [(3,)]


# Bad databases --------------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_named_at_once(registry: MlflowRegistry, uri: str) -> None:
    path = Path(uri.removeprefix("sqlite:///"))
    path.write_bytes(b"not a database, but long enough to be read as one" * 100)
    start = time.monotonic()
    with pytest.raises(RegistryError, match="cannot be used as MLflow's database: file is not a database") as caught:
        registry.describe(MODEL)
    assert time.monotonic() - start < 2
    assert caught.value.where == str(path)


@pytest.mark.slow  # MLflow tries for a minute
def test_a_database_in_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    registry = MlflowRegistry(Registry(), default_uri=f"sqlite:///{tmp_path}/file/mlflow.db")
    with pytest.raises(RegistryError, match="reading the registered model tiny failed"):
        registry.describe(MODEL)


def test_a_deleted_experiment_is_named_with_the_field(register: Register, uri: str) -> None:
    register(1)
    with session(uri, Registry(), doing="damaging") as client:
        client.delete_experiment(client.get_experiment_by_name("enginepress").experiment_id)
    with pytest.raises(RegistryError, match="the experiment 'enginepress' was deleted") as caught:
        register(2, key("b"))
    assert caught.value.where == "registry.experiment"


def test_the_environment_is_as_it_was_afterwards(registry: MlflowRegistry) -> None:
    before = dict(os.environ)
    registry.describe(MODEL)
    assert {k: v for k, v in os.environ.items() if k.startswith(("MLFLOW", "GIT"))} == {
        k: v for k, v in before.items() if k.startswith(("MLFLOW", "GIT"))
    }
