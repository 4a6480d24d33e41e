"""Fields of a generate request that are no input of the model: Triton hands them on as parameters, which nobody reads."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence

from llm_errors import RequestError

_TRITON_PARAMETERS = frozenset(
    ("id", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output", "binary_data_size")
)
_HEADERS = frozenset(("accept", "authorization", "baggage", "cookie", "host", "origin", "referer", "traceparent", "tracestate"))


def refuse_unknown(parameters: str, inputs: Sequence[str]) -> None:
    """Refuses a request's parameters (JSON, as Triton gives them) other than Triton's own.

    Args:
        inputs: the names of the model's inputs.

    Raises:
        RequestError: naming the field.
    """
    for name in json.loads(parameters or "{}"):
        if name.startswith("triton_") or name.lower() in _TRITON_PARAMETERS or _is_header(name, inputs):
            continue
        near = difflib.get_close_matches(name.lower().replace("-", "_"), inputs, n=1)
        hint = f"the nearest is {near[0]}; " if near else ""
        raise RequestError(f"{name}: is not an input of this model; {hint}the inputs are {', '.join(inputs)}")


def _is_header(name: str, inputs: Sequence[str]) -> bool:
    """Triton can forward HTTP headers as parameters. No input has a hyphen, but one can be misspelt with it."""
    return name.lower() in _HEADERS or ("-" in name and name.lower().replace("-", "_") not in inputs)
