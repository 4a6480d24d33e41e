"""The Triton model that makes an engine's inputs of text or chat messages: only what Triton calls.

trt_requests checks the inputs and makes the tensors, trt_words the lists of words, llm_tokenizer and llm_chat the tokens.
It needs numpy, tokenizers and, for chat messages, jinja2. The parameters of config.pbtxt are those of trt_requests.Settings.
"""

from __future__ import annotations

import json
import sys
from typing import Any

# A release is not for Python's cache. (Of this file itself it has been written before this line runs.)
sys.dont_write_bytecode = True

import triton_python_backend_utils as pb_utils  # noqa: E402
from llm_errors import Kind, RequestError  # noqa: E402
from llm_generation import Generation  # noqa: E402
from llm_tokenizer import Tokenizer  # noqa: E402
from llm_triton_error import to_triton_error  # noqa: E402
from trt_requests import INPUTS, Preparer, Settings  # noqa: E402


class TritonPythonModel:
    """What Triton's python backend loads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the tokenizer; what is wrong with it is the load error that Triton shows."""
        parameters = json.loads(args["model_config"]).get("parameters", {})
        settings = Settings.from_parameters({name: value["string_value"] for name, value in parameters.items()})
        self._preparer = Preparer(settings, Tokenizer(settings.tokenizer), Generation.read(settings.tokenizer))

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            inputs = {
                name: tensor.as_numpy()
                for name in INPUTS
                if (tensor := pb_utils.get_input_tensor_by_name(request, name)) is not None
            }
            tensors = self._preparer.prepare(inputs, request_id=request.request_id())
            return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in tensors.items()])
        except RequestError as error:
            return pb_utils.InferenceResponse(error=to_triton_error(error))
        except Exception as error:  # one request must not take the others with it
            pb_utils.Logger.log_error(f"a request could not be prepared: {error!r}")
            problem = RequestError(f"the request could not be read: {error}", Kind.INTERNAL)
            return pb_utils.InferenceResponse(error=to_triton_error(problem))
