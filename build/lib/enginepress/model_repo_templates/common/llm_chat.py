"""Chat messages, written as the prompt that the model was trained on, with the checkpoint's own template."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_errors import RequestError

Message = Mapping[str, Any]


class ChatTemplate:
    """The template of <tokenizer folder>/chat_template.jinja, or of `chat_template` in tokenizer_config.json.

    It comes from the checkpoint, so it runs in jinja2's sandbox. It gets what transformers gives it: messages,
    add_generation_prompt, the special tokens by name, raise_exception(), strftime_now() and a plain `tojson`.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        # Imported here: a model without a chat template needs no jinja2.
        import jinja2.ext
        import jinja2.sandbox

        class Generation(jinja2.ext.Extension):  # type: ignore[misc, unused-ignore]
            """`{% generation %}` marks answers for training; here it only stands around its body."""

            tags = {"generation"}

            def parse(self, parser: Any) -> Any:
                next(parser.stream)
                return parser.parse_statements(("name:endgeneration",), drop_needle=True)

        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        self._template = environment.from_string(source)
        self._special_tokens = dict(special_tokens)

    @classmethod
    def load(cls, folder: Path) -> ChatTemplate | None:
        """The template of this tokenizer folder, or None if it has none."""
        file = folder / "tokenizer_config.json"
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        jinja = folder / "chat_template.jinja"
        source = jinja.read_text(encoding="utf-8") if jinja.is_file() else config.get("chat_template")
        if isinstance(source, list):  # several named templates
            source = {entry["name"]: entry["template"] for entry in source}.get("default")
        if not source:
            return None
        special_map = folder / "special_tokens_map.json"
        if special_map.is_file():
            config = {**json.loads(special_map.read_text(encoding="utf-8")), **config}
        return cls(source, _special_tokens(config))

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt, with the special tokens that the template writes.

        Raises:
            RequestError: the template refuses these messages.
        """
        try:
            return self._template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **self._special_tokens
            )
        except Exception as error:  # whatever the checkpoint's template raises is about these messages
            raise RequestError(f"messages: the model's chat template refuses them: {error}") from None


def parse_messages(text: str) -> list[Message]:
    """Reads the input `messages`: a JSON list of objects with `role` and `content`; other keys reach the template."""
    try:
        messages = json.loads(text)
    except ValueError as error:
        raise RequestError(f"messages: is not JSON: {error}") from None
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages: must be a JSON list with at least one message")
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise RequestError(f"messages[{number}]: must be an object with role and content")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise RequestError(f"messages[{number}].{key}: must be a string")
    return messages


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"):
        value = config.get(name)
        if isinstance(value, dict):  # older files write an object for a token
            value = value.get("content")
        if isinstance(value, str):
            tokens[name] = value
    return tokens


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """jinja2's own `tojson` escapes for HTML, which no model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise_exception(message: str) -> None:
    raise ValueError(message)
