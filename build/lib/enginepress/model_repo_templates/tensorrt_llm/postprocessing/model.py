"""The Triton model that makes text of an engine's tokens: only what Triton calls. trt_pieces says what holds for streams.

It needs numpy, tokenizers and jinja2. Parameters of config.pbtxt: tokenizer_dir, and skip_special_tokens (true or false).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# A release is not for Python's cache. (Of this file itself it has been written before this line runs.)
sys.dont_write_bytecode = True

import numpy as np  # noqa: E402
import triton_python_backend_utils as pb_utils  # noqa: E402
from llm_tokenizer import Tokenizer  # noqa: E402
from trt_pieces import Pieces  # noqa: E402


class TritonPythonModel:
    """What Triton's python backend loads. One instance: the pieces of an answer come in order only then."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the tokenizer; what is wrong with it is the load error that Triton shows."""
        parameters = json.loads(args["model_config"]).get("parameters", {})
        tokenizer = Tokenizer(Path(parameters["tokenizer_dir"]["string_value"]))
        special = parameters.get("skip_special_tokens", {}).get("string_value", "true") == "false"
        self._pieces = Pieces(tokenizer.bytes_of(special_tokens=special))

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        tokens = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy()
        lengths = pb_utils.get_input_tensor_by_name(request, "SEQUENCE_LENGTH").as_numpy()
        # [batch, beams, tokens], filled up with -1 behind each beam's length
        name = request.request_id()
        texts = []
        for row, (beams, ends) in enumerate(zip(tokens, lengths, strict=True)):
            for beam, (sequence, end) in enumerate(zip(beams, ends, strict=True)):
                key = (name, request.correlation_id(), row, beam) if name else None
                texts.append(self._pieces.text(sequence[:end].tolist(), key).encode("utf-8"))
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("OUTPUT", np.array(texts, dtype=np.object_).reshape(tokens.shape[0], -1))]
        )
