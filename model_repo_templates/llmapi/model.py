"""The Triton model that runs a checkpoint by TensorRT-LLM's LLM API: only what Triton calls.

    <version folder>/model.yaml       LLM()'s arguments, and triton_config
                     multi_lora.json  LoRA adapters by name, with their folders, if the recipe names any
                     checkpoint/      the checkpoint, with its tokenizer

llmapi_request checks a request, llmapi_engine answers it. It needs tensorrt-llm 1.0 or later, numpy, pyyaml, tokenizers and,
for chat messages, jinja2.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

# A release is not for Python's cache. (Of this file itself it has been written before this line runs.)
sys.dont_write_bytecode = True

import numpy as np  # noqa: E402
import triton_python_backend_utils as pb_utils  # noqa: E402
import yaml  # noqa: E402
from llm_errors import Kind, RequestError  # noqa: E402
from llm_tokenizer import Tokenizer  # noqa: E402
from llm_triton_error import to_triton_error  # noqa: E402
from llm_unknown import refuse_unknown  # noqa: E402
from llmapi_engine import Engine, Piece  # noqa: E402
from llmapi_request import INPUTS, Request, read_request  # noqa: E402

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_UNFINISHED = "\ufffd"


class TritonPythonModel:
    """What Triton's python backend loads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads tokenizer and model; what is wrong with them is the load error that Triton shows."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        folder = Path(__file__).parent
        arguments = yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))
        arguments.pop("triton_config", None)  # it is in config.pbtxt, where Triton reads it
        self._decoupled = pb_utils.using_decoupled_model_transaction_policy(config)
        self._max_tokens = int(parameters["max_tokens_default"])
        self._room = threading.Semaphore(int(parameters["max_concurrent_requests"]))
        self._tokenizer = Tokenizer(Path(arguments["model"]))
        listed = folder / "multi_lora.json"
        self._adapters = json.loads(listed.read_text(encoding="utf-8")) if listed.exists() else {}
        self._engine = Engine(arguments, self._adapters)

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """Decoupled, it returns at once and the answers follow; else when they are whole."""
        if self._decoupled:
            for request in requests:
                sender = request.get_response_sender()
                self._start(request, sender.send, sender.is_cancelled)
            return None
        waiting = [_Waiting() for _ in requests]
        for request, wait in zip(requests, waiting, strict=True):
            self._start(request, wait.send, request.is_cancelled)
        return [wait.response() for wait in waiting]

    def finalize(self) -> None:
        self._engine.stop()

    def _start(self, request: Any, send: Any, gone: Any) -> None:
        try:
            refuse_unknown(request.parameters(), INPUTS)
            tensors = {
                name: tensor.as_numpy()
                for name in INPUTS
                if (tensor := pb_utils.get_input_tensor_by_name(request, name)) is not None
            }
            prepared = read_request(tensors, self._tokenizer, max_tokens_default=self._max_tokens, adapters=self._adapters)
            if prepared.streaming and not self._decoupled:
                raise RequestError("streaming: this release was made without it (serving.streaming in its recipe)")
            if not self._room.acquire(blocking=False):
                raise RequestError("as many requests as may be are being answered: try again", Kind.UNAVAILABLE)
        except Exception as error:
            send(_failure(error), flags=_FINAL)
            return
        answer = _Answer(prepared, send, self._room.release)
        self._engine.ask(prepared, take=answer.take, fail=answer.fail, gone=gone)


class _Answer:
    """The responses to one request: each piece as what it adds to the text before."""

    def __init__(self, request: Request, send: Any, done: Any) -> None:
        self._request = request
        self._send = send
        self._done = done
        self._sent: dict[int, str] = {}

    def take(self, piece: Piece) -> None:
        if piece.last:
            self._done()
        texts = [self._new(index, text, last=piece.last) for index, text in enumerate(piece.texts)]
        values = {"finish_reason": piece.finish_reasons, "stop_reason": piece.stop_reasons}
        tensors = [_strings("text_output", texts)]
        tensors += [_strings(name, value) for name, value in values.items() if name in self._request.returns]
        if "cumulative_logprob" in self._request.returns:
            tensors.append(pb_utils.Tensor("cumulative_logprob", np.array(piece.logprobs, dtype=np.float32)))
        self._send(pb_utils.InferenceResponse(tensors), flags=_FINAL if piece.last else 0)

    def fail(self, error: Exception) -> None:
        self._done()
        self._send(_failure(error), flags=_FINAL)

    def _new(self, index: int, text: str, *, last: bool) -> str:
        """What the text has more than was sent; half a character at its end waits for its other half."""
        if index not in self._sent:
            self._sent[index] = ""
            text_before = self._request.echo
        else:
            text_before = ""
        whole = text if last else text.rstrip(_UNFINISHED)
        new = whole[len(self._sent[index]) :]
        self._sent[index] += new
        return text_before + new


class _Waiting:
    """Takes the one response of a model that is not decoupled."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._response: Any = None

    def send(self, response: Any, flags: int = 0) -> None:
        self._response = response
        self._ready.set()

    def response(self) -> Any:
        self._ready.wait()
        return self._response


def _strings(name: str, values: Any) -> Any:
    return pb_utils.Tensor(name, np.array([value.encode("utf-8") for value in values], dtype=np.object_))


def _failure(error: Exception) -> Any:
    if not isinstance(error, RequestError):
        pb_utils.Logger.log_error(f"a request failed: {error!r}")
        error = RequestError(f"the request could not be answered: {error}", Kind.INTERNAL)
    return pb_utils.InferenceResponse(error=to_triton_error(error))
