"""`enginepress validate`: what is printed, and the exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.repository import samples


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from enginepress.cli import main; main()", "validate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_good_repository_ends_with_0_and_one_line(tmp_path: Path) -> None:
    done = _run(str(samples.write(tmp_path, samples.chain())))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}: repository, 4 models: no errors, no warnings\n"


def test_errors_end_with_1_and_say_file_problem_and_remedy(tmp_path: Path) -> None:
    files = samples.chain()
    files["first/config.pbtxt"] = str(files["first/config.pbtxt"]).replace("max_batch_size", "batch_size")
    done = _run(str(samples.write(tmp_path, files)))
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [
        "error: first/config.pbtxt: line 3: ModelConfig has no field 'batch_size'",
        "  -> did you mean 'max_batch_size'?",
        f"{tmp_path}: repository, 4 models: 1 error, no warnings",
    ]


def test_json_holds_everything(tmp_path: Path) -> None:
    files = samples.onnx()
    files["scorer/1/model.onnx"] = b""
    done = _run(str(samples.write(tmp_path, files)), "--json")
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    assert (result["ok"], result["kind"], result["release"], result["models"]) == (False, "repository", 1, ["scorer"])
    (finding,) = result["findings"]
    assert (finding["severity"], finding["model"], finding["file"]) == ("error", "scorer", "scorer/1/model.onnx")


def test_a_path_that_is_not_there_ends_with_2(tmp_path: Path) -> None:
    done = _run(str(tmp_path / "missing"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert "there is no such folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_validating_imports_neither_grpc_nor_pydantic(tmp_path: Path) -> None:
    folder = samples.write(tmp_path, samples.tensorrt_llm())
    code = (
        "import sys\nfrom pathlib import Path\nfrom enginepress.repository.validate import validate\n"
        f"assert validate(Path({str(folder)!r})).ok\n"
        "heavy = {'grpc', 'pydantic', 'numpy', 'torch', 'mlflow', 'kfp', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
