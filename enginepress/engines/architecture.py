"""What a checkpoint's config.json says of the model's shapes, for any decoder language model.

Families spell the same thing differently (`n_layer`, `num_layers`, `num_hidden_layers`), and multimodal ones put it under
`text_config`. Nothing is guessed: a size that no spelling gives is an error that names the spellings.
Sources of the spellings: the configuration classes of huggingface/transformers, src/transformers/models/*/configuration_*.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginepress.errors import SourceError, UnsupportedModelError

WHERE = "config.json"

_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "model_dim")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num", "num_query_groups")
_HEAD_DIM = ("head_dim", "kv_channels", "attention_head_size")
_INTERMEDIATE = ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim")
_CONTEXT = ("max_position_embeddings", "n_positions", "seq_length", "max_sequence_length", "max_seq_len", "n_ctx")
_VOCABULARY = ("vocab_size", "padded_vocab_size")
_EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts", "num_experts_per_layer")
_PREDICTORS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules")
_ACTIVE = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "top_k_experts", "experts_per_token")

_PLAIN_MLP = {
    "gpt2",
    "gpt_bigcode",
    "starcoder2",
    "gpt_neox",
    "gptj",
    "gpt_neo",
    "opt",
    "bloom",
    "falcon",
    "RefinedWeb",
    "RefinedWebModel",
    "mpt",
    "phi",
    "nemotron",
}
"""Families (`model_type`) whose feed-forward part is two matrices; all others have a gate as the third."""

_TIED = {"gpt2", "gpt_bigcode", "gemma", "gemma2", "gemma3", "gemma3_text", "falcon", "opt", "bloom", "cohere", "cohere2", "mpt"}
"""Families that share the input and output embedding unless config.json says otherwise."""

_STATEFUL = {
    "mamba",
    "mamba2",
    "falcon_mamba",
    "recurrent_gemma",
    "rwkv",
    "jamba",
    "nemotron_h",
    "zamba",
    "zamba2",
    "bamba",
}
"""Families (`model_type`) that keep a state instead of, or beside, keys and values."""

_ENCODERS = {"t5", "mt5", "bart", "mbart", "bert", "roberta", "whisper", "marian", "m2m_100"}


@dataclass(frozen=True)
class Experts:
    """Mixture of experts.

    Attributes:
        count, active: experts of one layer, and how many of them a token goes through.
        intermediate_size: width of one expert.
        shared_size: width of what every token goes through beside its experts, 0 if there is none.
        layers: how many layers have experts; the others are plain.
    """

    count: int
    active: int
    intermediate_size: int
    shared_size: int
    layers: int


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek): keys and values are kept as one compressed vector for all heads."""

    kv_rank: int
    q_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int

    @property
    def cached(self) -> int:
        """Numbers that are kept of one token in one layer."""
        return self.kv_rank + self.rope_dim


@dataclass(frozen=True)
class Shape:
    """One decoder's shape. Counts are of the whole model.

    Attributes:
        gated: the feed-forward part is three matrices instead of two.
        context: tokens that the model was made for.
        tied: input and output embedding are the same numbers.
        window: tokens that layers with a sliding window look back, or None.
        windowed_layers: how many layers have that window.
        bias: attention's first projection has biases.
        dtype: of the checkpoint's numbers, as config.json says, or None.
        quantization: the checkpoint's own `quantization_config`, or None.
        predictor_layers: beside `layers`, those that guess further tokens (multi-token prediction); they run only if asked to.
    """

    architecture: str
    model_type: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    gated: bool
    vocab_size: int
    context: int
    tied: bool
    experts: Experts | None = None
    latent: LatentAttention | None = None
    window: int | None = None
    windowed_layers: int = 0
    bias: bool = False
    dtype: str | None = None
    quantization: Mapping[str, Any] | None = None
    predictor_layers: int = 0

    @property
    def expert_layers(self) -> int:
        return self.experts.layers if self.experts is not None else 0

    @property
    def attention_parameters(self) -> int:
        """Of one layer, without norms."""
        if self.latent is not None:
            mla, qk = self.latent, self.latent.nope_dim + self.latent.rope_dim
            queries = mla.q_rank * (self.hidden_size + self.heads * qk) if mla.q_rank else self.hidden_size * self.heads * qk
            keys = self.hidden_size * mla.cached + mla.kv_rank * self.heads * (mla.nope_dim + mla.value_dim)
            return queries + keys + self.heads * mla.value_dim * self.hidden_size
        projected = (self.heads + 2 * self.kv_heads) * self.head_dim
        return self.hidden_size * (projected + self.heads * self.head_dim) + (projected if self.bias else 0)

    @property
    def plain_parameters(self) -> int:
        """Of one plain feed-forward layer."""
        return (3 if self.gated else 2) * self.hidden_size * self.intermediate_size

    @property
    def expert_parameters(self) -> int:
        """Of all experts of one layer, without what every token goes through."""
        if self.experts is None:
            return 0
        return self.experts.count * 3 * self.hidden_size * self.experts.intermediate_size

    @property
    def shared_parameters(self) -> int:
        """Of one layer with experts: what every token goes through, and what chooses the experts."""
        if self.experts is None:
            return 0
        return 3 * self.hidden_size * self.experts.shared_size + self.hidden_size * self.experts.count

    @property
    def embedding_parameters(self) -> int:
        """Of one embedding, input or output."""
        return self.vocab_size * self.hidden_size

    @property
    def block_parameters(self) -> int:
        """Matrices of all layers: everything but embeddings and norms."""
        plain, experts = self.layers - self.expert_layers, self.expert_layers
        return (
            self.layers * self.attention_parameters
            + plain * self.plain_parameters
            + experts * (self.expert_parameters + self.shared_parameters)
        )

    @property
    def norm_parameters(self) -> int:
        return (2 * self.layers + 1) * self.hidden_size

    @property
    def parameters(self) -> int:
        """All of them, as the checkpoint holds them. Small things of single families (further norms, biases) are left out."""
        return self.block_parameters + (1 if self.tied else 2) * self.embedding_parameters + self.norm_parameters


def read_shape(config: object) -> Shape:
    """The shape of the decoder that a parsed config.json describes.

    Raises:
        SourceError: naming the key that is missing or no size.
        UnsupportedModelError: for what is no decoder language model with a cache of keys and values.
    """
    if not isinstance(config, Mapping):
        raise SourceError("is not a JSON object", where=WHERE, fix="check that the source is a model in Hugging Face's layout")
    names = config.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else "unknown"
    inner = config
    for name in ("text_config", "llm_config", "language_config"):
        if isinstance(config.get(name), Mapping):
            inner = {**{k: v for k, v in config.items() if k not in config[name]}, **config[name]}
    model_type = str(inner.get("model_type", "unknown"))
    _refuse_others(architecture, model_type, inner)
    return _Reader(inner).shape(architecture, model_type)


def _refuse_others(architecture: str, model_type: str, config: Mapping[str, Any]) -> None:
    if model_type in _ENCODERS or config.get("is_encoder_decoder"):
        raise UnsupportedModelError(
            f"{architecture} ({model_type}) is no decoder-only language model, which is all that engines are planned for",
            where=WHERE,
            fix="name a decoder-only language model",
        )
    if model_type in _STATEFUL:
        raise UnsupportedModelError(
            f"{architecture} ({model_type}) keeps a state beside keys and values; its memory is not known to the plan",
            where=WHERE,
            fix="name a model with attention in all layers; builder 'tensorrt_llm' builds Mamba on one GPU without a plan",
        )


class _Reader:
    """Reads sizes under any of their spellings."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        for name in ("attn_config", "ffn_config"):  # MPT and DBRX
            if isinstance(config.get(name), Mapping):
                self.config = {**{k: v for k, v in config[name].items() if k != "model_type"}, **self.config}

    def maybe(self, *spellings: str) -> int | None:
        for name in spellings:
            value = self.config.get(name)
            if value is None:
                continue
            if type(value) is not int or value < 1:
                raise SourceError(f"'{name}' is {value!r} where a whole number above 0 is needed", where=WHERE)
            return value
        return None

    def size(self, *spellings: str) -> int:
        value = self.maybe(*spellings)
        if value is None:
            raise SourceError(
                f"says nothing of '{spellings[0]}'" + (f" (nor {', '.join(spellings[1:])})" if spellings[1:] else ""),
                where=WHERE,
                fix="check that the source is a language model in Hugging Face's layout",
            )
        return value

    def natural(self, name: str) -> int:
        """A count that may be 0 or missing."""
        value = self.config.get(name)
        return value if type(value) is int and value > 0 else 0

    def shape(self, architecture: str, model_type: str) -> Shape:
        layers, hidden, heads = self.size(*_LAYERS), self.size(*_HIDDEN), self.size(*_HEADS)
        head_dim = self.maybe(*_HEAD_DIM) or max(1, hidden // heads)
        gated = model_type not in _PLAIN_MLP
        window, windowed = self._window(layers)
        tied = self.config.get("tie_word_embeddings")
        return Shape(
            architecture=architecture,
            model_type=model_type,
            layers=layers,
            hidden_size=hidden,
            heads=heads,
            kv_heads=min(heads, self._kv_heads(heads)),
            head_dim=head_dim,
            intermediate_size=self.maybe("intermediate_size_mlp") or self._intermediate(hidden),
            gated=gated,
            vocab_size=self.size(*_VOCABULARY),
            context=self.size(*_CONTEXT),
            tied=tied if isinstance(tied, bool) else model_type in _TIED,
            experts=self._experts(layers, hidden),
            latent=self._latent(),
            window=window,
            windowed_layers=windowed,
            bias=bool(self.config.get("attention_bias", model_type in ("qwen2", "qwen2_moe", "qwen", "gpt2", "chatglm", "opt"))),
            dtype=_text(self.config.get("dtype") or self.config.get("torch_dtype")),
            quantization=_mapping(self.config.get("quantization_config")),
            predictor_layers=next((n for name in _PREDICTORS if (n := self.natural(name))), 0),
        )

    def _kv_heads(self, heads: int) -> int:
        if "multi_query_attention" in self.config and not self.config["multi_query_attention"]:
            return heads  # ChatGLM: the number of groups counts only if this is on
        found = self.maybe(*_KV_HEADS, "kv_n_heads")
        if self.config.get("multi_query") and not self.config.get("new_decoder_architecture"):
            return 1  # Falcon 7B, StarCoder: whatever else is written beside it
        return found or heads

    def _intermediate(self, hidden: int) -> int:
        return self.maybe(*_INTERMEDIATE, "ffn_hidden_size") or 4 * hidden

    def _experts(self, layers: int, hidden: int) -> Experts | None:
        count = self.maybe(*_EXPERTS)
        if count is None or count == 1:
            return None
        width = self.maybe("moe_intermediate_size") or self._intermediate(hidden)
        shared = self.natural("shared_expert_intermediate_size") or self.natural("n_shared_experts") * width
        if "intermediate_size_mlp" in self.config:  # Llama 4: one shared expert, and plain layers of another width
            shared = width
        return Experts(count, min(count, self.maybe(*_ACTIVE) or 1), width, shared, self._expert_layers(layers))

    def _expert_layers(self, layers: int) -> int:
        """DeepSeek begins with plain layers; Qwen names plain layers and may have experts in every n-th layer only."""
        first_plain = min(layers, self.natural("first_k_dense_replace"))
        step = self.natural("decoder_sparse_step") or self.natural("interleave_moe_layer_step") or 0
        by_step, step = step > 1, step or self.natural("moe_layer_freq") or 1
        plain = self.config.get("mlp_only_layers")
        named = set(plain) if isinstance(plain, list) else set()
        return sum(
            1
            for layer in range(first_plain, layers)
            if layer not in named and ((layer + 1) % step == 0 if by_step else layer % step == 0)
        )

    def _latent(self) -> LatentAttention | None:
        rank = self.maybe("kv_lora_rank")
        if rank is None:
            return None
        nope, rope = self.size("qk_nope_head_dim"), self.size("qk_rope_head_dim")
        return LatentAttention(rank, self.natural("q_lora_rank"), nope, rope, self.size("v_head_dim"))

    def _window(self, layers: int) -> tuple[int | None, int]:
        """The window and how many layers have it. Which layers: `layer_types`, or the family's pattern."""
        window = self.maybe("sliding_window") if self.config.get("sliding_window") else None
        if window is None or self.config.get("use_sliding_window") is False:
            return None, 0
        types = self.config.get("layer_types")
        if isinstance(types, list) and len(types) == layers:
            count = sum(kind == "sliding_attention" for kind in types)
        elif "gemma2" in str(self.config.get("model_type")):
            count = (layers + 1) // 2  # every other layer, beginning with the first
        elif pattern := self.natural("sliding_window_pattern"):
            count = layers - layers // pattern  # every n-th layer sees everything
        elif "max_window_layers" in self.config and self.config.get("use_sliding_window"):
            count = max(0, layers - self.natural("max_window_layers"))
        else:
            count = layers
        return (window, count) if count else (None, 0)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _mapping(value: object) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None
