"""Asking a served model, over HTTP and gRPC."""

from __future__ import annotations

import http.client
import json
import queue
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc

TYPES = {
    "text_input": "BYTES",
    "messages": "BYTES",
    "max_tokens": "INT32",
    "min_tokens": "INT32",
    "stream": "BOOL",
    "temperature": "FP32",
    "top_k": "INT32",
    "top_p": "FP32",
    "seed": "UINT64",
    "repetition_penalty": "FP32",
    "stop_words": "BYTES",
    "bad_words": "BYTES",
    "return_log_probs": "BOOL",
}
_NUMPY = {"BYTES": np.object_, "INT32": np.int32, "BOOL": np.bool_, "FP32": np.float32, "UINT64": np.uint64}


class Refused(Exception):
    """The server answered with an error."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def generate(address: str, model: str = "tiny", **values: Any) -> dict[str, Any]:
    """POST /generate."""
    connection = _post(address, f"/v2/models/{model}/generate", values)
    response = connection.getresponse()
    body: dict[str, Any] = json.loads(response.read())
    connection.close()
    if response.status != 200:
        raise Refused(body["error"], response.status)
    return body


def generate_stream(address: str, model: str = "tiny", **values: Any) -> list[dict[str, Any]]:
    """POST /generate_stream, read to its end."""
    with open_stream(address, model, **values) as events:
        return list(events)


@contextmanager
def open_stream(address: str, model: str = "tiny", **values: Any) -> Iterator[Iterator[dict[str, Any]]]:
    """POST /generate_stream; leaving the block closes the connection, wherever the stream is. None leaves a value out."""
    asked = {name: value for name, value in {"stream": True, **values}.items() if value is not None}
    connection = _post(address, f"/v2/models/{model}/generate_stream", asked)
    response = connection.getresponse()

    def events() -> Iterator[dict[str, Any]]:
        for line in response:
            # What Triton refuses itself, before the model sees it, is no event but a plain JSON body.
            if line.startswith(b"data:") or (response.status != 200 and line.strip()):
                event = json.loads(line.removeprefix(b"data:"))
                if "error" in event:
                    raise Refused(event["error"], response.status)
                yield event

    try:
        yield events()
    finally:
        response.close()
        connection.close()


def grpc_stream(address: str, model: str = "tiny", **values: Any) -> list[dict[str, Any]]:
    """ModelStreamInfer: the responses of one request."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton_grpc.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(model, grpc_inputs(values), enable_empty_final_response=True)
        found = []
        while True:
            result, error = answers.get(timeout=60)
            if error is not None:
                raise Refused(error.message())
            response = result.get_response()
            if response.outputs:
                found.append({output.name: _plain(result.as_numpy(output.name)) for output in response.outputs})
            if response.parameters["triton_final_response"].bool_param:
                return found


def grpc_inputs(values: Mapping[str, Any]) -> list[triton_grpc.InferInput]:
    """The values as tensors."""
    inputs = []
    for name, value in values.items():
        items = value if isinstance(value, list) else [value]
        items = [item.encode() if isinstance(item, str) else item for item in items]
        tensor = triton_grpc.InferInput(name, [len(items)], TYPES[name])
        tensor.set_data_from_numpy(np.array(items, dtype=_NUMPY[TYPES[name]]))
        inputs.append(tensor)
    return inputs


def text_of(events: list[dict[str, Any]]) -> str:
    """The pieces of a streamed answer, put together."""
    return "".join(event["text_output"] for event in events)


def _plain(array: Any) -> Any:
    values = [value.decode() if isinstance(value, bytes) else value.item() for value in array]
    return values[0] if len(values) == 1 else values


def _post(address: str, path: str, values: Mapping[str, Any]) -> http.client.HTTPConnection:
    host, port = address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=120)
    connection.request("POST", path, json.dumps(values), {"Content-Type": "application/json"})
    return connection
