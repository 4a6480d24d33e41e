"""Calls to the models behind this one, in the same release, and what goes into them.

Names on the left are clients', as in config.pbtxt; on the right the called model's.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils
from llm_errors import Kind, RequestError

Array = npt.NDArray[Any]

PREPROCESSING = {
    "text_input": "QUERY",
    "messages": "MESSAGES",
    "decoder_text_input": "DECODER_QUERY",
    "max_tokens": "REQUEST_OUTPUT_LEN",
    "bad_words": "BAD_WORDS_DICT",
    "stop_words": "STOP_WORDS_DICT",
    "end_id": "END_ID",
    "pad_id": "PAD_ID",
    "prompt_table_extra_id": "PROMPT_TABLE_EXTRA_ID",
    "embedding_bias_words": "EMBEDDING_BIAS_WORDS",
    "embedding_bias_weights": "EMBEDDING_BIAS_WEIGHTS",
}
PREPARED = {
    "INPUT_ID": "input_ids",
    "REQUEST_INPUT_LEN": "input_lengths",
    "DECODER_INPUT_ID": "decoder_input_ids",
    "REQUEST_DECODER_INPUT_LEN": "decoder_input_lengths",
    "REQUEST_OUTPUT_LEN": "request_output_len",
    "BAD_WORDS_IDS": "bad_words_list",
    "STOP_WORDS_IDS": "stop_words_list",
    "EMBEDDING_BIAS": "embedding_bias",
    "OUT_END_ID": "end_id",
    "OUT_PAD_ID": "pad_id",
    "OUT_PROMPT_TABLE_EXTRA_IDS": "prompt_table_extra_ids",
}
"""What preprocessing gives, as the engine takes it."""

_ENGINE = {"top_k": "runtime_top_k", "top_p": "runtime_top_p", "length_penalty": "len_penalty", "stream": "streaming"}
"""Clients' inputs that the engine calls otherwise; what is neither here nor preprocessing's it calls the same."""


def engine_inputs(given: Mapping[str, Array], prepared: Mapping[str, Array]) -> dict[str, Array]:
    """The engine's inputs of a client's and preprocessing's."""
    own = {_ENGINE.get(name, name): _rows(array) for name, array in given.items() if name not in PREPROCESSING}
    ready = {PREPARED[name]: array for name, array in prepared.items() if name in PREPARED}
    batch = ready["input_ids"].shape[0]
    own.setdefault("exclude_input_in_output", np.ones((batch, 1), dtype=np.bool_))
    return {**own, **ready}


def _rows(array: Array) -> Array:
    """Scalars of a batch come without their dimension (`reshape` in config.pbtxt); callers give them with it."""
    return array.reshape(-1, 1) if array.ndim == 1 else array


class Caller:
    """The other models of this release: they have its version number."""

    def __init__(self, *, preprocessing: str, engine: str, version: int, decoupled: bool) -> None:
        self._preprocessing = preprocessing
        self._engine = engine
        self._version = version
        self._decoupled = decoupled

    def preprocess(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """Raises RequestError with preprocessing's own message."""
        inputs = {PREPROCESSING[name]: array for name, array in given.items() if name in PREPROCESSING}
        response = self._request(self._preprocessing, inputs, list(PREPARED)).exec(decoupled=False)
        return _tensors(response)

    def generate(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Generation:
        return Generation(self, inputs, outputs)

    def start(self, inputs: Mapping[str, Array], outputs: Sequence[str], request_id: str) -> Iterator[Any]:
        request = self._request(self._engine, inputs, outputs, request_id)
        return iter(request.exec(decoupled=True)) if self._decoupled else iter([request.exec(decoupled=False)])

    def stop(self, inputs: Mapping[str, Array], request_id: str) -> None:
        """Tells the engine to end the request of this id: its input `stop` is for that."""
        asked = {name: inputs[name] for name in ("input_ids", "input_lengths", "request_output_len")}
        asked["stop"] = np.ones((inputs["input_ids"].shape[0], 1), dtype=np.bool_)
        for _ in self.start(asked, ["output_ids", "sequence_length"], request_id):
            pass

    def _request(self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str], request_id: str = "") -> Any:
        return pb_utils.InferenceRequest(
            model_name=model,
            model_version=self._version,
            request_id=request_id,
            requested_output_names=list(outputs),
            inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
        )


class Generation:
    """One answer of the engine, response by response."""

    def __init__(self, caller: Caller, inputs: Mapping[str, Array], outputs: Sequence[str]) -> None:
        self._caller = caller
        self._inputs = inputs
        self._id = str(uuid.uuid4().int >> 65)  # the backend takes 64 bits with a sign
        self._responses = caller.start(inputs, outputs, self._id)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Raises RequestError with the engine's message."""
        for response in self._responses:
            tensors = _tensors(response)
            if tensors:
                yield tensors

    def stop(self) -> None:
        """Ends it in the engine and takes what it still sends."""
        self._caller.stop(self._inputs, self._id)
        for _ in self._responses:
            pass


def _tensors(response: Any) -> dict[str, Array]:
    if response.has_error():
        raise RequestError(response.error().message(), _kind(response.error()))
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


def _kind(error: Any) -> Kind:
    return Kind.INVALID_ARG if error.code() == pb_utils.TritonError.INVALID_ARG else Kind.INTERNAL
