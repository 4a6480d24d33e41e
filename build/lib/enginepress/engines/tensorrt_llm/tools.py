"""Where NVIDIA's tools are in the container in use, and what they take according to themselves.

`trtllm-build` is on PATH; the conversion scripts are Python files in the examples, which moved between releases and images.
They run with the Python that trtllm-build's first line names, since some images keep TensorRT-LLM in an environment of its own.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from enginepress.engines.tensorrt_llm.architectures import FAMILIES
from enginepress.engines.tensorrt_llm.failures import explain
from enginepress.engines.tensorrt_llm.flags import check_arguments, parse_help
from enginepress.errors import BuildError
from enginepress.process import last_lines, run_logged

EXAMPLES = "ENGINEPRESS_TRTLLM_EXAMPLES"
"""Environment variable: the folder of TensorRT-LLM's examples, if it is not where NVIDIA's images have it."""

KNOWN_EXAMPLES = ("/app/examples", "/app/tensorrt_llm/examples")
QUANTIZE = "quantization/quantize.py"


@dataclass(frozen=True)
class Tools:
    """What was found here.

    Attributes:
        build: trtllm-build.
        python: the interpreter that has TensorRT-LLM.
        examples: folders to look for scripts in.
        image: reference of the container that should be in use, for messages.
    """

    build: Path
    python: Path
    examples: tuple[Path, ...]
    image: str

    def command(self, tool: str) -> list[str]:
        """How to call a tool by its contract's name.

        Raises:
            BuildError: if its script is nowhere, naming every place.
        """
        if tool == "trtllm-build":
            return [str(self.build)]
        return [str(self.python), str(self._script(tool))]

    def _script(self, tool: str) -> Path:
        if tool == "quantize":
            places = [QUANTIZE]
        else:
            places = [f"{place}/convert_checkpoint.py" for place in FAMILIES[tool.removeprefix("convert-")].places()]
        tried = [root / place for root in self.examples for place in places]
        found = next((path for path in tried if path.is_file()), None)
        if found is None:
            raise BuildError(
                f"TensorRT-LLM's {Path(places[0]).name} for this model is in none of its known places: "
                + ", ".join(map(str, tried)),
                fix=f"run this step in {self.image}, or set {EXAMPLES} to the examples of the installed version",
            )
        return found


def find_tools(image: str, environment: Mapping[str, str] | None = None) -> Tools:
    """The tools of the container that this process runs in.

    Raises:
        BuildError: if trtllm-build is not on PATH, naming the image in which it is.
    """
    environment = os.environ if environment is None else environment
    build = shutil.which("trtllm-build", path=environment.get("PATH"))
    if build is None:
        raise BuildError(
            "trtllm-build is not here, so this is not a container with TensorRT-LLM's engine flow",
            where="PATH",
            fix=f"run this step in {image}",
        )
    own = environment.get(EXAMPLES)
    roots = (Path(own),) if own else tuple(map(Path, KNOWN_EXAMPLES))
    return Tools(Path(build), _python_of(Path(build), environment), roots, image)


def _python_of(script: Path, environment: Mapping[str, str]) -> Path:
    """The interpreter in a console script's first line, or python3 on PATH."""
    with open(script, "rb") as stream:
        first = stream.readline(512).decode(errors="replace").strip()
    words = first.removeprefix("#!").split() if first.startswith("#!") else []
    if words and re.fullmatch(r"python[\d.]*", Path(words[0]).name) and Path(words[0]).is_file():
        return Path(words[0])
    return Path(shutil.which("python3", path=environment.get("PATH")) or "python3")


def check_against_help(
    command: Sequence[str], arguments: Sequence[str], *, tool: str, version: str, env: Mapping[str, str], cwd: Path
) -> None:
    """Asks the tool itself whether it takes these arguments, before it is let near a GPU.

    Args:
        command: how to call the tool.
        cwd: scratch; the help text is kept there as `<tool>.help`.

    Raises:
        BuildError: naming each flag or value that it does not take and what is near, or why it does not even start.
    """
    text = cwd / f"{tool}.help"
    status = run_logged([*command, "--help"], log=text, env=env, cwd=cwd)
    content = text.read_text(encoding="utf-8", errors="replace")
    known = parse_help(content, tool=tool, version=version)
    if status != 0 or not known.flags:
        what, fix = explain(content, status)
        raise BuildError(f"{tool} does not start: {what}\n{last_lines(text)}", where=command[-1], fix=fix)
    # It names no types and nothing as required, so names, values and choices are compared.
    if problems := check_arguments(arguments, known):
        raise BuildError(
            f"{tool} of TensorRT-LLM {version} does not take what would be passed to it: {'; '.join(problems)}",
            where=command[-1],
            fix="leave the named options out of engine.options, or take a container whose version is in docs/tensorrt_llm.md",
        )
