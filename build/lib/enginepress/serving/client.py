"""Asks a served model, the four ways in which clients do: HTTP and gRPC, streamed and not.

    POST /v2/models/<model>/generate            one JSON answer
    POST /v2/models/<model>/generate_stream     server-sent events, one JSON piece each
    gRPC ModelStreamInfer                       one response, or one per piece, and an empty final one

Every request takes the likeliest token each time, so that all ways must give the same text. A streamed request has an id of
its own: the TensorRT-LLM ensemble streams only answers that it can tell apart.
Pieces are what the model sent; their concatenation is the answer. The last response's `output_token_count` is the total.
"""

from __future__ import annotations

import http.client
import json
import struct
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from enginepress.errors import ServerError
from enginepress.serving.dialect import Dialect, dialect_of, model_inputs
from enginepress.serving.http_connection import HttpConnection, error_text
from enginepress.serving.sse import sse_data

if TYPE_CHECKING:
    from enginepress.recipe import BuilderName, Prompt

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Question:
    """One prompt, `text` or chat `messages`, how long its answer may be, and what the model calls all that."""

    text: str | None = None
    messages: tuple[Mapping[str, str], ...] | None = None
    max_tokens: int = 32
    dialect: Dialect = "enginepress"

    @staticmethod
    def of(prompt: Prompt, builder: BuilderName = "onnxruntime") -> Question:
        messages = None if prompt.messages is None else tuple(prompt.messages)
        return Question(text=prompt.text, messages=messages, max_tokens=prompt.max_tokens, dialect=dialect_of(builder))

    def inputs(self, *, stream: bool) -> dict[str, Any]:
        """The model's inputs by name."""
        return model_inputs(self.dialect, text=self.text, messages=self.messages, max_tokens=self.max_tokens, stream=stream)


@dataclass(frozen=True)
class Answer:
    """What the model said, and when.

    Attributes:
        text: the whole answer.
        pieces: the responses it came in; one if it was not streamed.
        model_version: the version folder that answered, which is the release's number.
        first_token_s: from sending the request to the first piece with text (to the end, if none had any).
        total_s: from sending the request to the end of the answer.
        tokens: how many tokens the model says it generated; None if it does not say.
        finish_reason: the model's word for why it ended; empty if it does not say.
    """

    text: str
    pieces: tuple[str, ...]
    model_version: str
    first_token_s: float
    total_s: float
    tokens: int | None
    finish_reason: str = ""


@dataclass(frozen=True)
class _Piece:
    text: str
    model_version: str
    tokens: int | None
    finish_reason: str


def ask_http(address: str, model: str, question: Question, *, stream: bool, timeout_s: float = TIMEOUT_S) -> Answer:
    """Asks over a connection of its own.

    Raises:
        ServerError: with the server's message, or saying that it cannot be reached, broke off or took too long.
    """
    with HttpConnection(address, timeout_s=timeout_s) as connection:
        return ask_connection(connection, model, question, stream=stream, timeout_s=timeout_s)


def ask_connection(
    connection: HttpConnection, model: str, question: Question, *, stream: bool, timeout_s: float = TIMEOUT_S
) -> Answer:
    """Like `ask_http`, over a connection that is kept."""
    path = f"/v2/models/{quote(model, safe='')}/{'generate_stream' if stream else 'generate'}"
    began = time.perf_counter()
    try:
        name = {"id": uuid.uuid4().hex} if stream else {}
        response = connection.send("POST", path, {**question.inputs(stream=stream), **name})
        if response.status != 200:
            raise _refused(connection.url(path), error_text(response.status, _error_body(response.read())))
        pieces = _http_pieces(response, connection.url(path), stream=stream)
        return _collect(pieces, where=connection.url(path), began=began, timeout_s=timeout_s)
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise connection.problem(path, error) from None
    except ServerError:
        # Whatever of the answer has not been read must not be taken for the next one.
        connection.close()
        raise


def ask_grpc(address: str, model: str, question: Question, *, stream: bool, timeout_s: float = TIMEOUT_S) -> Answer:
    """Asks over gRPC; a decoupled model answers only on a stream, streamed or not.

    Raises:
        ServerError: with the server's message, or saying that it cannot be reached, broke off or took too long.
    """
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    where = f"grpc://{address}/{model}"
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            metadata = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=model), timeout=min(timeout_s, 30.0))
            request = _grpc_request(metadata, model, question.inputs(stream=stream))
            began = time.perf_counter()
            responses = stub.ModelStreamInfer(iter([request]), timeout=timeout_s)
            return _collect(_grpc_pieces(responses, where), where=where, began=began, timeout_s=timeout_s)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise ServerError(f"the server did not answer within {timeout_s:g} s", where=where) from None
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise ServerError(
                    "the server cannot be reached or broke off", where=where, fix="look at the server's log"
                ) from None
            raise _refused(where, error.details() or str(error.code())) from None


def _collect(pieces: Iterator[_Piece], *, where: str, began: float, timeout_s: float) -> Answer:
    texts: list[str] = []
    first: float | None = None
    last: _Piece | None = None
    for last in pieces:
        now = time.perf_counter() - began
        if first is None and last.text:
            first = now
        if now > timeout_s:
            raise ServerError(f"the answer was not complete after {timeout_s:g} s", where=where)
        texts.append(last.text)
    total = time.perf_counter() - began
    if last is None:
        raise ServerError("the model ended its answer without any response", where=where)
    return Answer(
        text="".join(texts),
        pieces=tuple(texts),
        model_version=last.model_version,
        first_token_s=total if first is None else first,
        total_s=total,
        tokens=last.tokens,
        finish_reason=last.finish_reason,
    )


def _refused(where: str, message: str) -> ServerError:
    return ServerError(f"the model answered with an error: {' '.join(message.split())}", where=where)


# HTTP -----------------------------------------------------------------------------------------------------------------


def _http_pieces(response: http.client.HTTPResponse, where: str, *, stream: bool) -> Iterator[_Piece]:
    for data in sse_data(_lines(response)) if stream else [response.read()]:
        answer = _json_or_none(data)
        if not isinstance(answer, dict):
            raise ServerError("the server sent something that is not JSON in UTF-8", where=where)
        if "error" in answer:
            raise _refused(where, error_text(response.status, answer))
        if not isinstance(answer.get("text_output"), str):
            raise ServerError("the model's response has no text_output", where=where)
        count = answer.get("output_token_count")
        yield _Piece(
            text=answer["text_output"],
            model_version=str(answer.get("model_version", "")),
            tokens=count if isinstance(count, int) else None,
            finish_reason=str(answer.get("finish_reason", "")),
        )


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The lines of a body as they come. The response's own iterator takes a connection that broke for the body's end."""
    if not response.chunked:
        yield from response.read().splitlines(keepends=True)
        return
    rest = b""
    while block := response.read1(65536):
        *whole, rest = (rest + block).split(b"\n")
        yield from (line + b"\n" for line in whole)
    if rest:
        yield rest


def _error_body(data: bytes) -> Any:
    """An error comes as JSON, or as an event if the stream had been begun."""
    return _json_or_none(next(iter(sse_data(data.splitlines(keepends=True))), data))


def _json_or_none(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except ValueError:
        return None


# gRPC -----------------------------------------------------------------------------------------------------------------

_PACK = {"INT32": "<i", "UINT32": "<I", "INT64": "<q", "UINT64": "<Q", "FP32": "<f", "BOOL": "<?"}


def _grpc_request(metadata: Any, model: str, inputs: Mapping[str, Any]) -> Any:
    """The tensors in the types and ranks that the model declares; what it does not declare is left out, if it may be."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=model, id=uuid.uuid4().hex)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    declared = {tensor.name: tensor for tensor in metadata.inputs}
    for name, value in inputs.items():
        tensor = declared.get(name)
        if tensor is None and name in ("stream", "streaming"):
            continue
        if tensor is None:
            raise ServerError(f"the model has no input '{name}'", where=model)
        request.inputs.add(name=name, datatype=tensor.datatype, shape=[1] * len(tensor.shape))
        request.raw_input_contents.append(_tensor_bytes(tensor.datatype, value))
    return request


def _tensor_bytes(datatype: str, value: Any) -> bytes:
    if datatype == "BYTES":
        data = str(value).encode()
        return struct.pack("<I", len(data)) + data
    return struct.pack(_PACK[datatype], value)


def _grpc_pieces(responses: Any, where: str) -> Iterator[_Piece]:
    for message in responses:
        if message.error_message:
            raise _refused(where, message.error_message)
        response = message.infer_response
        raw = {o.name: r for o, r in zip(response.outputs, response.raw_output_contents, strict=False)}
        if "text_output" in raw:
            yield _Piece(
                text=_text(raw["text_output"], where),
                model_version=response.model_version,
                tokens=struct.unpack("<i", raw["output_token_count"])[0] if "output_token_count" in raw else None,
                finish_reason=_text(raw["finish_reason"], where) if "finish_reason" in raw else "",
            )
        elif raw:
            raise ServerError("the model's response has no text_output", where=where)
        if response.parameters["triton_final_response"].bool_param:
            return


def _text(raw: bytes, where: str) -> str:
    """The only string of a BYTES tensor: four bytes of length, then UTF-8."""
    try:
        return raw[4:].decode("utf-8")
    except UnicodeDecodeError:
        raise ServerError("the model's text is not UTF-8", where=where) from None
