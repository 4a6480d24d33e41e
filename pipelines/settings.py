"""What a task gets of a cluster: image, resources, node, volumes, secrets, labels, retries, time-outs. No step knows of it.

What is a parameter of the run stands in `Parameters`; what Kubeflow fixes at compile time in `CompileOptions`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfp import kubernetes

from enginepress.cluster import ENVIRONMENT, SCRATCH_PATH, Cluster
from enginepress.compile_options import KNOWN_SECRETS, CompileOptions, bytes_of, mirrored

GPU_STEPS = ("convert", "build", "verify")
READ_STORE = ("resolve", "verify", "register", "find_changed")
WRITE_STORE = ("publish", "promote")
LONG = ("download", "convert", "build", "verify", "publish")
ONCE = ("conclude",)
"""What it says stays the same: trying again would only take longer."""
SHORT_S = 3600
"""Seconds that every other step may take."""

LIGHT = {
    "resolve": ("1", "2Gi"),
    "download": ("4", "4Gi"),
    "assemble": ("2", "4Gi"),
    "publish": ("4", "4Gi"),
    "register": ("1", "2Gi"),
    "promote": ("1", "2Gi"),
    "find_changed": ("2", "2Gi"),
    "conclude": ("1", "1Gi"),
    "report": ("1", "1Gi"),
}
"""Processors and memory, as request and limit, of steps that stream files or talk to servers, whatever the model's size."""

SECRETS = {
    "resolve": ("source", "s3", "recipe"),
    "download": ("source", "s3", "recipe"),
    "verify": ("s3",),
    "publish": ("s3",),
    "register": ("s3", "registry", "recipe"),
    "promote": ("s3", "registry", "recipe"),
    "find_changed": ("source", "s3", "registry", "recipe"),
}
"""Whose secrets a step gets. Steps that run other people's tools get none; verify runs a server, and reads the store."""

NEVER_PROXIED = ("localhost", "127.0.0.1", "$(KUBERNETES_SERVICE_HOST)", ".svc", ".cluster.local", ".kubeflow")
"""Kubeflow's launcher runs in the step's own container, with its variables: it asks Kubernetes by address, which Kubernetes puts
in here, and its object store as seaweedfs.kubeflow."""

CA_PATH = "/etc/enginepress-ca"
CA_FILE = "ca-bundle.crt"
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")


@dataclass(frozen=True)
class Parameters:
    """The run's parameters that settings are made of; each is a channel of the pipeline."""

    image: Any
    workspace_pvc: Any
    store_pvc: Any
    node_selector: Any
    tolerations: Any
    gpu_tolerations: Any
    source_secret: Any
    s3_secret: Any
    registry_secret: Any
    recipe_secret: Any


def cluster_of(options: CompileOptions) -> Cluster:
    return Cluster(
        workspace=options.workspace,
        mounts=(*([options.store] if options.store else []), *(m.path for m in options.mounts)),
        scratch=bytes_of(options.scratch, where="--scratch"),
        shared_memory=bytes_of(options.shared_memory, where="--shared-memory"),
        secrets=tuple(sorted({*options.secrets, *(name for names in KNOWN_SECRETS.values() for name in names)})),
        image_prefix=options.image_prefix,
    )


def settle(task: Any, step: str, options: CompileOptions, parameters: Parameters, pod: Mapping[str, Any] | None = None) -> Any:
    """Gives a task its place on a cluster.

    Args:
        pod: outputs of resolve for convert, build and verify: image, cpu, memory, gpu_resource, gpu_count, affinity.
    """
    task.set_caching_options(False)
    task.set_env_variable(ENVIRONMENT, cluster_of(options).to_json())
    if options.retries and step not in ONCE:
        task.set_retry(options.retries, "30s", 2.0, "600s")
    kubernetes.set_timeout(task, int(options.timeout_h * 3600) if step in LONG else SHORT_S)
    if options.security_context:
        kubernetes.set_security_context(task, run_as_non_root=True)
    _resources(task, step, parameters, pod)
    _volumes(task, step, options, parameters)
    _nodes(task, step, parameters, pod)
    _secrets(task, step, options, parameters)
    _site(task, step, options)
    return task


def _resources(task: Any, step: str, parameters: Parameters, pod: Mapping[str, Any] | None) -> None:
    if pod is None:
        cpu, memory = LIGHT[step]
        task.set_container_image(parameters.image)
        # NVIDIA's images ask for all GPUs of their node by themselves.
        task.set_env_variable("NVIDIA_VISIBLE_DEVICES", "void")
    else:
        cpu, memory = pod["cpu"], pod["memory"]
        task.set_container_image(pod["image"])
        task.set_accelerator_type(pod["gpu_resource"]).set_accelerator_limit(pod["gpu_count"])
    task.set_cpu_request(cpu).set_cpu_limit(cpu).set_memory_request(memory).set_memory_limit(memory)


def _volumes(task: Any, step: str, options: CompileOptions, parameters: Parameters) -> None:
    kubernetes.mount_pvc(task, pvc_name=parameters.workspace_pvc, mount_path=options.workspace)
    if options.store and step in (*READ_STORE, *WRITE_STORE, "download"):
        kubernetes.mount_pvc(task, pvc_name=parameters.store_pvc, mount_path=options.store)
    for mount in options.mounts if step not in ("assemble", "conclude", "report") else ():
        kubernetes.mount_pvc(task, pvc_name=mount.pvc, mount_path=mount.path)
    if step not in GPU_STEPS:
        kubernetes.empty_dir_mount(task, "scratch", SCRATCH_PATH, size_limit="10Gi")
        return
    if options.scratch_class is None:
        kubernetes.empty_dir_mount(task, "scratch", SCRATCH_PATH, size_limit=options.scratch)
    else:
        kubernetes.add_ephemeral_volume(
            task, "scratch", SCRATCH_PATH, ["ReadWriteOnce"], options.scratch, storage_class_name=options.scratch_class
        )
    kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory", size_limit=options.shared_memory)


def _nodes(task: Any, step: str, parameters: Parameters, pod: Mapping[str, Any] | None) -> None:
    kubernetes.add_node_selector_json(task, parameters.node_selector)
    kubernetes.add_toleration_json(task, parameters.tolerations)
    if pod is not None:
        kubernetes.add_node_affinity_json(task, pod["affinity"])
        kubernetes.add_toleration_json(task, parameters.gpu_tolerations)


def _secrets(task: Any, step: str, options: CompileOptions, parameters: Parameters) -> None:
    names = {
        "source": parameters.source_secret,
        "s3": parameters.s3_secret,
        "registry": parameters.registry_secret,
        "recipe": parameters.recipe_secret,
    }
    known = {*(key for keys in KNOWN_SECRETS.values() for key in keys)}
    for kind in SECRETS.get(step, ()):
        # A variable comes from one Secret only.
        keys = KNOWN_SECRETS[kind] if kind != "recipe" else sorted({*options.secrets} - known)
        if keys:
            kubernetes.use_secret_as_env(task, names[kind], {key: key for key in keys}, optional=True)


def _site(task: Any, step: str, options: CompileOptions) -> None:
    """Labels, by which network policies know steps, and what a disconnected site and Kueue need in each."""
    kubernetes.add_pod_label(task, "app.kubernetes.io/name", "enginepress")
    kubernetes.add_pod_label(task, "app.kubernetes.io/component", step.replace("_", "-"))
    for name, value in (
        ("HTTP_PROXY", options.http_proxy),
        ("HTTPS_PROXY", options.https_proxy),
        ("NO_PROXY", _no_proxy(options)),
    ):
        if value:
            task.set_env_variable(name, value)
            task.set_env_variable(name.lower(), value)
    if options.ca_config_map:
        kubernetes.use_config_map_as_volume(task, options.ca_config_map, mount_path=CA_PATH)
        for name in CA_VARIABLES:
            task.set_env_variable(name, f"{CA_PATH}/{CA_FILE}")
    if options.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(options.pull_secrets))
    if options.queue:
        kubernetes.add_pod_label(task, "kueue.x-k8s.io/queue-name", options.queue)
    if options.priority:
        kubernetes.add_pod_label(task, "kueue.x-k8s.io/priority-class", options.priority)


def _no_proxy(options: CompileOptions) -> str:
    if not (options.http_proxy or options.https_proxy):
        return options.no_proxy
    own = [name.strip() for name in options.no_proxy.split(",") if name.strip()]
    return ",".join(dict.fromkeys([*NEVER_PROXIED, *own]))


def image_of(options: CompileOptions) -> str:
    return mirrored(options.image, options.image_prefix)
