"""Which of NVIDIA's conversion scripts takes which architecture.

The map follows TensorRT-LLM's own table of models (tensorrt_llm/models/__init__.py) and its examples' READMEs. The scripts
come with the container in use; a family's flags are in `contracts/convert-<family>.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from enginepress.errors import SourceError

WHERE = "config.json"


@dataclass(frozen=True)
class Family:
    """One conversion script.

    Attributes:
        name: ours; `convert-<name>` is the script's contract.
        folder: of the script in the examples, since 0.19 below `models/<group>`.
        older_folder: before 0.19, where the name changed as well.
        pipeline: False if the script refuses or cannot do pipeline parallelism.
        recurrent: keeps states instead of a KV cache in (some) layers.
        quantized: already quantized Hugging Face checkpoints that it reads, as `Quantization.method`s.
    """

    name: str
    group: Literal["core", "contrib"]
    folder: str
    older_folder: str = ""
    pipeline: bool = True
    recurrent: bool = False
    quantized: frozenset[str] = frozenset()

    @property
    def contract(self) -> str:
        return f"convert-{self.name}"

    def places(self) -> list[str]:
        """Where the script may lie below the folder of examples, the newest layout first."""
        plain = [self.folder, *([self.older_folder] if self.older_folder else [])]
        return [f"models/{self.group}/{folder}" for folder in plain] + plain

    def usual_place(self, version: str) -> str:
        """Where this release has it."""
        if tuple(int(part) for part in version.split(".")[:2]) >= (0, 19):
            return f"models/{self.group}/{self.folder}"
        return self.older_folder or self.folder


FAMILIES = {
    family.name: family
    for family in (
        Family("llama", "core", "llama", quantized=frozenset({"awq", "gptq", "fbgemm_fp8"})),
        Family("qwen", "core", "qwen", quantized=frozenset({"awq", "gptq"})),
        Family("gpt", "core", "gpt"),
        Family("gemma", "core", "gemma", pipeline=False),
        Family("phi", "core", "phi", pipeline=False),
        Family("mamba", "core", "mamba", pipeline=False, recurrent=True),
        Family("glm", "core", "glm-4-9b", "chatglm", pipeline=False),
        Family("commandr", "core", "commandr"),
        Family("internlm2", "core", "internlm2"),
        Family("nemotron_nas", "core", "nemotron_nas"),
        Family("recurrentgemma", "core", "recurrentgemma", pipeline=False, recurrent=True),
        Family("falcon", "contrib", "falcon"),
        Family("deepseek_v1", "contrib", "deepseek_v1"),
        Family("deepseek_v2", "contrib", "deepseek_v2"),
        Family("baichuan", "contrib", "baichuan"),
        Family("bloom", "contrib", "bloom", pipeline=False),
        Family("dbrx", "contrib", "dbrx"),
        Family("gptj", "contrib", "gptj"),
        Family("gptneox", "contrib", "gptneox", pipeline=False),
        Family("mpt", "contrib", "mpt"),
        Family("opt", "contrib", "opt", pipeline=False),
    )
}


@dataclass(frozen=True)
class Architecture:
    """One value of `architectures` in config.json.

    Attributes:
        modelopt: what `quantize.py` calls it, or "" if its table lacks it, so that it is not quantized by calibration.
        since: the first TensorRT-LLM release whose table of models was seen with it.
    """

    family: str
    modelopt: str = ""
    since: str = "0.18"


ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": Architecture("llama", "llama"),
    "MistralForCausalLM": Architecture("llama", "llama"),
    "MixtralForCausalLM": Architecture("llama", "llama"),
    "ArcticForCausalLM": Architecture("llama", "llama"),
    "ExaoneForCausalLM": Architecture("llama", "exaone"),
    "GraniteForCausalLM": Architecture("llama", "granite", since="1.0"),
    "GraniteMoeForCausalLM": Architecture("llama", "granitemoe", since="1.0"),
    "InternLMForCausalLM": Architecture("llama"),
    "SkyworkForCausalLM": Architecture("llama"),
    "InternLM2ForCausalLM": Architecture("internlm2"),
    "QWenLMHeadModel": Architecture("qwen", "qwen"),
    "Qwen2ForCausalLM": Architecture("qwen", "qwen"),
    "Qwen2MoeForCausalLM": Architecture("qwen"),
    "Qwen3ForCausalLM": Architecture("qwen", since="1.0"),
    "Qwen3MoeForCausalLM": Architecture("qwen", since="1.0"),
    "GPT2LMHeadModel": Architecture("gpt", "gpt2"),
    "GPTBigCodeForCausalLM": Architecture("gpt", "gptnext"),
    "Starcoder2ForCausalLM": Architecture("gpt", "gptnext"),
    "NemotronForCausalLM": Architecture("gpt", "nemotron"),
    "GemmaForCausalLM": Architecture("gemma", "gemma"),
    "Gemma2ForCausalLM": Architecture("gemma", "gemma2"),
    "Gemma3ForCausalLM": Architecture("gemma", "gemma3", since="1.0"),
    "PhiForCausalLM": Architecture("phi"),
    "Phi3ForCausalLM": Architecture("phi", "phi3"),
    "Phi3SmallForCausalLM": Architecture("phi", "phi3small"),
    "PhiMoEForCausalLM": Architecture("phi", "phi3", since="1.0"),
    "MambaForCausalLM": Architecture("mamba"),
    "RecurrentGemmaForCausalLM": Architecture("recurrentgemma", "recurrentgemma"),
    "ChatGLMModel": Architecture("glm", "chatglm"),
    "ChatGLMForCausalLM": Architecture("glm", "chatglm"),
    "ChatGLMForConditionalGeneration": Architecture("glm", "chatglm"),
    "CohereForCausalLM": Architecture("commandr"),
    "DeciLMForCausalLM": Architecture("nemotron_nas", "deci"),
    "FalconForCausalLM": Architecture("falcon", "falcon"),
    "RWForCausalLM": Architecture("falcon", "falcon"),
    "DeepseekForCausalLM": Architecture("deepseek_v1", "deepseek"),
    "DeepseekV2ForCausalLM": Architecture("deepseek_v2"),
    "BaichuanForCausalLM": Architecture("baichuan", "baichuan"),
    "BaiChuanForCausalLM": Architecture("baichuan", "baichuan"),
    "BloomForCausalLM": Architecture("bloom", "bloom"),
    "DbrxForCausalLM": Architecture("dbrx"),
    "GPTJForCausalLM": Architecture("gptj", "gptj"),
    "GPTNeoXForCausalLM": Architecture("gptneox"),
    "MptForCausalLM": Architecture("mpt", "mpt"),
    "MPTForCausalLM": Architecture("mpt", "mpt"),
    "OPTForCausalLM": Architecture("opt"),
}

_PYTORCH_ONLY = "TensorRT-LLM never had a conversion script for it; it runs on its PyTorch backend only"
_PICTURES = "it has a part for pictures or sound; only text models are built"
_NO_DECODER = "it is no decoder that generates text by itself"
_OTHER_FORMAT = "the conversion script reads its authors' own format, not a Hugging Face checkpoint"

REFUSED: dict[str, str] = {
    **dict.fromkeys(
        (
            "DeepseekV3ForCausalLM",
            "DeepseekV32ForCausalLM",
            "Exaone4ForCausalLM",
            "Glm4MoeForCausalLM",
            "GptOssForCausalLM",
            "HunYuanMoEV1ForCausalLM",
            "KimiK2ForCausalLM",
            "Llama4ForCausalLM",
            "NemotronHForCausalLM",
            "Qwen3NextForCausalLM",
            "SeedOssForCausalLM",
        ),
        _PYTORCH_ONLY,
    ),
    **dict.fromkeys(
        (
            "CogVLMForCausalLM",
            "Gemma3ForConditionalGeneration",
            "Llama4ForConditionalGeneration",
            "LlavaForConditionalGeneration",
            "LlavaLlamaModel",
            "Mistral3ForConditionalGeneration",
            "MllamaForConditionalGeneration",
            "Phi3VForCausalLM",
            "Phi4MMForCausalLM",
            "Qwen2AudioForConditionalGeneration",
            "Qwen2VLForConditionalGeneration",
            "Qwen2_5_VLForConditionalGeneration",
            "WhisperForConditionalGeneration",
        ),
        _PICTURES,
    ),
    **dict.fromkeys(
        (
            "BartForConditionalGeneration",
            "BertForQuestionAnswering",
            "BertForSequenceClassification",
            "BertModel",
            "Qwen2ForSequenceClassification",
            "RobertaForSequenceClassification",
            "T5ForConditionalGeneration",
        ),
        _NO_DECODER,
    ),
    "Grok1ModelForCausalLM": _OTHER_FORMAT,
}


def architecture_name(config: Mapping[str, Any]) -> str:
    """The architecture that config.json names.

    Raises:
        SourceError: if it names none, or several.
    """
    value = config.get("architectures")
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], str) or not value[0]:
        raise SourceError(
            f"'architectures' names no single architecture: {value!r}",
            where=WHERE,
            fix="take a checkpoint in Hugging Face's format, whose config.json names one",
        )
    return value[0]


def release_of(version: str) -> tuple[int, ...]:
    """Major and minor number of a TensorRT-LLM version."""
    return tuple(int(part) for part in version.split(".")[:2])
