"""What a Triton log says about why a model did not load. Pure functions of its text.

Triton 2.51 writes, among much else:

    E… model_lifecycle.cc:642] "failed to load 'm' version 1: Internal: KeyError: 'boom'\\n\\nAt:\\n  m/1/model.py(5): load\\n"
    E… model_repository_manager.cc:1460] "Poll failed for model directory 'm': failed to read text proto from …"
    E… model_repository_manager.cc:1415] "failed to poll model 'm': model not found in any model repository."
    I… pb_stub.cc:2105]  Failed to preinitialize Python stub: Python model file not found in 'r/m/0/model.py'

After the last of these the server waits for ever, so it has to be noticed here.
"""

from __future__ import annotations

import re

_FAILED = re.compile(
    r"""^[EWI]\S*\ .*?\]\ +"(?:failed\ to\ load\ '(?P<load>[^']+)'\ version\ \d+
        |Poll\ failed\ for\ model\ directory\ '(?P<directory>[^']+)'
        |failed\ to\ poll\ model\ '(?P<poll>[^']+)'):\ (?P<reason>.*?)"?\s*$""",
    re.VERBOSE | re.MULTILINE,
)
_STUB_FAILED = re.compile(r"Failed to preinitialize Python stub: (?P<reason>.*?)\s*$", re.MULTILINE)
_NO_BACKEND = re.compile(r"No module named '(?:tensorrt_llm|vllm)\b|unable to find backend library")
_PORT_TAKEN = re.compile(r"failed to start \w+ service: .*already in use", re.IGNORECASE)


def load_failures(text: str) -> dict[str, str]:
    """Model name -> why it did not load, first failure of each. A stub that names no model counts as the model ''."""
    found: dict[str, str] = {}
    for match in _FAILED.finditer(text):
        name = match["load"] or match["directory"] or match["poll"]
        found.setdefault(name, plain_reason(match["reason"].replace("\\n", "\n").replace('\\"', '"')))
    stub = _STUB_FAILED.search(text)
    if stub is not None:
        found.setdefault("", plain_reason(stub["reason"]))
    return found


def plain_reason(reason: str) -> str:
    """A reason on one line: without the status word, and of a Python traceback only the innermost place."""
    text, _, places = reason.partition("\n\nAt:\n")
    place = next((line.strip() for line in places.splitlines() if line.strip()), "")
    text = re.sub(r"^(Internal|Invalid argument|Unavailable|Not found): ", "", " ".join(text.split()).strip(" ;"))
    return f"{text} (at {place})" if place else text


def lacks_backend(reason: str) -> bool:
    """Whether a model did not load because this machine is not the container that serves it."""
    return _NO_BACKEND.search(reason) is not None


def port_was_taken(text: str) -> bool:
    """Whether the server ended because somebody else had one of its ports."""
    return _PORT_TAKEN.search(text) is not None


def last_words(text: str, count: int = 15) -> str:
    """The end of the log. The page-long usage text that follows a wrong argument is left out, as it hides the argument."""
    return "\n".join(text.partition("\nUsage: tritonserver")[0].strip().splitlines()[-count:])
