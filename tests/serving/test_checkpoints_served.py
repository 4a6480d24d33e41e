"""The generated llmapi and vllm repositories in the real Triton, with stand-ins for the two packages that need a GPU."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enginepress.engines import get_builder
from enginepress.recipe import Checks, Prompt, Recipe
from enginepress.repository.assemble import assemble
from enginepress.repository.place import place, write_placement
from enginepress.repository.validate import validate
from enginepress.serving.client import Question, ask_grpc, ask_http
from enginepress.serving.gate import run_gate
from enginepress.serving.tritonserver import TritonServer
from tests.serving.trt_repository import serving_stand_ins
from tests.templates.ask import Refused, generate, generate_stream, open_stream
from tests.templates.repository import build_engine

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "examples" / "checkpoints" / "tiny-llama"
ANSWERS = json.loads((ROOT / "examples" / "references" / "tiny-llama.json").read_text())["answers"]
STAND_IN = Path(__file__).parent / "stand_ins" / "tensorrt_llm"


def recipe(builder: str, **serving: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "source": "file:///checkpoint",
            "engine": {"builder": builder, "precision": "bfloat16", "limits": {"max_batch_size": 4}},
            "serving": serving,
            "stores": ["file:///store"],
        }
    )


def make(folder: Path, wanted: Recipe, *, genai: Path | None = None, pause_ms: int = 0) -> Path:
    """The unplaced repository, from the example checkpoint through the builder."""
    checkpoint = folder / "checkpoint"
    shutil.copytree(CHECKPOINT, checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "test_pause_ms": pause_ms}))
    if genai is not None:
        shutil.copytree(genai, checkpoint / "genai")
    engine, unplaced = folder / "engine", folder / "unplaced"
    engine.mkdir()
    unplaced.mkdir()
    get_builder(wanted.engine.builder).build(checkpoint, engine, wanted, folder / "log")
    assemble(engine=engine, checkpoint=checkpoint, recipe=wanted, output=unplaced)
    if genai is not None:
        # The stand-in lies beside model.py, where Python looks first.
        shutil.copytree(STAND_IN, unplaced / "tiny" / "0" / "tensorrt_llm", ignore=shutil.ignore_patterns("__pycache__"))
    return unplaced


def placed(unplaced: Path) -> Path:
    target = unplaced.parent / "placed"
    write_placement(place(unplaced, 1, str(target)), target)
    assert validate(target).findings == ()
    return target


@pytest.fixture(scope="module")
def genai(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_engine(CHECKPOINT, tmp_path_factory.mktemp("genai") / "tiny")


@pytest.fixture(scope="module")
def llmapi(genai: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("llmapi")
    repository = placed(make(folder, recipe("llmapi", max_tokens_default=4, max_concurrent_requests=2), genai=genai, pause_ms=5))
    with TritonServer(repository, log=folder / "server.log", exit_timeout_s=0) as server:
        yield server


def texts(events: list[dict[str, Any]]) -> str:
    return "".join(event["text_output"] for event in events)


def test_llmapi_answers_as_the_reference_over_http_and_grpc_streamed_and_not(llmapi: TritonServer) -> None:
    for answer in ANSWERS[:2] + [a for a in ANSWERS if a["messages"]]:
        messages = tuple(answer["messages"]) if answer["messages"] else None
        question = Question(text=answer["text"], messages=messages, max_tokens=answer["max_tokens"], dialect="llmapi")
        for ask, address in ((ask_http, llmapi.http), (ask_grpc, llmapi.grpc)):
            for stream in (True, False):
                said = ask(address, "tiny", question, stream=stream)
                assert said.text == answer["answer"]
                assert (len(said.pieces) > 1) is stream


def test_llmapi_has_the_recipes_default_and_says_why_an_answer_ended(llmapi: TritonServer) -> None:
    said = generate(llmapi.http, text_input="Every object has", return_finish_reason=True)
    assert (said["text_output"], said["finish_reason"]) == (" an identity, a", "length")
    said = generate(
        llmapi.http,
        text_input="Every object has",
        sampling_param_max_tokens=20,
        sampling_param_stop=["type"],
        return_finish_reason=True,
        return_stop_reason=True,
    )
    assert (said["text_output"], said["finish_reason"], said["stop_reason"]) == (" an identity, a ", "stop", "type")


def test_llmapi_puts_the_prompt_in_front_on_demand(llmapi: TritonServer) -> None:
    asked: dict[str, Any] = {"text_input": "Every object has", "sampling_param_exclude_input_from_output": False}
    assert generate(llmapi.http, **asked)["text_output"] == "Every object has an identity, a"
    assert texts(generate_stream(llmapi.http, streaming=True, stream=None, **asked)) == "Every object has an identity, a"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"text_input": "a", "messages": "[]"}, "both are given"),
        ({"text_input": "a", "max_tokens": 3}, "max_tokens: is not an input of this model"),
        ({"text_input": "a", "sampling_param_max_tokens": 0}, "sampling_param_max_tokens: is 0"),
        ({"text_input": ""}, "text_input: is empty"),
    ],
)
def test_llmapi_refuses_what_it_cannot_answer(llmapi: TritonServer, values: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said):
        generate(llmapi.http, **values)


def test_llmapi_ends_an_answer_whose_client_has_gone(llmapi: TritonServer) -> None:
    aborted = llmapi.repository / "tiny" / "1" / "checkpoint" / "aborted"
    asked: dict[str, Any] = {"text_input": "Names", "sampling_param_max_tokens": 300, "streaming": True, "stream": None}
    with open_stream(llmapi.http, **asked) as events:
        next(events)
    deadline = time.monotonic() + 20
    while not aborted.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert int(aborted.read_text()) < 250


def test_llmapi_shows_what_llm_says_about_its_arguments(genai: Path, tmp_path: Path) -> None:
    from enginepress.errors import ServerError

    repository = placed(make(tmp_path, recipe("llmapi", engine_args={"print_iter_log": True}), genai=genai))
    with (
        pytest.raises(ServerError, match="has no argument print_iter_log"),
        TritonServer(repository, log=tmp_path / "server.log", exit_timeout_s=0),
    ):
        raise AssertionError("started")


@pytest.fixture(scope="module")
def adapted(genai: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server with two adapters; the second one answers in capitals."""
    folder = tmp_path_factory.mktemp("adapted")
    for name in ("plain", "loud"):
        (folder / name).mkdir()
        (folder / name / "adapter_config.json").write_text(json.dumps({"test_upper": name == "loud"}))
    wanted = recipe(
        "llmapi",
        max_tokens_default=4,
        adapters={"plain": str(folder / "plain"), "org/loud": str(folder / "loud")},
        engine_args={"lora_config": {"lora_target_modules": ["attn_q"], "max_lora_rank": 8}},
    )
    with TritonServer(placed(make(folder, wanted, genai=genai)), log=folder / "server.log", exit_timeout_s=0) as server:
        yield server


def test_llmapi_answers_with_the_adapter_that_a_request_names(adapted: TritonServer) -> None:
    asked = {"text_input": "Every object has"}
    assert generate(adapted.http, **asked)["text_output"] == " an identity, a"
    assert generate(adapted.http, lora_name="plain", **asked)["text_output"] == " an identity, a"
    assert generate(adapted.http, lora_name="org/loud", **asked)["text_output"] == "1: AN IDENTITY, A"
    assert texts(generate_stream(adapted.http, lora_name="org/loud", streaming=True, stream=None, **asked)).startswith("1: AN")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lora_name": "loud"}, "lora_name: this model has no adapter 'loud'; it has org/loud, plain"),
        ({"lora_name": ""}, "lora_name: is empty"),
        ({"lora_path": "/etc"}, "lora_path: is not an input of this model; the nearest is lora_name"),
        ({"lora_id": 1}, "lora_id: is not an input of this model"),
        ({"lora_name": ["plain", "org/loud"]}, "lora_name"),
    ],
)
def test_llmapi_refuses_an_adapter_that_the_recipe_does_not_name(
    adapted: TritonServer, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(Refused, match=said):
        generate(adapted.http, text_input="a", **values)


def test_llmapi_without_adapters_says_so(llmapi: TritonServer) -> None:
    with pytest.raises(Refused, match="has no adapter 'a'; it was made without any"):
        generate(llmapi.http, text_input="a", lora_name="a")


def test_llmapi_does_not_load_without_the_folder_of_an_adapter(genai: Path, tmp_path: Path) -> None:
    from enginepress.errors import ServerError

    (tmp_path / "adapter").mkdir()
    repository = placed(make(tmp_path, recipe("llmapi", adapters={"a": str(tmp_path / "adapter")}), genai=genai))
    (tmp_path / "adapter").rmdir()
    with (
        pytest.raises(ServerError, match=r"adapter 'a': .*adapter is not there on this machine"),
        TritonServer(repository, log=tmp_path / "server.log", exit_timeout_s=0),
    ):
        raise AssertionError("started")


def test_llmapi_without_streaming_answers_whole(genai: Path, tmp_path: Path) -> None:
    repository = placed(make(tmp_path, recipe("llmapi", streaming=False), genai=genai))
    with TritonServer(repository, log=tmp_path / "server.log", exit_timeout_s=0) as server:
        said = generate(server.http, text_input="Every object has", sampling_param_max_tokens=4)
        assert said["text_output"] == " an identity, a"
        with pytest.raises(Refused, match="made without it"):
            generate(server.http, text_input="a", streaming=True)


def test_the_gate_asks_llmapi_by_its_own_names(genai: Path, tmp_path: Path) -> None:
    prompts = [Prompt(text=a["text"], messages=a["messages"], max_tokens=8) for a in ANSWERS[:2]]
    wanted = recipe("llmapi").model_copy(update={"checks": Checks(prompts=prompts)})
    unplaced = make(tmp_path, wanted, genai=genai)
    (tmp_path / "gate").mkdir()
    result = run_gate(unplaced, wanted, folder=tmp_path / "gate")
    assert [check for check in result.checks if not check.passed] == []


def test_vllm_is_served_and_gated_with_its_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serving_stand_ins(patch=monkeypatch)
    prompts = [Prompt(text="one two three four", max_tokens=3)]
    wanted = recipe("vllm").model_copy(update={"checks": Checks(prompts=prompts)})
    unplaced = make(tmp_path, wanted)
    (tmp_path / "gate").mkdir()
    result = run_gate(unplaced, wanted, folder=tmp_path / "gate")
    assert [check for check in result.checks if not check.passed] == []
    with TritonServer(placed(unplaced), log=tmp_path / "server.log", exit_timeout_s=0) as server:
        question = Question(text="one two three four", max_tokens=3, dialect="vllm")
        assert ask_grpc(server.grpc, "tiny", question, stream=True).pieces[:3] == (" one", " two", " three")
