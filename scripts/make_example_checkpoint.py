"""Makes the example checkpoint: a small Llama in Hugging Face's layout, trained from nothing on a small free text.

    python scripts/make_example_checkpoint.py --output examples/checkpoints/tiny-llama

Needs the extra `onnxruntime` (torch, transformers, tokenizers) and one CPU core for a quarter of an hour. The same seed,
steps, threads, packages and processor give the same weights. With --minutes the clock decides instead. The aim is a model
that is small enough for a repository and whose greedy text can be read: with this little text it learns its corpus by
heart, and that is what it answers with.

    <output>/model.safetensors                      bfloat16, tied embeddings
    <output>/config.json  generation_config.json
    <output>/tokenizer.json  tokenizer_config.json  special_tokens_map.json   byte-level BPE trained on the same text
    <output>/chat_template.jinja

README.md and LICENSE beside them are written by people and stay as they are.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

CHECKPOINTS = Path(__file__).resolve().parent.parent / "examples" / "checkpoints"

STEPS = 1600
LENGTH = 512
BATCH_TOKENS = 3 * LENGTH
CUTS = (0.0, 0.25, 0.6)
"""Chances that a section is cut after a sentence; each time one of them is drawn for the section."""
NOISE = 0.03
"""Share of the tokens that the model reads wrong: it learns to find back into its text from a prompt that is not in it."""
PEAK_RATE, WARMUP = 3e-3, 80

BOS, EOS, SYSTEM, USER, ASSISTANT = SPECIAL = ("<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages -%}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|assistant|>\\n' }}
{%- endif -%}
"""
QUESTIONS = ("What is {}?", "Explain {}.", "Tell me about {}.")
ANSWER_WORDS = 110

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": LENGTH,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "use_cache": True,
    "bos_token_id": SPECIAL.index(BOS),
    "eos_token_id": SPECIAL.index(EOS),
    "pad_token_id": SPECIAL.index(EOS),
    "torch_dtype": "bfloat16",
}

Section = tuple[str, list[str]]
"""Heading and paragraphs."""


def main() -> int:
    options = arguments()
    try:
        import torch
        import transformers
    except ImportError as error:
        raise SystemExit(f"{error}; pip install 'enginepress[onnxruntime]'") from None

    transformers.set_seed(options.seed)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    sections = read_sections(options.corpus)
    tokenizer = train_tokenizer(sections)
    model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**CONFIG, "torch_dtype": "float32"}))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(sections)} sections", flush=True)
    batches = batches_of(sections, tokenizer, random.Random(options.seed))
    progress = by_clock(options.minutes) if options.minutes else lambda step: step / options.steps
    if options.bfloat16:
        model.set_attn_implementation(attention_in_float32())
    train(model, batches, progress, bfloat16=options.bfloat16)
    write_checkpoint(options.output, model.to(torch.bfloat16), tokenizer)
    print(f"wrote {options.output}: {sum(f.stat().st_size for f in options.output.iterdir()) / 1e6:.1f} MB")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains the example checkpoint, a small Llama, on a CPU.")
    parser.add_argument("--output", type=Path, default=CHECKPOINTS / "tiny-llama", help="folder of the checkpoint")
    parser.add_argument("--corpus", type=Path, default=CHECKPOINTS / "corpus" / "python-topics.txt", help="text to learn")
    parser.add_argument("--seed", type=int, default=7)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=STEPS, help="training steps (default: %(default)s)")
    length.add_argument("--minutes", type=float, help="train by the clock instead; not reproducible")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--bfloat16", action="store_true", help="multiply in bfloat16: faster where the CPU has AMX")
    return parser.parse_args()


# Text -----------------------------------------------------------------------------------------------------------------


def read_sections(path: Path) -> list[Section]:
    """The corpus: blocks between empty lines, of which those that begin with `# ` are headings."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path}: the corpus cannot be read: {error}") from None
    sections: list[Section] = []
    for block in content.split("\n\n"):
        text = block.strip()
        if text.startswith("# "):
            sections.append((text.removeprefix("# "), []))
        elif text and sections:
            sections[-1][1].append(text)
    filled = [section for section in sections if section[1]]
    if not filled:
        raise SystemExit(f"{path}: no heading (a line that begins with `# `) with a paragraph below it")
    return filled


def train_tokenizer(sections: list[Section]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for heading, paragraphs in sections for text in [heading, *paragraphs]), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, CONFIG["bos_token_id"])]
    )
    return tokenizer


def batches_of(sections: list[Section], tokenizer: Tokenizer, rng: random.Random) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and labels, without end: documents of like length, one a row, BATCH_TOKENS or a little less at a time."""
    import torch

    while True:
        documents = [tokenizer.encode(d, add_special_tokens=False).ids[:LENGTH] for d in documents_of(sections, rng)]
        rng.shuffle(documents)
        batches: list[list[list[int]]] = [[]]
        for document in sorted(documents, key=len, reverse=True):
            if batches[-1] and (len(batches[-1]) + 1) * len(batches[-1][0]) > BATCH_TOKENS:
                batches.append([])
            batches[-1].append(document)
        rng.shuffle(batches)
        for batch in batches:
            width = len(batch[0])
            ids = torch.tensor([document + [CONFIG["pad_token_id"]] * (width - len(document)) for document in batch])
            padding = torch.tensor([[column >= len(document) for column in range(width)] for document in batch])
            noise = (torch.rand(ids.shape) < NOISE) & (ids >= len(SPECIAL))
            wrong = torch.randint_like(ids, len(SPECIAL), CONFIG["vocab_size"])
            yield torch.where(noise, wrong, ids), ids.masked_fill(padding, -100)


def documents_of(sections: list[Section], rng: random.Random) -> Iterator[str]:
    """One round through the text: each section, whole or cut at random sentences, and as a chat.

    Each piece begins with BOS, and some in the middle of a sentence, so the model learns to go on from anywhere and not
    only from headings. Only the last piece of a section ends with EOS.
    """
    for heading, paragraphs in sections:
        cuts = rng.choice(CUTS)
        sentences = [heading, *(s for p in paragraphs for s in ("\n" + p).replace(". ", ".\0 ").split("\0"))]
        pieces = [[sentences[0]]]
        for sentence in sentences[1:]:
            if rng.random() < cuts:
                pieces.append([without_first_words(sentence, rng)])
            else:
                pieces[-1].append(sentence)
        for piece in pieces:
            yield BOS + "".join(piece) + (EOS if piece is pieces[-1] else "")
        yield chat(heading, paragraphs, rng)


def without_first_words(sentence: str, rng: random.Random) -> str:
    words = sentence.split()
    return " ".join(words[rng.randrange(len(words) // 2 + 1) if rng.random() < 0.5 else 0 :])


def chat(heading: str, paragraphs: list[str], rng: random.Random) -> str:
    """A question about a section and its beginning as the answer, in the words of CHAT_TEMPLATE."""
    subject = heading[:1].lower() + heading[1:] if heading.startswith(("The ", "A ", "An ")) else heading
    answer = [paragraphs[0]]
    for paragraph in paragraphs[1:]:
        if len(" ".join([*answer, paragraph]).split()) > ANSWER_WORDS:
            break
        answer.append(paragraph)
    question = rng.choice(QUESTIONS).format(subject)
    return f"{BOS}{USER}\n{question}\n{ASSISTANT}\n" + "\n".join(answer) + EOS


# Training -------------------------------------------------------------------------------------------------------------


def by_clock(minutes: float) -> Callable[[int], float]:
    start = time.monotonic()
    return lambda step: (time.monotonic() - start) / (60 * minutes)


def attention_in_float32() -> str:
    """Registers PyTorch's attention without autocast and returns its name: on a CPU its bfloat16 kernel is the slower one."""
    import torch
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attention(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **options: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return plain(module, query.float(), key.float(), value.float(), *rest, **options)

    ALL_ATTENTION_FUNCTIONS.register("sdpa_float32", attention)
    return "sdpa_float32"


def train(
    model: torch.nn.Module,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    progress: Callable[[int], float],
    *,
    bfloat16: bool,
) -> None:
    """AdamW with warm-up and a cosine down to nothing; `progress` says how much of the training is done at a step."""
    import math

    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.02, fused=True)
    start, step, mean = time.monotonic(), 0, 0.0
    model.train()
    while (done := progress(step)) < 1:
        rate = PEAK_RATE * min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids, labels = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mean = loss.item() if step == 0 else 0.95 * mean + 0.05 * loss.item()
        step += 1
        if step % 50 == 0:
            print(f"step {step:5d}  {done:4.0%}  loss {mean:.3f}  {time.monotonic() - start:.0f} s", flush=True)
    model.eval()


# Output ---------------------------------------------------------------------------------------------------------------


def write_checkpoint(folder: Path, model: Any, tokenizer: Tokenizer) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "additional_special_tokens": [SYSTEM, USER, ASSISTANT]}
    tokens = {key: CONFIG[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": LENGTH, "clean_up_tokenization_spaces": False}
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", {**tokens, "do_sample": False})
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", {**settings, **special})


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
