"""Finding a server, and refusing the surroundings in which the wheel's would fail or do damage."""

from __future__ import annotations

import os
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from enginepress.errors import ServerError
from enginepress.serving.installation import (
    ENVIRONMENT,
    Installation,
    PythonFacts,
    check_glibc,
    check_python,
    find_installation,
    prepare,
    probe_python,
)
from enginepress.serving.tritonserver import TritonServer
from tests.serving.processes import leftovers
from tests.serving.toy_model import write_model

KNOWN = ["3.10", "3.11", "3.8", "3.9"]


def make_program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    return path


def make_environment(folder: Path, *, numpy: str | None) -> Path:
    """A virtual environment whose numpy is a file that only has a version; returns its interpreter."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next((folder / "lib").glob("python3.*")) / "site-packages"
    if numpy is not None:
        (packages / "numpy").mkdir()
        (packages / "numpy" / "__init__.py").write_text(f"__version__ = {numpy!r}\n")
    return folder / "bin" / "python3"


# Finding ----------------------------------------------------------------------------------------------------------------


def test_without_anything_else_the_wheels_server_is_taken(tmp_path: Path) -> None:
    found = find_installation({"PATH": str(tmp_path)})
    assert found.from_wheel
    assert os.access(found.binary, os.X_OK)


def test_the_server_on_path_comes_before_the_wheels(tmp_path: Path) -> None:
    program = make_program(tmp_path / "tritonserver")
    assert find_installation({"PATH": str(tmp_path)}) == Installation(program, from_wheel=False)


def test_the_named_server_comes_before_the_one_on_path(tmp_path: Path) -> None:
    make_program(tmp_path / "tritonserver")
    named = make_program(tmp_path / "mine" / "server")
    assert find_installation({"PATH": str(tmp_path), ENVIRONMENT: str(named)}) == Installation(named, from_wheel=False)


def test_the_wheels_server_is_known_under_any_name(tmp_path: Path) -> None:
    link = tmp_path / "tritonserver"
    link.symlink_to(find_installation({"PATH": "/nowhere"}).binary)
    assert find_installation({"PATH": str(tmp_path)}).from_wheel


@pytest.mark.parametrize("what", ["missing", "a folder", "not a program"])
def test_a_named_server_that_cannot_be_run_is_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "server"
    if what == "a folder":
        path.mkdir()
    elif what == "not a program":
        path.write_text("text")
    with pytest.raises(ServerError, match="is not a program that can be run") as caught:
        find_installation({"PATH": "", ENVIRONMENT: str(path)})
    assert caught.value.where == ENVIRONMENT


def test_a_server_of_the_machines_own_is_started_as_it_is(tmp_path: Path) -> None:
    program = make_program(tmp_path / "tritonserver")
    launch = prepare(Installation(program, from_wheel=False), tmp_path / "scratch", environment={"PATH": "/bin", "X": "1"})
    assert launch.argv == (str(program),)
    assert launch.env == {"PATH": "/bin", "X": "1"}
    assert not (tmp_path / "scratch").exists()


# The wheel's surroundings -----------------------------------------------------------------------------------------------


def test_the_backend_folder_gets_a_stub_that_can_be_run(tmp_path: Path) -> None:
    launch = prepare(
        find_installation({"PATH": ""}), tmp_path, environment={"PATH": "/bin", "PYTHONPATH": "/x", "PYTHONHOME": "/y"}
    )
    stub = tmp_path / "backends" / "python" / "triton_python_backend_stub"
    assert os.access(stub, os.X_OK)
    assert launch.argv[1] == f"--backend-directory={tmp_path / 'backends'}"
    assert launch.env["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/bin"]
    assert str(sysconfig.get_config_var("LIBDIR")) in launch.env["LD_LIBRARY_PATH"].split(os.pathsep)
    assert not {"PYTHONPATH", "PYTHONHOME"} & set(launch.env)


def test_numpy_2_where_the_server_would_find_it_stops_it_before_it_starts(tmp_path: Path, log: Path) -> None:
    python = make_environment(tmp_path / "env", numpy="2.1.3")
    server = TritonServer(write_model(tmp_path / "r"), log=log, python=python)
    with pytest.raises(ServerError) as caught:
        server.start()
    assert "the Triton server would see numpy 2.1.3" in caught.value.message
    assert str(tmp_path / "env") in caught.value.message
    assert caught.value.fix == f"{python} -m pip install 'numpy>=1.26,<2'"
    assert not log.exists()


def test_numpy_2_of_another_environment_that_stands_first_on_path_is_seen(tmp_path: Path) -> None:
    """An environment without a `python3` of its own leaves the server to whatever comes next on PATH."""
    python = make_environment(tmp_path / "other", numpy="2.0.0rc1")
    alone = make_program(tmp_path / "mine" / "bin" / "python")
    environment = {"PATH": f"{python.parent}{os.pathsep}/bin"}
    with pytest.raises(ServerError, match=r"numpy 2\.0\.0rc1") as caught:
        prepare(find_installation({"PATH": ""}), tmp_path / "scratch", python=alone, environment=environment)
    assert caught.value.where == str(python)


def test_a_server_environment_without_numpy_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env", numpy=None)
    with pytest.raises(ServerError, match="numpy is missing") as caught:
        prepare(find_installation({"PATH": ""}), tmp_path / "scratch", python=python)
    assert caught.value.fix == f"{python} -m pip install 'numpy>=1.26,<2'"


def test_the_models_see_the_packages_of_the_interpreter_that_was_asked(tmp_path: Path, log: Path) -> None:
    """That the probe and the server mean the same environment, shown by the server itself."""
    python = make_environment(tmp_path / "env", numpy=None)
    packages = next((tmp_path / "env" / "lib").glob("python3.*")) / "site-packages"
    ours = next(p for p in sys.path if p.endswith("site-packages") and (Path(p) / "numpy").is_dir())
    (packages / "ours.pth").write_text(ours)
    repository = write_model(tmp_path / "r", at_import='import sys; print("PREFIX", sys.prefix, flush=True)')
    with TritonServer(repository, log=log, python=python, exit_timeout_s=0, ready_timeout_s=30):
        assert f"PREFIX {tmp_path / 'env'}" in log.read_text()
    assert leftovers(log) == []


def test_a_python_that_does_not_run_is_named_with_its_last_words(tmp_path: Path) -> None:
    program = make_program(tmp_path / "python3")
    program.write_text("#!/bin/sh\necho broken installation >&2\nexit 4\n")
    with pytest.raises(ServerError, match="does not run: broken installation") as caught:
        probe_python({"PATH": str(tmp_path)})
    assert caught.value.where == str(program)


def test_no_python_on_the_servers_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no `python3` on the server's PATH"):
        probe_python({"PATH": str(tmp_path)})


def facts(**changed: object) -> PythonFacts:
    known: dict[str, object] = {
        "interpreter": Path("/env/bin/python3"),
        "version": "3.11",
        "library": "libpython3.11.so.1.0",
        "library_folders": (str(sysconfig.get_config_var("LIBDIR")),),
        "numpy": "1.26.4",
        "numpy_file": "/env/numpy/__init__.py",
    }
    return PythonFacts(**{**known, **changed})  # type: ignore[arg-type]


def test_a_python_version_without_a_stub_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(ServerError, match=r"no Python backend for Python 3\.14, only for 3\.8, 3\.9, 3\.10, 3\.11"):
        check_python(facts(version="3.14"), known_versions=KNOWN)


def test_a_python_without_a_shared_library_is_refused() -> None:
    with pytest.raises(ServerError, match=r"no shared library libpython3\.8\.so\.1\.0"):
        check_python(facts(version="3.8", library="libpython3.8.so.1.0", library_folders=()), known_versions=KNOWN)


@pytest.mark.parametrize(
    ("numpy", "refused"), [("1.26.4", False), ("1.21.0", False), ("2.0.0", True), ("2.3.1.dev0", True), ("10.0", True)]
)
def test_only_numpy_before_2_is_taken(numpy: str, refused: bool) -> None:
    if refused:
        with pytest.raises(ServerError, match="numpy 2 corrupts strings"):
            check_python(facts(numpy=numpy, library_folders=("/usr/lib",), library="."), known_versions=KNOWN)
    else:
        check_python(facts(numpy=numpy, library_folders=("/usr/lib",), library="."), known_versions=KNOWN)


@pytest.mark.parametrize("version", ["2.35", "2.36", "2.41", "3.0"])
def test_a_new_enough_c_library_is_taken(version: str) -> None:
    check_glibc(version)


@pytest.mark.parametrize(("version", "said"), [("2.34", "glibc 2.34"), ("2.4", "glibc 2.4"), (None, "another C library")])
def test_an_old_or_other_c_library_is_refused(version: str | None, said: str) -> None:
    with pytest.raises(ServerError, match=f"needs glibc 2.35 or later; this machine has {said}"):
        check_glibc(version)
