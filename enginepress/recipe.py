"""The recipe: what a user writes to say what to build, how to check it and where it goes.

    name: tiny-llama                             Triton model, registered model and folder in the store
    source: {uri: "hf://org/name@main"}          where the checkpoint comes from
    engine: {builder: onnxruntime, precision: int4}
    serving: {max_concurrent_requests: 32}
    checks: {reference: reference.json, prompts: [{text: Once upon a time}]}
    stores: ["file:///srv/models"]               the first is the primary
    registry: {tracking_uri: "sqlite:////srv/mlflow.db"}
    channels: [candidate]

These models are the schema (`enginepress schema`). A key may be added, never renamed; a default is never changed, because
defaults are left out of the canonical form and so of every digest.
`enginepress.recipe_file` reads recipes from YAML and turns what is wrong into messages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from enginepress.canonical import json_digest
from enginepress.recipe_fields import (
    ChannelName,
    Duration,
    JsonMapping,
    ModelName,
    RegularExpression,
    S3CaBundle,
    S3Endpoint,
    S3PathStyle,
    S3Region,
    SecretReference,
    Section,
    Sha256,
    TrackingUri,
)

BuilderName = Literal["onnxruntime", "tensorrt_llm", "llmapi", "vllm"]
Precision = Literal["float32", "float16", "bfloat16", "int8", "int4", "fp8", "nvfp4", "int8_sq", "int4_awq", "w4a8_awq"]
"""`int8` and `int4` are weight-only; `int8_sq` is SmoothQuant, `int4_awq` and `w4a8_awq` are AWQ by width of activations."""

UNSERVED_CHANNEL = "candidate"
"""The only channel for a release that no server has ever loaded."""


class Source(Section):
    """Where the checkpoint comes from."""

    uri: str = Field(
        description="hf://org/name[@revision], ngc://org[/team]/name[:version], s3://bucket/folder, or file:///folder "
        "(file://relative is taken from the recipe's folder).",
        pattern=r"^(hf|ngc|s3|file)://.+",
    )
    token: SecretReference | None = Field(
        None, description="Environment reference, as ${NAME}. HF_TOKEN and NGC_API_KEY are used by themselves."
    )
    allow_pickle: bool = Field(False, description="Accept checkpoints in pickle files, which can run code when they are read.")
    trust_remote_code: bool = Field(False, description="Let the checkpoint's own Python code be downloaded and run.")
    digests: dict[str, Sha256] = Field(
        default_factory=dict, description="sha256 that files must have, by path, on top of what the source publishes."
    )
    endpoint: S3Endpoint = None
    region: S3Region = None
    path_style: S3PathStyle = False
    ca_bundle: S3CaBundle = None
    link: Literal["copy", "hard"] = Field(
        "copy",
        description="file: `hard` takes files over by hard link where it can; an edit in place then changes the workspace too.",
    )
    bandwidth_mb_s: float | None = Field(None, gt=0, description="Cap on a download's bandwidth, megabytes a second.")
    lock: dict[str, Any] | None = Field(
        None, description="Filled in from <recipe>.lock.json, which `enginepress lock` writes, when the recipe is read."
    )


class Limits(Section):
    """What one engine must be able to take."""

    max_batch_size: int = Field(8, ge=1, le=4096, description="Requests computed together.")
    max_sequence_length: int | None = Field(
        None, ge=8, le=10_000_000, description="Prompt and answer together, tokens. Default: what the model was made for."
    )
    max_input_length: int | None = Field(
        None, ge=1, le=10_000_000, description="Prompt, tokens. Default: the sequence length. GPU builders only."
    )
    max_num_tokens: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Tokens of all requests in one pass of the engine: what activations are sized for. Default: 8192, or a "
        "sequence if that is shorter. GPU builders only.",
    )
    max_beam_width: int = Field(1, ge=1, le=64, description="Beams of one request. GPU builders only.")


class Parallelism(Section):
    """Over how many GPUs one model is spread."""

    tensor: int = Field(1, ge=1, le=1024)
    pipeline: int = Field(1, ge=1, le=1024)
    context: int = Field(1, ge=1, le=1024)
    moe_tensor: int | None = Field(
        None, ge=1, le=1024, description="Mixture of experts: GPUs that one expert is spread over. Times moe_expert = tensor."
    )
    moe_expert: int | None = Field(None, ge=1, le=1024, description="Mixture of experts: GPUs that experts are dealt out to.")

    @property
    def world_size(self) -> int:
        """GPUs that one instance of the model takes, which is the number of ranks."""
        return self.tensor * self.pipeline * self.context


class Gpu(Section):
    """The GPUs that build and serve."""

    name: str = Field(description="Product name, e.g. H100-SXM5-80GB.", min_length=1)
    count: int = Field(1, ge=1, le=1024, description="GPUs of one node that this model may use.")
    nodes: int = Field(1, ge=1, le=128, description="Nodes that one instance of the model is spread over.")


class Calibration(Section):
    """What a quantization measures activations with. Always local: nothing is ever downloaded for it."""

    data: str = Field(
        description="A .jsonl file with a `text` in each line, or a .txt file with one text a line; relative to the recipe.",
        min_length=1,
    )
    sha256: Sha256 | None = Field(None, description="Of the file. Filled in when the recipe is read; a wrong one is refused.")
    samples: int = Field(512, ge=1, le=100_000, description="Texts used at most.")
    max_length: int = Field(512, ge=8, le=131_072, description="Tokens used of a text at most.")
    batch_size: int = Field(1, ge=1, le=1024, description="Texts calibrated with together.")


class Options(Section):
    """Flags of NVIDIA's own tools, by their names without dashes, for what the recipe has no field for."""

    convert: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="Of convert_checkpoint.py or quantize.py."
    )
    build: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="Of trtllm-build, e.g. gemm_plugin: fp8, multiple_profiles: enable."
    )


class Engine(Section):
    """What is built from the checkpoint."""

    builder: BuilderName = "onnxruntime"
    precision: Precision = "float32"
    limits: Limits = Limits()
    parallelism: Parallelism = Parallelism()
    gpu: Gpu | None = None
    kv_cache: Literal["fp8", "int8", "nvfp4"] | None = Field(
        None, description="Precision of the KV cache. Default: that of the activations."
    )
    container: str | None = Field(
        None,
        pattern=r"^\d\d\.\d\d$",
        description="Triton release whose container builds and serves, e.g. 26.07. Default: the newest that can.",
    )
    image: str | None = Field(
        None, min_length=1, description="Reference of that container if it is not NVIDIA's own, best with @sha256:…"
    )
    converter: Literal["image", "modelopt"] = Field(
        "image",
        description="tensorrt_llm: the container's own convert_checkpoint.py and quantize.py, or ModelOpt, which needs neither "
        "that container nor a GPU.",
    )
    calibration: Calibration | None = None
    options: Options = Options()


class Serving(Section):
    """How Triton serves the engine. Everything here but `rollout` is part of the model repository."""

    max_concurrent_requests: int = Field(64, ge=1, le=4096, description="More are refused with a named error.")
    max_tokens_default: int = Field(128, ge=1, le=1_000_000, description="Used when a request names no max_tokens.")
    slow_path_requests: int = Field(
        2,
        ge=0,
        le=64,
        description="Requests at a time for what the batched engine lacks (log-probabilities, bad words).",
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of the engine; 0: one for each core that the server may use.")
    streaming: bool = Field(True, description="tensorrt_llm, llmapi: answers may be streamed (Triton's decoupled mode).")
    bls: bool = Field(False, description="tensorrt_llm: add <name>-bls, which does what the ensemble does in one Python model.")
    multi_gpu: Literal["leader", "orchestrator"] = Field(
        "leader", description="tensorrt_llm on several GPUs: a process for each rank, or one process that starts the others."
    )
    parameters: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="tensorrt_llm: parameters of NVIDIA's model repository by their own names, e.g. "
        "kv_cache_free_gpu_mem_fraction: 0.85.",
    )
    engine_args: JsonMapping = Field(
        default_factory=dict, description="llmapi: arguments of LLM(); vllm: engine arguments. By their own names."
    )
    adapters: dict[str, str] = Field(
        default_factory=dict,
        description="llmapi: LoRA adapters that a request may name in lora_name: name -> folder of the machine that serves.",
    )
    rollout: Literal["reload", "restart"] | None = Field(
        None,
        description="How live servers change to another release: reload loads it beside the old one, restart takes one server "
        "after the other out and in again. Default: reload where memory holds both. No part of the model repository.",
    )


class Prompt(Section):
    """One prompt that the gate asks."""

    text: str | None = Field(None, min_length=1, description="The prompt. Either this or messages.")
    messages: list[dict[str, str]] | None = Field(None, min_length=1, description="A chat: role and content. Or text.")
    max_tokens: int = Field(32, ge=1, le=100_000)
    pattern: RegularExpression | None = Field(None, description="A regular expression that must be found in the answer.")

    @model_validator(mode="after")
    def _one_of(self) -> Prompt:
        if (self.text is None) == (self.messages is None):
            raise ValueError("a prompt has either text or messages")
        return self


class Load(Section):
    """Speed that the served model must reach, measured by the gate."""

    concurrency: int = Field(4, ge=1, le=1024, description="Requests at a time.")
    requests: int = Field(16, ge=1, le=100_000, description="Requests in all.")
    max_tokens: int = Field(32, ge=1, le=100_000, description="Tokens asked for per request.")
    max_first_token_ms: float | None = Field(None, gt=0, description="Limit for the median, one request at a time.")
    min_tokens_per_second: float | None = Field(None, gt=0, description="Floor for all requests together.")
    min_requests_per_second: float | None = Field(None, gt=0)


class Checks(Section):
    """What a build must show before it is published."""

    served: bool = Field(
        True,
        description="Serve it with the real Triton before publishing. What was published unserved stays on channel candidate.",
    )
    prompts: list[Prompt] = Field(default_factory=list)
    reference: str | dict[str, Any] | None = Field(
        None,
        description="File made by `enginepress reference`, relative to the recipe: the answers to compare with. "
        "A recipe that travels holds the file's content.",
    )
    min_agreement: float = Field(
        1.0, ge=0, le=1, description="Share of the reference's tokens that must be given, over all prompts. 1 means exactly."
    )
    load: Load | None = None
    ready_timeout_s: float = Field(180, gt=0, le=86_400, description="How long the server may take to load the model.")


def named_twice(names: Sequence[str]) -> str | None:
    """The first name that was there before."""
    return next((name for index, name in enumerate(names) if name in names[:index]), None)


_S3_STORE_FIELDS = {"endpoint", "region", "path_style", "ca_bundle", "checksum", "single_writer", "paranoid"}
_S3_URL = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{1,254}(/[^/?#\x00-\x1f]+)*/?")


class Store(Section):
    """A place that holds releases."""

    url: str = Field(
        description="file:///folder (file://relative is taken from the recipe's folder), or s3://bucket/folder.",
        pattern=r"^(file|s3)://.+",
    )
    mount: str | None = Field(None, pattern=r"^/", description="file: where readers see this folder, if not under the same path.")
    endpoint: S3Endpoint = None
    region: S3Region = None
    path_style: S3PathStyle = False
    ca_bundle: S3CaBundle = None
    checksum: Literal["auto", "payload", "md5", "sha256", "crc32", "none"] = Field(
        "auto",
        description="s3: digest that goes with every request. payload: sha256, signed with it. "
        "auto: the first of payload, md5, sha256, crc32 that the server checks.",
    )
    single_writer: bool = Field(
        False, description="s3: nobody else writes at the same time, so a server without atomic conditional writes will do."
    )
    paranoid: bool = Field(False, description="s3: read every file back after it was sent.")

    @model_validator(mode="after")
    def _fields_of_its_kind(self) -> Store:
        scheme = self.url.partition("://")[0]
        foreign = {"file": _S3_STORE_FIELDS, "s3": {"mount"}}[scheme]
        # A value that says nothing is no mistake: a recipe that was read and written out again names every field.
        said = {name for name in foreign if getattr(self, name) != type(self).model_fields[name].default}
        if wrong := sorted(said):
            raise ValueError(f"{', '.join(wrong)}: a store of the kind {scheme}:// has no such thing")
        if scheme == "s3" and not _S3_URL.fullmatch(self.url):
            raise ValueError("write it as s3://bucket or s3://bucket/folder")
        return self


class Registry(Section):
    """The MLflow registry."""

    tracking_uri: TrackingUri | None = Field(None, description="Any MLflow tracking URI. Default: SQLite in the workspace.")
    experiment: str = Field("enginepress", min_length=1)
    username: SecretReference | None = None
    password: SecretReference | None = None
    token: SecretReference | None = None


class Signing(Section):
    """Who signs releases, and whose signature counts. Every file named here is public, but for the key."""

    key: SecretReference | None = Field(
        None, description="Environment reference, as ${NAME}: the signer's private key (elliptic curve, PEM), or its file."
    )
    password: SecretReference | None = Field(None, description="Environment reference: of that key, if it is encrypted.")
    certificate: str | None = Field(
        None,
        min_length=1,
        description="File with the signer's certificate (PEM), followed by those between it and the authority. A recipe that "
        "travels holds the file's content, as it does for the next two.",
    )
    public_key: str | None = Field(None, min_length=1, description="File with the public key that signatures must be made with.")
    trusted_certificates: str | None = Field(
        None, min_length=1, description="File with certificates of authorities whose signers are trusted. Or public_key."
    )
    require: bool = Field(False, description="Promote, rollback and pull refuse a release without a good signature.")

    @model_validator(mode="after")
    def _makes_sense(self) -> Signing:
        if self.public_key and self.trusted_certificates:
            raise ValueError("signatures are checked with public_key or with trusted_certificates, not both")
        if self.require and not (self.public_key or self.trusted_certificates):
            raise ValueError("require needs public_key or trusted_certificates: with what would signatures be checked?")
        if (self.certificate or self.password) and not self.key:
            raise ValueError("certificate and password belong to a key, and none is named")
        return self


class Retention(Section):
    """Which old releases `enginepress prune` leaves in the stores, besides those that channels need."""

    keep: int | None = Field(None, ge=1, description="The newest so many.")
    younger_than: Duration | None = Field(None, description="Those published less than so long ago, as 30d or 12h.")


class Recipe(Section):
    """One model: from which checkpoint, built how, checked how, published where."""

    name: ModelName
    description: str = ""
    source: Source
    engine: Engine = Engine()
    serving: Serving = Serving()
    checks: Checks = Checks()
    stores: list[Store] = Field(min_length=1)
    registry: Registry = Registry()
    signing: Signing = Signing()
    channels: list[ChannelName] = Field(default_factory=lambda: ["candidate"])
    retention: Retention = Retention()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        """`source: URI` and `stores: [URL]` are short for their mappings."""
        if isinstance(data, dict):
            data = dict(data)
            if isinstance(data.get("source"), str):
                data["source"] = {"uri": data["source"]}
            if isinstance(data.get("stores"), list):
                data["stores"] = [{"url": s} if isinstance(s, str) else s for s in data["stores"]]
        return data

    @model_validator(mode="after")
    def _nothing_twice(self) -> Recipe:
        if (url := named_twice([s.url.rstrip("/") for s in self.stores])) is not None:
            raise ValueError(f"stores: {url} is named twice")
        if (channel := named_twice(self.channels)) is not None:
            raise ValueError(f"channels: {channel} is named twice")
        if not self.checks.served and (beyond := [c for c in self.channels if c != UNSERVED_CHANNEL]):
            raise ValueError(
                f"channels: with checks.served: false a release goes to channel {UNSERVED_CHANNEL} only, "
                f"not to {', '.join(beyond)}"
            )
        return self

    def secret_variables(self) -> frozenset[str]:
        """Names of the environment variables from which the recipe's secrets are read."""
        registry, signing = self.registry, self.signing
        references = (self.source.token, registry.username, registry.password, registry.token, signing.key, signing.password)
        return frozenset(reference[2:-1] for reference in references if reference is not None)

    def canonical(self) -> dict[str, Any]:
        """The recipe as plain JSON values without what is left at its default."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def build_fields(self) -> dict[str, Any]:
        """The part that can change the engine or the repository."""
        engine = self.engine.model_dump(mode="json", exclude_defaults=True)
        if "calibration" in engine:
            del engine["calibration"]["data"]  # its sha256 stays: where the file lies changes nothing
        return {
            "name": self.name,
            "source": {k: getattr(self.source, k) for k in ("allow_pickle", "trust_remote_code")},
            "engine": engine,
            "serving": self.serving.model_dump(mode="json", exclude_defaults=True, exclude={"rollout"}),
        }

    def digest(self) -> str:
        return json_digest(self.canonical())

    def checks_digest(self) -> str:
        """What was demanded of a release: a release gated by these checks need not be gated by them again."""
        return json_digest(self.checks.model_dump(mode="json", exclude_defaults=True))
