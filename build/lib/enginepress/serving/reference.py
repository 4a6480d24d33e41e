"""The reference: what the unquantized checkpoint answers to the recipe's prompts, made once and kept beside the recipe.

`make_reference` asks transformers in float32, always taking the likeliest token. The gate then needs neither torch nor the
checkpoint: it compares what a built and served engine says with this file.

    {"format": 1, "revision": "<Revision.digest>", "source": "hf://org/name",
     "made_with": {"torch": "2.13.0", "transformers": "5.23.0"},
     "answers": [{"text": "Once upon", "messages": null, "max_tokens": 32, "tokens": [301, 17], "answer": " a time"}]}

What an answer is, here and in every served model:
- A `text` prompt is tokenized with the special tokens that the tokenizer adds by itself (usually BOS in front). A chat is
  rendered with the checkpoint's chat template and a generation prompt, then tokenized without adding any: the template
  has written them.
- It ends before the first end-of-sequence token of generation_config.json (or config.json), or after `max_tokens`. That
  token is not in `tokens`.
- Its text is what the prompt's text grows by: `decode(prompt + answer)` with the beginning `decode(prompt)` removed, both
  without special tokens and without any clean-up. For byte-level tokenizers that is `decode(answer)`; for SentencePiece
  ones `decode(answer)` alone would lose the space in front of the first word. If `max_tokens` cuts a character in two, the
  text ends with U+FFFD.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginepress.errors import EnginepressError, RecipeError, SourceError

if TYPE_CHECKING:
    from enginepress.recipe import Prompt, Recipe

FORMAT = 1
FIELD = "checks.reference"
REMAKE = "make it again with `enginepress reference RECIPE`"


@dataclass(frozen=True)
class ReferenceAnswer:
    """One prompt (`text` or `messages`) and its answer, as token ids and as text."""

    text: str | None
    messages: tuple[Mapping[str, str], ...] | None
    max_tokens: int
    tokens: tuple[int, ...]
    answer: str


@dataclass(frozen=True)
class Reference:
    """A reference file.

    Attributes:
        revision: digest of the checkpoint's revision (`Revision.digest`) that answered.
        source: the URI that it came from; for people.
        made_with: package versions; for people.
    """

    revision: str
    source: str
    made_with: Mapping[str, str]
    answers: tuple[ReferenceAnswer, ...]

    def find(self, prompt: Prompt) -> ReferenceAnswer | None:
        """The answer to this prompt, or None if it, or its max_tokens, is not what was asked."""
        messages = None if prompt.messages is None else tuple(prompt.messages)
        return next(
            (a for a in self.answers if a.text == prompt.text and a.messages == messages and a.max_tokens == prompt.max_tokens),
            None,
        )


def agreement(reference_tokens: Sequence[int], served_tokens: Sequence[int]) -> tuple[int, int]:
    """Positions at which both have the same token, and how many the reference has.

    What is served beyond the reference's end counts neither for nor against: max_tokens bounds it.
    """
    return sum(a == b for a, b in zip(reference_tokens, served_tokens, strict=False)), len(reference_tokens)


# Reading --------------------------------------------------------------------------------------------------------------


def read_reference(content: str | bytes | Mapping[str, Any]) -> Reference:
    """A reference from the text of its file, or from the JSON object in it.

    Raises:
        RecipeError: naming the part of it that is wrong.
    """
    if isinstance(content, (str, bytes)):
        try:
            content = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _wrong("", f"is not JSON: {error}") from None
    data = _typed(content, "", dict, "an object")
    if data.get("format") != FORMAT or isinstance(data["format"], bool):
        raise RecipeError(
            f"has the format {data.get('format')!r}, and this enginepress reads format {FORMAT}", where=FIELD, fix=REMAKE
        )
    made_with = _member(data, "", "made_with", dict, "an object")
    for package in made_with:
        _member(made_with, ".made_with", package, str, "a text")
    answers = _member(data, "", "answers", list, "a list")
    if not answers:
        raise _wrong(".answers", "is empty, so there is nothing to compare with")
    return Reference(
        revision=_member(data, "", "revision", str, "a text"),
        source=_member(data, "", "source", str, "a text"),
        made_with=dict(made_with),
        answers=tuple(_read_answer(answer, f".answers[{i}]") for i, answer in enumerate(answers)),
    )


def _read_answer(value: Any, at: str) -> ReferenceAnswer:
    data = _typed(value, at, dict, "an object")
    text = None if data.get("text") is None else _member(data, at, "text", str, "a text or null")
    messages = None if data.get("messages") is None else _member(data, at, "messages", list, "a list or null")
    if (text is None) == (messages is None):
        raise _wrong(at, "must have either text or messages")
    for i, message in enumerate(messages or []):
        place = f"{at}.messages[{i}]"
        for key in _typed(message, place, dict, "an object"):
            _member(message, place, key, str, "a text")
    max_tokens = _member(data, at, "max_tokens", int, "a whole number")
    tokens = _member(data, at, "tokens", list, "a list")
    for i, token in enumerate(tokens):
        if _typed(token, f"{at}.tokens[{i}]", int, "a token id") < 0:
            raise _wrong(f"{at}.tokens[{i}]", f"is {token}, and token ids are not negative")
    if len(tokens) > max_tokens:
        raise _wrong(f"{at}.tokens", f"has {len(tokens)} tokens, more than max_tokens {max_tokens}")
    return ReferenceAnswer(
        text=text,
        messages=None if messages is None else tuple(dict(m) for m in messages),
        max_tokens=max_tokens,
        tokens=tuple(tokens),
        answer=_member(data, at, "answer", str, "a text"),
    )


def _member(data: Mapping[str, Any], at: str, key: str, kind: type, wanted: str) -> Any:
    if key not in data:
        raise _wrong(f"{at}.{key}", "is missing")
    return _typed(data[key], f"{at}.{key}", kind, wanted)


def _typed(value: Any, at: str, kind: type, wanted: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _wrong(at, f"must be {wanted}, not {repr(value)[:60]}")
    return value


def _wrong(at: str, problem: str) -> RecipeError:
    return RecipeError(problem, where=FIELD + at, fix=REMAKE)


# Making ---------------------------------------------------------------------------------------------------------------


def make_reference(
    checkpoint: Path,
    recipe: Recipe,
    *,
    revision_digest: str,
    source: str,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Asks the checkpoint every prompt of the recipe. Takes 4 bytes of memory per parameter, and minutes for large models.

    Args:
        checkpoint: folder in Hugging Face's layout, not quantized.
        revision_digest: of the revision that lies in `checkpoint`.
        source: where it came from, for people.
        progress: called with 1 after each prompt.

    Returns:
        The content of a reference file.

    Raises:
        RecipeError: if the recipe has no prompts, or one that this checkpoint cannot be asked.
        SourceError: if transformers cannot load the checkpoint.
        EnginepressError: if torch or transformers are not installed.
    """
    prompts = recipe.checks.prompts
    if not prompts:
        raise RecipeError(
            "the recipe has no prompts, so there is nothing to answer", where="checks.prompts", fix="add a prompt or two"
        )
    try:
        import torch
        import transformers
    except ImportError as error:
        raise EnginepressError(
            f"a reference is made with torch and transformers, and {error.name or 'one of them'} cannot be imported: {error}",
            fix="pip install 'enginepress[onnxruntime]'",
        ) from None
    with _quiet(transformers):
        tokenizer, model = _load(transformers, checkpoint, recipe)
        answers = []
        for index, prompt in enumerate(prompts):
            ids = _prompt_ids(tokenizer, prompt, f"checks.prompts[{index}]")
            _check_length(model, recipe, len(ids) + prompt.max_tokens, f"checks.prompts[{index}]")
            tokens = _greedy(model, ids, prompt.max_tokens)
            answers.append(
                {
                    "text": prompt.text,
                    "messages": prompt.messages,
                    "max_tokens": prompt.max_tokens,
                    "tokens": tokens,
                    "answer": _answer_text(tokenizer, ids, tokens),
                }
            )
            if progress is not None:
                progress(1)
    return {
        "format": FORMAT,
        "revision": revision_digest,
        "source": source,
        "made_with": {"torch": torch.__version__, "transformers": transformers.__version__},
        "answers": answers,
    }


def _load(transformers: Any, checkpoint: Path, recipe: Recipe) -> tuple[Any, Any]:
    """Tokenizer and model."""
    trusted = recipe.source.trust_remote_code
    options: dict[str, Any] = {"trust_remote_code": trusted, "local_files_only": True}
    folder = str(checkpoint)
    # Whatever is wrong with a stranger's checkpoint surfaces here as almost any exception of its loaders.
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **options)
        _refuse_quantized(config, folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype="float32", use_safetensors=None if recipe.source.allow_pickle else True, **options
        ).eval()
    except EnginepressError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        detail = lines[0] if lines else type(error).__name__
        needs_code = "trust_remote_code" in str(error) and not trusted
        raise SourceError(
            f"transformers cannot load the checkpoint: {detail}",
            where=folder,
            fix="if you trust the code in this checkpoint, set source.trust_remote_code: true" if needs_code else None,
        ) from None
    # Only where to stop is taken over: penalties and sampling of the checkpoint's defaults are not what is compared.
    defaults = model.generation_config
    stop = defaults.eos_token_id if defaults.eos_token_id is not None else getattr(config, "eos_token_id", None)
    model.generation_config = transformers.GenerationConfig(eos_token_id=stop, pad_token_id=_first(stop))
    return tokenizer, model


def _refuse_quantized(config: Any, folder: str) -> None:
    quantization = getattr(config, "quantization_config", None)
    if quantization is None:
        return
    method = quantization.get("quant_method") if isinstance(quantization, dict) else getattr(quantization, "quant_method", None)
    raise SourceError(
        f"the checkpoint is quantized already ({method or 'unknown method'}), so it cannot say what float32 answers",
        where=folder,
        fix="make the reference from the unquantized checkpoint, or leave checks.reference out of the recipe",
    )


def _prompt_ids(tokenizer: Any, prompt: Prompt, where: str) -> list[int]:
    if prompt.messages is None:
        return [int(i) for i in tokenizer(prompt.text)["input_ids"]]
    if not tokenizer.chat_template:
        raise RecipeError("has messages, and this checkpoint has no chat template", where=where, fix="ask with text instead")
    # A template is the checkpoint's own program, and may refuse an order of roles in its own words.
    try:
        rendered = tokenizer.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:
        raise RecipeError(f"the checkpoint's chat template refuses these messages: {error}", where=where) from None
    return [int(i) for i in tokenizer(rendered, add_special_tokens=False)["input_ids"]]


def _check_length(model: Any, recipe: Recipe, needed: int, where: str) -> None:
    limits = (recipe.engine.limits.max_sequence_length, getattr(model.config, "max_position_embeddings", None))
    limit = min((n for n in limits if n), default=needed)
    if needed > limit:
        raise RecipeError(
            f"prompt and answer need {needed} tokens, and the model takes {limit}",
            where=where,
            fix="shorten the prompt or lower its max_tokens",
        )


def _greedy(model: Any, ids: list[int], max_tokens: int) -> list[int]:
    import torch

    prompt = torch.tensor([ids])
    with torch.inference_mode():
        output = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=max_tokens, do_sample=False, num_beams=1
        )
    tokens = [int(t) for t in output[0, len(ids) :].tolist()]
    stop = model.generation_config.eos_token_id
    stops = set(stop if isinstance(stop, list) else [stop])
    return tokens[:-1] if tokens and tokens[-1] in stops else tokens


def _answer_text(tokenizer: Any, ids: list[int], tokens: list[int]) -> str:
    def decode(token_ids: list[int]) -> str:
        return str(tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    before, after = decode(ids), decode(ids + tokens)
    return after[len(before) :] if after.startswith(before) else decode(tokens)


def _first(value: int | list[int] | None) -> int | None:
    return value[0] if isinstance(value, list) else value


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Library code does not write to the terminal, and transformers would: progress bars and warnings."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
