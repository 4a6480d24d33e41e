"""Chat templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llm_chat import ChatTemplate
from llm_errors import RequestError
from llm_tokenizer import Tokenizer

from tests.templates.tokenizers_for_tests import KINDS, write_tokenizer

_MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'Say "<hi>" & é'}]
_TEMPLATES = {
    "roles": "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "blocks": "{%- for m in messages %}\n    {%- if loop.first %}\n[{{ m.content }}]\n    {% endif %}\n{%- endfor %}\nend",
    "json": "{{ messages | tojson }} {{ messages | tojson(indent=2) }}",
    "controls": "{% for m in messages %}{% if m.role == 'user' %}{% break %}{% endif %}{{ m.role }}{% endfor %}{{ eos_token }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "tools": "{% if tools is none and documents is none %}no tools{% endif %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
}


@pytest.mark.parametrize("name", _TEMPLATES)
def test_templates_read_as_transformers_reads_them(name: str, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    spec = KINDS["byte_level"]()
    reference = PreTrainedTokenizerFast(tokenizer_object=spec, bos_token="<s>", eos_token="</s>")
    reference.chat_template = _TEMPLATES[name]
    expected = reference.apply_chat_template(_MESSAGES, tokenize=False, add_generation_prompt=True)
    assert ChatTemplate(_TEMPLATES[name], {"bos_token": "<s>", "eos_token": "</s>"}).render(_MESSAGES) == expected
    reference.save_pretrained(tmp_path)
    template = ChatTemplate.load(tmp_path)
    assert template is not None
    assert template.render(_MESSAGES) == expected


def test_special_tokens_are_not_added_twice(tmp_path: Path) -> None:
    from tokenizers import processors

    spec = KINDS["byte_level"]()
    spec.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = Tokenizer(
        write_tokenizer(tmp_path, spec, bos_token="<s>", chat_template="{{ bos_token }}{{ messages[0].content }}")
    )
    assert tokenizer.encode_chat([{"role": "user", "content": "the"}]) == tokenizer.encode("the")
    assert tokenizer.encode("the").count(0) == 1


@pytest.mark.parametrize(
    "config",
    [
        {"bos_token": {"content": "<s>", "special": True}, "chat_template": "{{ bos_token }}!"},
        {"bos_token": "<s>", "chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "<s>!"}]},
    ],
)
def test_older_files_are_read(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    template = ChatTemplate.load(tmp_path)
    assert template is not None
    assert template.render(_MESSAGES) == "<s>!"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses them: roles must alternate"),
        ("{{ messages[7].content }}", "refuses them"),
        ("{{ messages.append(1) }}", "refuses them"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "refuses them"),
    ],
)
def test_what_a_template_refuses_or_may_not_do_is_the_requests_error(source: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        ChatTemplate(source, {}).render(_MESSAGES)


def test_a_folder_without_template_has_none(tmp_path: Path) -> None:
    assert ChatTemplate.load(tmp_path) is None
