"""The reference: made with transformers, compared here with a greedy loop of our own; read and checked without it."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.errors import EnginepressError, RecipeError, SourceError
from enginepress.recipe import Recipe
from enginepress.serving.reference import agreement, make_reference, read_reference
from tests.serving.small_checkpoint import CHAT_TEMPLATE, write_small_checkpoint

CHAT = [{"role": "user", "content": "tell me a story"}]


def recipe_for(prompts: list[dict[str, Any]], **parts: Any) -> Recipe:
    return Recipe.model_validate(
        {"name": "small", "source": "file:///nowhere", "stores": ["file:///nowhere"], "checks": {"prompts": prompts}, **parts}
    )


def made(checkpoint: Path, prompts: list[dict[str, Any]], **parts: Any) -> dict[str, Any]:
    return make_reference(checkpoint, recipe_for(prompts, **parts), revision_digest="d" * 64, source="file:///nowhere")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def greedy_by_hand(checkpoint: Path, ids: list[int], count: int, stops: set[int]) -> list[int]:
    """The likeliest token again and again, each time over the whole text: no cache, no generate()."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype=torch.float32).eval()
    answer: list[int] = []
    with torch.inference_mode():
        while len(answer) < count:
            token = int(model(torch.tensor([ids + answer])).logits[0, -1].argmax())
            if token in stops:
                break
            answer.append(token)
    return answer


# Making ---------------------------------------------------------------------------------------------------------------


def test_the_tokens_are_those_of_a_plain_greedy_loop(checkpoint: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    prompts = ["the quick brown fox", "a", "once upon a time"]
    answers = made(checkpoint, [{"text": p, "max_tokens": 20} for p in prompts])["answers"]
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = tokenizer.encode(prompt).ids
        assert ids[0] == tokenizer.token_to_id("<s>")
        assert answer["tokens"] == greedy_by_hand(checkpoint, ids, 20, {1})
        assert answer["answer"] == tokenizer.decode(ids + answer["tokens"]).removeprefix(tokenizer.decode(ids))


def test_a_chat_is_rendered_with_the_checkpoints_template_and_gets_no_second_bos(checkpoint: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    [answer] = made(checkpoint, [{"messages": CHAT, "max_tokens": 12}])["answers"]
    ids = tokenizer.encode("<s>user: tell me a story\nassistant:", add_special_tokens=False).ids
    assert ids.count(tokenizer.token_to_id("<s>")) == 1
    assert answer["tokens"] == greedy_by_hand(checkpoint, ids, 12, {1})
    assert (answer["text"], answer["messages"]) == (None, CHAT)


def test_an_answer_ends_before_the_end_token_that_the_generation_config_names(checkpoint: Path, tmp_path: Path) -> None:
    prompt = {"text": "the quick brown fox", "max_tokens": 20}
    [free] = made(checkpoint, [prompt])["answers"]
    stop = free["tokens"][5]
    first = free["tokens"].index(stop)
    stopping = write_small_checkpoint(tmp_path / "stopping", generation={"eos_token_id": [1, stop]})
    [answer] = made(stopping, [prompt])["answers"]
    assert answer["tokens"] == free["tokens"][:first]


def test_penalties_and_sampling_of_the_checkpoint_do_not_count(checkpoint: Path, tmp_path: Path) -> None:
    settings = {"eos_token_id": 1, "do_sample": True, "temperature": 2.0, "repetition_penalty": 5.0, "max_new_tokens": 3}
    other = write_small_checkpoint(tmp_path / "other", generation=settings)
    prompts = [{"text": "the quick brown fox", "max_tokens": 20}]
    assert made(other, prompts)["answers"] == made(checkpoint, prompts)["answers"]


def test_the_space_in_front_of_the_first_word_stays_in_the_answer_of_a_sentencepiece_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    checkpoint = write_small_checkpoint(tmp_path / "pieces", sentencepiece=True)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    [answer] = made(checkpoint, [{"text": "the quick brown fox", "max_tokens": 12}])["answers"]
    ids = tokenizer.encode("the quick brown fox").ids
    assert tokenizer.decode(ids) + answer["answer"] == tokenizer.decode(ids + answer["tokens"])
    # One of the two starts a word: only then is there a space to lose.
    assert tokenizer.id_to_token(answer["tokens"][0]).startswith("▁")
    assert answer["answer"].startswith(" ")


def test_two_references_of_one_checkpoint_are_equal_and_can_be_read(checkpoint: Path) -> None:
    prompts = [{"text": "a", "max_tokens": 8}, {"messages": CHAT, "max_tokens": 8}]
    first, second = made(checkpoint, prompts), made(checkpoint, prompts)
    assert first == second
    reference = read_reference(json.dumps(first))
    assert reference == read_reference(first)
    assert reference.revision == "d" * 64
    assert {"torch", "transformers"} == set(reference.made_with)
    for prompt, answer in zip(recipe_for(prompts).checks.prompts, first["answers"], strict=True):
        found = reference.find(prompt)
        assert found is not None
        assert (list(found.tokens), found.answer) == (answer["tokens"], answer["answer"])


def test_an_answer_to_another_question_is_not_found(checkpoint: Path) -> None:
    reference = read_reference(made(checkpoint, [{"text": "a", "max_tokens": 8}]))
    longer, other, chat = recipe_for(
        [{"text": "a", "max_tokens": 9}, {"text": "b", "max_tokens": 8}, {"messages": CHAT, "max_tokens": 8}]
    ).checks.prompts
    assert [reference.find(p) for p in (longer, other, chat)] == [None, None, None]


def test_nothing_is_written_to_the_terminal(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []
    recipe = recipe_for([{"text": "a", "max_tokens": 2}, {"text": "b", "max_tokens": 2}])
    make_reference(checkpoint, recipe, revision_digest="d", source="s", progress=seen.append)
    assert seen == [1, 1]
    assert capfd.readouterr() == ("", "")


def test_a_recipe_without_prompts_is_refused(checkpoint: Path) -> None:
    with pytest.raises(RecipeError, match="no prompts"):
        made(checkpoint, [])


def test_messages_for_a_checkpoint_without_a_chat_template_are_refused_naming_the_prompt(tmp_path: Path) -> None:
    checkpoint = write_small_checkpoint(tmp_path / "plain", chat_template=None)
    with pytest.raises(RecipeError, match="no chat template") as caught:
        made(checkpoint, [{"text": "a", "max_tokens": 1}, {"messages": CHAT}])
    assert caught.value.where == "checks.prompts[1]"


def test_a_template_that_refuses_the_messages_speaks_through_the_error(tmp_path: Path) -> None:
    template = "{{ raise_exception('roles must alternate') }}" + CHAT_TEMPLATE
    checkpoint = write_small_checkpoint(tmp_path / "strict", chat_template=template)
    with pytest.raises(RecipeError, match="roles must alternate"):
        made(checkpoint, [{"messages": CHAT}])


@pytest.mark.parametrize("limits", [{}, {"max_sequence_length": 32}], ids=["the model's own", "the recipe's"])
def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(checkpoint: Path, limits: dict[str, int]) -> None:
    limit = limits.get("max_sequence_length", 64)
    with pytest.raises(RecipeError, match=rf"the model takes {limit}$") as caught:
        made(checkpoint, [{"text": "a", "max_tokens": limit}], engine={"limits": limits})
    assert caught.value.where == "checks.prompts[0]"


def test_a_folder_that_is_no_checkpoint_is_a_source_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SourceError, match="transformers cannot load") as caught:
        made(tmp_path, [{"text": "a"}])
    assert caught.value.where == str(tmp_path)


def test_weights_in_pickle_files_are_not_opened(checkpoint: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    pickled = write_small_checkpoint(tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="transformers cannot load"):
        made(pickled, [{"text": "a"}])
    allowed = made(pickled, [{"text": "a", "max_tokens": 4}], source={"uri": "file:///nowhere", "allow_pickle": True})
    assert allowed["answers"] == made(checkpoint, [{"text": "a", "max_tokens": 4}])["answers"]


def test_the_checkpoints_own_code_is_not_run_unless_the_recipe_allows_it(tmp_path: Path) -> None:
    checkpoint = write_small_checkpoint(tmp_path / "remote")
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"model_type": "unheard-of", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise ImportError('own code ran')\n")
    with pytest.raises(SourceError) as caught:
        made(checkpoint, [{"text": "a"}])
    assert caught.value.fix is not None
    assert "source.trust_remote_code" in caught.value.fix
    assert not (tmp_path / "ran").exists()
    with pytest.raises(SourceError, match="own code ran"):
        made(checkpoint, [{"text": "a"}], source={"uri": "file:///nowhere", "trust_remote_code": True})
    assert (tmp_path / "ran").exists()


def test_a_quantized_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoint = write_small_checkpoint(tmp_path / "quantized")
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError, match=r"quantized already \(fp8\)"):
        made(checkpoint, [{"text": "a"}])


def test_without_torch_the_error_names_the_extra_to_install() -> None:
    script = """
import sys
from pathlib import Path
sys.modules["torch"] = None
from enginepress.errors import EnginepressError
from enginepress.recipe import Recipe
from enginepress.serving.reference import make_reference
prompts = {"prompts": [{"text": "a"}]}
recipe = Recipe.model_validate({"name": "m", "source": "file:///x", "stores": ["file:///x"], "checks": prompts})
try:
    make_reference(Path("/nowhere"), recipe, revision_digest="d", source="s")
except EnginepressError as error:
    print(error.message)
    print(error.fix)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    message, fix = done.stdout.splitlines()
    assert "torch" in message
    assert fix == "pip install 'enginepress[onnxruntime]'"


# Reading --------------------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "format": 1,
    "revision": "d" * 64,
    "source": "hf://org/name",
    "made_with": {"torch": "2.13.0", "transformers": "5.23.0"},
    "answers": [
        {"text": "Once upon", "messages": None, "max_tokens": 4, "tokens": [301, 17], "answer": " a time"},
        {"text": None, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "tokens": [], "answer": ""},
    ],
}


def changed(path: list[str | int], value: Any) -> dict[str, Any]:
    data = copy.deepcopy(GOOD)
    place: Any = data
    for part in path[:-1]:
        place = place[part]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


def test_reading_a_reference_imports_nothing_heavy() -> None:
    script = (
        "import sys, json; from enginepress.serving.reference import read_reference; read_reference(sys.stdin.read());"
        "print([m for m in ('torch', 'transformers', 'tokenizers', 'pydantic', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], input=json.dumps(GOOD), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (["revision"], KeyError, ".revision"),
        (["source"], 5, ".source"),
        (["made_with"], [], ".made_with"),
        (["made_with", "torch"], 2.13, ".made_with.torch"),
        (["answers"], KeyError, ".answers"),
        (["answers"], {}, ".answers"),
        (["answers"], [], ".answers"),
        (["answers", 0], "text", ".answers[0]"),
        (["answers", 0, "text"], None, ".answers[0]"),
        (["answers", 0, "messages"], [{"role": "user", "content": "both"}], ".answers[0]"),
        (["answers", 1, "messages"], "hi", ".answers[1].messages"),
        (["answers", 1, "messages", 0], ["hi"], ".answers[1].messages[0]"),
        (["answers", 1, "messages", 0, "content"], None, ".answers[1].messages[0].content"),
        (["answers", 0, "max_tokens"], "4", ".answers[0].max_tokens"),
        (["answers", 0, "max_tokens"], True, ".answers[0].max_tokens"),
        (["answers", 0, "max_tokens"], 1, ".answers[0].tokens"),
        (["answers", 0, "tokens"], KeyError, ".answers[0].tokens"),
        (["answers", 0, "tokens", 1], 17.0, ".answers[0].tokens[1]"),
        (["answers", 0, "tokens", 1], -1, ".answers[0].tokens[1]"),
        (["answers", 0, "answer"], KeyError, ".answers[0].answer"),
        (["answers", 0, "answer"], None, ".answers[0].answer"),
    ],
)
def test_a_damaged_reference_is_refused_naming_the_place(path: list[str | int], value: Any, where: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_reference(changed(path, value))
    assert caught.value.where == "checks.reference" + where
    assert caught.value.fix is not None
    assert "enginepress reference" in caught.value.fix


@pytest.mark.parametrize("version", [KeyError, 2, "1", None, True])
def test_a_reference_of_another_format_is_refused(version: Any) -> None:
    with pytest.raises(RecipeError, match="format"):
        read_reference(changed(["format"], version))


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"text"', b"\xff\xfe\x00", "[" * 100_000])
def test_what_is_no_json_object_is_refused(text: str | bytes) -> None:
    with pytest.raises(RecipeError):
        read_reference(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    value=json_values,
    path=st.sampled_from(
        [
            ["format"],
            ["revision"],
            ["made_with"],
            ["answers"],
            ["answers", 0],
            ["answers", 0, "tokens"],
            ["answers", 1, "messages"],
        ]
    ),
)
def test_any_json_in_any_place_is_read_or_refused_but_never_crashes(value: Any, path: list[str | int]) -> None:
    data = changed(path, value)
    try:
        reference = read_reference(json.dumps(data))
    except RecipeError as error:
        where = error.where
    else:
        where = "checks.reference"
        assert [list(a.tokens) for a in reference.answers] == [a["tokens"] for a in data["answers"]]
    assert where is not None
    assert where.startswith("checks.reference")


# Agreement ------------------------------------------------------------------------------------------------------------

token_lists = st.lists(st.integers(0, 5), max_size=12)


@given(token_lists, token_lists)
def test_agreement_counts_equal_positions_of_the_reference(reference: list[int], served: list[int]) -> None:
    equal, total = agreement(reference, served)
    assert total == len(reference)
    assert 0 <= equal <= min(len(reference), len(served))
    assert equal == total - sum(1 for i, token in enumerate(reference) if i >= len(served) or served[i] != token)


@given(token_lists, token_lists)
def test_an_answer_agrees_with_itself_and_with_itself_continued(tokens: list[int], more: list[int]) -> None:
    assert agreement(tokens, tokens) == (len(tokens), len(tokens))
    assert agreement(tokens, tokens + more) == (len(tokens), len(tokens))


@given(token_lists.filter(bool), st.data())
def test_one_changed_token_costs_exactly_one(tokens: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(tokens) - 1))
    served = [*tokens[:place], 99, *tokens[place + 1 :]]
    assert agreement(tokens, served) == (len(tokens) - 1, len(tokens))


def test_the_error_of_a_reference_is_an_enginepress_error_of_the_recipe() -> None:
    assert issubclass(RecipeError, EnginepressError)
    assert RecipeError.exit_status == 2
