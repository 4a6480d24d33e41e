"""The generated TensorRT-LLM repository in the real Triton, every generation: same configs, same ensemble, real HTTP and gRPC.

Only the engine is a stand-in (tests/serving/backends/tensorrtllm): a python-based backend under the name of NVIDIA's, with its
tensors, running an ONNX Runtime engine of the example checkpoint. Greedy text is compared with the example's reference.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import service_pb2

from enginepress.recipe import Checks, Prompt
from enginepress.repository.plans.tensorrt_llm_parameters import GENERATIONS
from enginepress.repository.validate import validate
from enginepress.serving.client import Question, ask_grpc, ask_http
from enginepress.serving.gate import run_gate
from enginepress.serving.reference import read_reference
from enginepress.serving.tritonserver import TritonServer
from tests.serving.trt_repository import engine_folder, make_repository, serving_stand_ins, trt_recipe
from tests.templates.ask import Refused, generate, generate_stream, grpc_inputs, open_stream, text_of
from tests.templates.repository import build_engine

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "examples" / "checkpoints" / "tiny-llama"
REFERENCE = ROOT / "examples" / "references" / "tiny-llama.json"
ANSWERS = json.loads(REFERENCE.read_text())["answers"]
TEXTS = [answer for answer in ANSWERS if answer["text"] is not None]
CHATS = [answer for answer in ANSWERS if answer["messages"] is not None]
MODELS = [*GENERATIONS, *(f"{generation}-bls" for generation in GENERATIONS)]
"""Ensembles and BLS models; one server serves all."""


SCRIPT = "na\u00efve \u6771\u4eac, \U0001f680\U0001f600"


def scripted_tokens() -> list[int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    tokens: list[int] = tokenizer.encode(SCRIPT, add_special_tokens=False).ids
    assert len(tokens) > len(SCRIPT) + 6
    return tokens


@dataclass(frozen=True)
class Served:
    server: TritonServer
    log: Path

    @property
    def http(self) -> str:
        return self.server.http


@pytest.fixture(scope="module")
def genai(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_engine(CHECKPOINT, tmp_path_factory.mktemp("genai") / "tiny")


@pytest.fixture(scope="module", autouse=True)
def stand_ins() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        serving_stand_ins(patch=patch)
        yield


@pytest.fixture(scope="module")
def served(genai: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("trt")
    (folder / "all").mkdir()
    log = folder / "cancelled.log"
    log.touch()
    for name, generation, extra in [
        *((generation, generation, {}) for generation in GENERATIONS),
        ("slow", "tensorrt_llm_1_0", {"test_delay_ms": "50", "test_log": str(log)}),
        ("scripted", "tensorrt_llm_0_19", {"test_tokens": json.dumps(scripted_tokens())}),
    ]:
        placed = make_repository(
            folder,
            trt_recipe(generation, name, bls=True, max_tokens_default=5, max_concurrent_requests=4),
            generation=generation,
            checkpoint=CHECKPOINT,
            engine=engine_folder(genai, folder / "engines" / name),
            extra=extra,
        )
        # The configs name absolute paths, so the models may be served from one folder.
        for model in placed.iterdir():
            (folder / "all" / model.name).symlink_to(model)
    with TritonServer(folder / "all", log=folder / "server.log", exit_timeout_s=0) as server:
        yield Served(server, log)


# ------------------------------------------------------------------------------------------------------------------
# Text
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_greedy_answers_are_the_references(served: Served, model: str) -> None:
    for answer in TEXTS[:3]:
        said = generate(served.http, model, text_input=answer["text"], max_tokens=answer["max_tokens"])
        assert said["text_output"] == answer["answer"]
        assert said["model_version"] == "1"


@pytest.mark.parametrize("model", MODELS)
def test_chat_messages_are_answered_as_the_reference(served: Served, model: str) -> None:
    for answer in CHATS:
        messages = json.dumps(answer["messages"])
        assert generate(served.http, model, messages=messages, max_tokens=answer["max_tokens"])["text_output"] == answer["answer"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("way", ["http", "grpc"])
def test_our_client_gets_the_same_over_http_and_grpc_streamed_and_not(served: Served, model: str, stream: bool, way: str) -> None:
    answer = TEXTS[0]
    ask, address = (ask_http, served.http) if way == "http" else (ask_grpc, served.server.grpc)
    said = ask(address, model, Question(text=answer["text"], max_tokens=answer["max_tokens"]), stream=stream)
    assert said.text == answer["answer"]
    assert len(said.pieces) > 10 if stream else len(said.pieces) == 1


def test_max_tokens_has_the_recipes_default(served: Served) -> None:
    whole = generate(served.http, "tensorrt_llm_1_0", text_input=TEXTS[0]["text"])["text_output"]
    assert TEXTS[0]["answer"].startswith(whole)
    assert 0 < len(whole) < len(TEXTS[0]["answer"]) / 2


def test_a_request_can_ask_for_its_prompt_in_front_of_the_answer(served: Served) -> None:
    prompt = TEXTS[0]["text"]
    for model in ("tensorrt_llm_1_0", "tensorrt_llm_1_0-bls"):
        said = generate(served.http, model, text_input=prompt, max_tokens=4, exclude_input_in_output=False)
        assert said["text_output"].startswith(prompt + " an identity")


# ------------------------------------------------------------------------------------------------------------------
# Streams
# ------------------------------------------------------------------------------------------------------------------


def test_the_ensemble_streams_what_has_an_id_and_answers_the_rest_whole(served: Served) -> None:
    asked = {"text_input": TEXTS[0]["text"], "max_tokens": 12}
    with_id = generate_stream(served.http, "tensorrt_llm_1_0", id="one", **asked)
    without = generate_stream(served.http, "tensorrt_llm_1_0", **asked)
    assert (len(with_id), len(without)) == (12, 1)
    assert text_of(with_id) == text_of(without)


def test_the_bls_model_streams_without_an_id(served: Served) -> None:
    events = generate_stream(served.http, "tensorrt_llm_1_0-bls", text_input=TEXTS[0]["text"], max_tokens=12)
    assert len(events) == 12
    assert TEXTS[0]["answer"].startswith(text_of(events))


@pytest.mark.parametrize("model", ["scripted", "scripted-bls"])
def test_characters_of_several_tokens_are_never_split(served: Served, model: str) -> None:
    """The engine says a text of characters that are two, three and four tokens each, one token in each response."""
    tokens = scripted_tokens()
    events = generate_stream(served.http, model, id="split", text_input="Names", max_tokens=len(tokens))
    assert len(events) >= len(tokens)
    assert text_of(events) == SCRIPT
    assert not any("\ufffd" in event["text_output"] for event in events)
    assert generate(served.http, model, text_input="Names", max_tokens=len(tokens))["text_output"] == SCRIPT


@pytest.mark.parametrize("model", ["scripted", "scripted-bls"])
def test_an_answer_that_is_cut_inside_a_character_ends_before_it(served: Served, model: str) -> None:
    cut = len(scripted_tokens()) - 1
    assert generate(served.http, model, text_input="Names", max_tokens=cut)["text_output"] == SCRIPT[:-1]
    for _ in range(2):  # the same id twice: what the first left must not come into the second
        events = generate_stream(served.http, model, id="cut", text_input="Names", max_tokens=cut)
        assert text_of(events) == SCRIPT[:-1]


@pytest.mark.parametrize("model", ["tensorrt_llm_0_18", "tensorrt_llm_1_0-bls"])
def test_many_streams_at_once_do_not_mix(served: Served, model: str) -> None:
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        answer = TEXTS[number % len(TEXTS)]
        events = generate_stream(served.http, model, id=f"n{number}", text_input=answer["text"], max_tokens=answer["max_tokens"])
        found[number] = text_of(events)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {number: TEXTS[number % len(TEXTS)]["answer"] for number in range(4)}


# ------------------------------------------------------------------------------------------------------------------
# Words
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_stop_word_ends_the_answer_and_bls_cuts_it_off(served: Served, generation: str) -> None:
    asked: dict[str, Any] = {"text_input": TEXTS[0]["text"], "max_tokens": 12, "stop_words": ["identity", "nowhere"]}
    assert generate(served.http, generation, **asked)["text_output"] == " an identity"
    assert generate(served.http, f"{generation}-bls", **asked)["text_output"] == " an "
    assert text_of(generate_stream(served.http, f"{generation}-bls", **asked)) == " an "


@pytest.mark.parametrize("model", MODELS)
def test_bad_words_do_not_occur(served: Served, model: str) -> None:
    said = generate(served.http, model, text_input=TEXTS[0]["text"], max_tokens=12, bad_words=["identity"])["text_output"]
    assert said
    assert "identity" not in said


@pytest.mark.parametrize("model", ["tensorrt_llm_0_19", "tensorrt_llm_0_19-bls"])
def test_a_bias_changes_what_is_said(served: Served, model: str) -> None:
    asked: dict[str, Any] = {"text_input": TEXTS[0]["text"], "max_tokens": 3}
    said = generate(served.http, model, **asked, embedding_bias_words=["object"], embedding_bias_weights=[50.0])["text_output"]
    assert "object" in said


# ------------------------------------------------------------------------------------------------------------------
# Batches
# ------------------------------------------------------------------------------------------------------------------


def ask_batch(address: str, model: str, prompts: list[str], max_tokens: int, *, stream: bool = False) -> dict[int, str]:
    """One request with several prompts over gRPC; the text of each row."""
    request = service_pb2.ModelInferRequest(model_name=model, id="batch")
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    values = {
        "text_input": ("BYTES", np.array([[p.encode()] for p in prompts], dtype=np.object_)),
        "max_tokens": ("INT32", np.full((len(prompts), 1), max_tokens, dtype=np.int32)),
        "stream": ("BOOL", np.full((len(prompts), 1), stream)),
    }
    with triton_grpc.InferenceServerClient(address) as client:
        inputs = []
        for name, (kind, array) in values.items():
            tensor = triton_grpc.InferInput(name, list(array.shape), kind)
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        found: dict[int, str] = {}
        done = threading.Event()
        errors: list[str] = []

        def take(result: Any, error: Any) -> None:
            if error is not None:
                errors.append(error.message())
                done.set()
                return
            if result.as_numpy("text_output") is not None:
                row = int(result.as_numpy("batch_index").reshape(-1)[0])
                found[row] = found.get(row, "") + result.as_numpy("text_output").reshape(-1)[0].decode()
            if result.get_response().parameters["triton_final_response"].bool_param:
                done.set()

        client.start_stream(take)
        client.async_stream_infer(model, inputs, request_id="batch", enable_empty_final_response=True)
        assert done.wait(60)
        assert errors == []
    return found


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_in_one_request_are_answered_by_row(served: Served, model: str, stream: bool) -> None:
    asked = TEXTS[:3]
    found = ask_batch(served.server.grpc, model, [a["text"] for a in asked], 16, stream=stream)
    assert sorted(found) == [0, 1, 2]
    for row, answer in enumerate(asked):
        assert found[row]
        assert answer["answer"].startswith(found[row])


# ------------------------------------------------------------------------------------------------------------------
# Refusals and cancels
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["tensorrt_llm_1_0", "tensorrt_llm_1_0-bls"])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"text_input": "a", "messages": "[]"}, "both are given"),
        ({"text_input": "a", "max_tokens": 0}, "max_tokens: is 0; it must be at least 1"),
        ({"messages": '[{"role": 1}]'}, r"messages\[0\].role: must be a string"),
        ({"text_input": "a", "beam_width": 2}, "no beam_width above 1"),
    ],
)
def test_what_cannot_be_answered_gets_an_error_that_names_it(
    served: Served, model: str, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(Refused, match=said):
        generate(served.http, model, **values)


def test_bls_refuses_a_misspelt_field(served: Served) -> None:
    with pytest.raises(Refused, match="temprature: is not an input of this model; the nearest is temperature"):
        generate(served.http, "tensorrt_llm_1_0-bls", text_input="a", temprature=0.5)


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_the_engine_stops_when_a_client_of_the_bls_model_goes(served: Served, way: str) -> None:
    before = served.log.read_text()
    leave_in_the_middle(served, "slow-bls", way)
    deadline = time.monotonic() + 20
    while served.log.read_text() == before:
        assert time.monotonic() < deadline, "the engine went on"
        time.sleep(0.05)
    count = int(served.log.read_text()[len(before) :].split()[2])
    assert count < 150


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_a_client_of_the_ensemble_that_goes_does_no_harm(served: Served, way: str) -> None:
    """Triton 2.51 does not tell an ensemble's running step that the client has gone: there the engine goes on to its end."""
    leave_in_the_middle(served, "slow", way)
    said = generate(served.http, "tensorrt_llm_1_0", text_input=TEXTS[0]["text"], max_tokens=32)
    assert said["text_output"] == TEXTS[0]["answer"]


def leave_in_the_middle(served: Served, model: str, way: str) -> None:
    asked: dict[str, Any] = {"text_input": TEXTS[0]["text"], "max_tokens": 200}
    if way == "http":
        with open_stream(served.http, model, id="gone", **asked) as events:
            next(events)
        return
    began = threading.Event()
    with triton_grpc.InferenceServerClient(served.server.grpc) as client:
        client.start_stream(lambda result, error: began.set())
        inputs = grpc_inputs({**asked, "stream": True})
        for tensor in inputs:
            tensor.set_shape([1, 1])
        client.async_stream_infer(model, inputs, request_id="gone")
        assert began.wait(30)
        client.stop_stream(cancel_requests=True)


def test_bls_refuses_more_requests_than_it_may_answer(served: Served) -> None:
    answers: list[str] = []

    def ask() -> None:
        try:
            answers.append(generate(served.http, "slow-bls", text_input="Names", max_tokens=20)["text_output"])
        except Refused as error:
            answers.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    refused = [a for a in answers if "4 requests are being answered, and more are not taken" in a]
    assert len(answers) == 8
    assert 1 <= len(refused) <= 4


# ------------------------------------------------------------------------------------------------------------------
# Other settings
# ------------------------------------------------------------------------------------------------------------------


def test_a_release_without_streaming_answers_whole_and_refuses_streams(genai: Path, tmp_path: Path) -> None:
    recipe = trt_recipe("tensorrt_llm_1_0", "whole", bls=True, streaming=False)
    placed = make_repository(
        tmp_path, recipe, generation="tensorrt_llm_1_0", checkpoint=CHECKPOINT, engine=engine_folder(genai, tmp_path / "engine")
    )
    assert validate(placed).findings == ()
    with TritonServer(placed, log=tmp_path / "server.log", exit_timeout_s=0) as server:
        for model in ("whole", "whole-bls"):
            said = generate(server.http, model, text_input=TEXTS[0]["text"], max_tokens=32)
            assert said["text_output"] == TEXTS[0]["answer"]
            with pytest.raises(Refused, match=r"without streaming \(serving.streaming in its recipe\)"):
                generate(server.http, model, text_input="a", stream=True)


def test_the_gate_passes_the_generated_repository(genai: Path, tmp_path: Path) -> None:
    prompts = [Prompt(text=a["text"], messages=a["messages"], max_tokens=a["max_tokens"]) for a in ANSWERS]
    recipe = trt_recipe("tensorrt_llm_1_0", "gated").model_copy(update={"checks": Checks(prompts=prompts)})
    make_repository(
        tmp_path, recipe, generation="tensorrt_llm_1_0", checkpoint=CHECKPOINT, engine=engine_folder(genai, tmp_path / "engine")
    )
    (tmp_path / "gate").mkdir()
    reference = read_reference(json.loads(REFERENCE.read_text()))
    result = run_gate(tmp_path / "unplaced" / "gated", recipe, reference, folder=tmp_path / "gate")
    assert [check for check in result.checks if not check.passed] == []
    assert result.agreement is not None
    assert result.agreement[0] == result.agreement[1]
