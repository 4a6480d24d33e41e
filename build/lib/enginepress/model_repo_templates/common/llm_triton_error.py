"""Our errors as Triton's."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils
from llm_errors import Kind, RequestError


def to_triton_error(error: RequestError) -> Any:
    """The error with Triton's code: over HTTP it becomes the status (400 for a request that is at fault)."""
    codes = {
        Kind.INVALID_ARG: pb_utils.TritonError.INVALID_ARG,
        Kind.UNAVAILABLE: pb_utils.TritonError.UNAVAILABLE,
        Kind.CANCELLED: pb_utils.TritonError.CANCELLED,
        Kind.INTERNAL: pb_utils.TritonError.INTERNAL,
    }
    return pb_utils.TritonError(error.message, codes[error.kind])
