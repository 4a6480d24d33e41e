"""How long a prompt may be in what is served, and whether it is computed in several passes.

One pass of the engine takes `max_num_tokens`. A longer prompt is computed in pieces (chunked), or refused:

    tensorrt_llm   enable_chunked_context, which needs engines with paged context FMHA; without it the runtime takes
                   min(max_seq_len - 1, max_num_tokens) tokens (TensorRT-LLM, TrtGptModel: maxInputLen)
    llmapi         enable_chunked_prefill, off by default; with latent attention on some GPUs only
    vllm           enable_chunked_prefill, on by default

We turn it on wherever a pass is shorter than a prompt, unless the recipe says otherwise.
"""

from __future__ import annotations

from enginepress.recipe import Recipe

DEFAULT_TOKENS = 8192
"""max_num_tokens of trtllm-build and of the LLM API if nothing is said."""

LATENT_SM = ("90", "100")
"""Where every release of the LLM API that we serve with chunks prompts of latent attention (TensorRT-LLM, py_executor_creator.py:
"Chunked Prefill for MLA can only be enabled on …", which turns it off with a warning elsewhere)."""


def paged_context(recipe: Recipe) -> bool:
    """Whether engines of this recipe have paged context FMHA: unless the recipe says it, where such kernels exist. None exist for
    int8 caches, and for fp8 caches only together with fp8 weights."""
    said = recipe.engine.options.build.get("use_paged_context_fmha")
    if said is not None:
        return said in (True, "enable", "true")
    return recipe.engine.kv_cache is None or (recipe.engine.kv_cache == "fp8" and recipe.engine.precision == "fp8")


def tokens_of(recipe: Recipe, sequence: int) -> int:
    """Tokens of all requests in one pass."""
    limits = recipe.engine.limits
    return limits.max_num_tokens or max(min(DEFAULT_TOKENS, sequence), limits.max_batch_size * limits.max_beam_width)


def wants_chunks(recipe: Recipe) -> bool:
    """Whether prompts may be longer than a pass, as far as the recipe says it: if it leaves the length of a sequence to the
    model, they may."""
    limits = recipe.engine.limits
    if limits.max_sequence_length is None:
        longest = limits.max_input_length
        return longest is None or longest > (limits.max_num_tokens or DEFAULT_TOKENS)
    longest = limits.max_input_length or limits.max_sequence_length
    return longest > tokens_of(recipe, limits.max_sequence_length)


def why_whole(recipe: Recipe, *, latent: bool = False, sm: str = "") -> str | None:
    """Why prompts are computed in one pass, as a clause; None if they are computed in pieces where it takes that.

    Args:
        latent: whether the model has multi-head latent attention. sm: of the GPU.
    """
    engine, serving = recipe.engine, recipe.serving
    if engine.builder == "tensorrt_llm":
        if serving.parameters.get("enable_chunked_context") is False:
            return "serving.parameters.enable_chunked_context is false"
        if not paged_context(recipe):
            because = (
                "engine.options.build.use_paged_context_fmha is off"
                if "use_paged_context_fmha" in engine.options.build
                else f"an engine in {engine.precision} with a KV cache in {engine.kv_cache} has no paged context FMHA"
            )
            return f"prompts cannot be computed in pieces: {because}"
    elif serving.engine_args.get("enable_chunked_prefill") is False:
        return "serving.engine_args.enable_chunked_prefill is false"
    elif engine.builder == "llmapi" and latent and sm not in LATENT_SM:
        return f"the LLM API computes prompts of multi-head latent attention in pieces on SM {' and '.join(LATENT_SM)} only"
    return None


def longest_prompt(recipe: Recipe, sequence: int, *, latent: bool = False, sm: str = "") -> int:
    """Tokens of the longest prompt that is served: a sequence has at least one token of answer."""
    most = max(1, min(recipe.engine.limits.max_input_length or sequence, sequence - 1))
    return most if why_whole(recipe, latent=latent, sm=sm) is None else min(most, tokens_of(recipe, sequence))
