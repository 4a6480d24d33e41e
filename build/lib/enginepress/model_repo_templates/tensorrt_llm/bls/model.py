"""The Triton model that does in Python what the ensemble does: only what Triton calls.

It knows which answer a token belongs to. So it streams without a request id, for several prompts at once too, cuts answers
before stop words, and tells the engine to stop when a client has gone. It calls preprocessing and the engine of its own
release (trt_calls) and makes the text itself (trt_answer). It needs numpy, tokenizers and jinja2.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# A release is not for Python's cache. (Of this file itself it has been written before this line runs.)
sys.dont_write_bytecode = True

import numpy as np  # noqa: E402
import triton_python_backend_utils as pb_utils  # noqa: E402
from llm_errors import Kind, RequestError  # noqa: E402
from llm_tokenizer import Tokenizer  # noqa: E402
from llm_triton_error import to_triton_error  # noqa: E402
from llm_unknown import refuse_unknown  # noqa: E402
from trt_answer import Answer  # noqa: E402
from trt_calls import Caller, engine_inputs  # noqa: E402
from trt_pieces import Pieces  # noqa: E402

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """What Triton's python backend loads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the tokenizer; what is wrong with it is the load error that Triton shows."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"] if tensor["name"] != "text_output"]
        self._decoupled = pb_utils.using_decoupled_model_transaction_policy(config)
        self._token_bytes = Tokenizer(Path(parameters["tokenizer_dir"])).bytes_of()
        self._caller = Caller(
            preprocessing=parameters["preprocessing_model_name"],
            engine=parameters["tensorrt_llm_model_name"],
            version=int(args["model_version"]),
            decoupled=self._decoupled,
        )
        self._room = int(parameters["max_concurrent_requests"])
        self._running = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=self._room, thread_name_prefix="answer")

    def execute(self, requests: list[Any]) -> list[Any] | None:
        if not self._decoupled:
            return list(self._pool.map(self._answer_whole, requests))
        for request in requests:
            sender = request.get_response_sender()
            with self._lock:
                full = self._running >= self._room
                self._running += not full
            if full:
                message = f"{self._room} requests are being answered, and more are not taken: try again"
                sender.send(_failure(RequestError(message, Kind.UNAVAILABLE)), flags=_FINAL)
            else:
                self._pool.submit(self._answer_stream, request, sender)
        return None

    def finalize(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _answer_whole(self, request: Any) -> Any:
        """One response, for a model that is not decoupled."""
        try:
            return next(iter(self._responses(request, gone=lambda: False)))
        except Exception as error:
            return _failure(error)

    def _answer_stream(self, request: Any, sender: Any) -> None:
        try:
            for response in self._responses(request, gone=sender.is_cancelled):
                sender.send(response)
            sender.send(flags=_FINAL)
        except Exception as error:  # one request must not take the others with it
            sender.send(_failure(error), flags=_FINAL)
        finally:
            with self._lock:
                self._running -= 1

    def _responses(self, request: Any, gone: Any) -> Iterator[Any]:
        refuse_unknown(request.parameters(), self._inputs)
        given = {
            name: tensor.as_numpy()
            for name in self._inputs
            if (tensor := pb_utils.get_input_tensor_by_name(request, name)) is not None
        }
        stream = bool(given["stream"].any()) if "stream" in given else False
        if stream and not self._decoupled:
            raise RequestError("stream: this release was made without streaming (serving.streaming in its recipe)")
        inputs = engine_inputs(given, self._caller.preprocess(given))
        answer = Answer(Pieces(self._token_bytes), _stop_words(given, inputs["input_ids"].shape[0]), stream=stream)
        generation = self._caller.generate(inputs, ["output_ids", "sequence_length", *self._outputs])
        for tensors in generation:
            yield _response(answer.add(tensors), {name: tensors[name] for name in self._outputs if name in tensors})
            if gone() or answer.ended:
                generation.stop()
                break
        for (row, sequence), texts in answer.rest().items():
            yield _response(texts, {"batch_index": _number(row), "sequence_index": _number(sequence)})


_number = functools.partial(np.full, (1, 1), dtype=np.int32)


def _stop_words(given: dict[str, Any], batch: int) -> list[list[str]]:
    """Each row's. None are looked for in an answer that begins with its prompt, where they may stand as well."""
    with_prompt = "exclude_input_in_output" in given and not given["exclude_input_in_output"].all()
    if "stop_words" not in given or with_prompt:
        return [[] for _ in range(batch)]
    return [[word.decode("utf-8") for word in row.reshape(-1) if word] for row in given["stop_words"]]


def _response(texts: list[str], tensors: dict[str, Any]) -> Any:
    text = np.array([[text.encode("utf-8") for text in texts]], dtype=np.object_)
    rest = [pb_utils.Tensor(name, array) for name, array in tensors.items()]
    return pb_utils.InferenceResponse([pb_utils.Tensor("text_output", text), *rest])


def _failure(error: Exception) -> Any:
    if not isinstance(error, RequestError):
        pb_utils.Logger.log_error(f"a request failed: {error!r}")
        error = RequestError(f"the request could not be answered: {error}", Kind.INTERNAL)
    return pb_utils.InferenceResponse(error=to_triton_error(error))
