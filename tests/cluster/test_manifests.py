"""deploy/: it renders, every object is what Kubernetes takes, pods are restricted, and nobody may more than they need."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginepress.pipelines.settings import CA_FILE, CA_PATH, CA_VARIABLES
from tests.cluster.compiled import compiled
from tests.cluster.manifests import DEPLOY, VERSIONS, named, of_kind, problems, render

FOLDERS = ("overlays/kubernetes", "overlays/openshift", "overlays/openshift-production", "production")
PRODUCTION = ("overlays/openshift-production", "production")


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[dict[str, Any]]]:
    return {folder: render(DEPLOY / folder) for folder in FOLDERS}


def _site(folder: Path, overlay: str, *components: str, **more: Any) -> list[dict[str, Any]]:
    """A site's own overlay."""
    (folder / "deploy").symlink_to(DEPLOY)
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "resources": [f"deploy/{overlay}"],
                "components": [f"deploy/components/{name}" for name in components],
                **more,
            }
        )
    )
    return render(folder)


@pytest.fixture(scope="module")
def with_all_components(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """An overlay of a site that takes everything that can be taken."""
    return _site(tmp_path_factory.mktemp("site"), "overlays/kubernetes", "gpu-watch", "kueue", "proxy", "ca")


def _pods(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of everything that starts some: CronJobs first."""
    jobs = [d["spec"]["jobTemplate"]["spec"] for d in of_kind(documents, "CronJob")] + [
        d["spec"] for d in of_kind(documents, "Job")
    ]
    return [job["template"]["spec"] for job in jobs]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_kubernetes_takes_every_object(rendered: dict[str, list[dict[str, Any]]], folder: str, version: str) -> None:
    assert rendered[folder]
    for document in rendered[folder]:
        assert problems(document, version) == [], (document["kind"], document["metadata"]["name"])


def test_kubernetes_takes_what_the_components_add(with_all_components: list[dict[str, Any]]) -> None:
    for document in with_all_components:
        assert problems(document, VERSIONS[-1]) == [], (document["kind"], document["metadata"]["name"])
    pod, prepares = _pods(with_all_components)
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "NVIDIA_VISIBLE_DEVICES" not in {e["name"] for e in container["env"]}, "that would hide the GPU that it takes"
    assert pod["imagePullSecrets"] == prepares["imagePullSecrets"] == [{"name": "mirror-pull"}]
    _trusts_the_site(pod)
    assert {"configMapRef": {"name": "enginepress-proxy"}} in container["envFrom"]
    (job,) = of_kind(with_all_components, "CronJob")
    assert job["spec"]["jobTemplate"]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "enginepress"


def _trusts_the_site(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    for name in CA_VARIABLES:
        assert {"name": name, "value": f"{CA_PATH}/{CA_FILE}"} in container["env"]
    assert {"name": "ca", "mountPath": CA_PATH, "readOnly": True} in container["volumeMounts"]
    assert {"name": "ca", "configMap": {"name": "enginepress-ca"}} in pod["volumes"]


@pytest.mark.parametrize("folder", ["overlays/openshift", "overlays/openshift-production"])
def test_on_openshift_pods_trust_what_the_cluster_trusts_and_find_its_names(
    rendered: dict[str, list[dict[str, Any]]], folder: str
) -> None:
    documents = rendered[folder]
    (pod,) = _pods(documents)
    _trusts_the_site(pod)
    filled = named(documents, "ConfigMap", "enginepress-ca")
    assert filled["metadata"]["labels"]["config.openshift.io/inject-trusted-cabundle"] == "true"
    assert "data" not in filled, "OpenShift fills it"
    rules = [rule for d in of_kind(documents, "NetworkPolicy") for rule in d["spec"].get("egress", ())]
    ports = {
        port["port"]
        for rule in rules
        for peer in rule.get("to", ())
        if peer.get("namespaceSelector", {}).get("matchLabels") == {"kubernetes.io/metadata.name": "openshift-dns"}
        for port in rule["ports"]
    }
    assert ports == {5353}
    assert "kube-dns" not in yaml.safe_dump(rules)


def test_a_disconnected_site_may_promote_to_production_too(tmp_path: Path) -> None:
    documents = _site(tmp_path, "production", "proxy", "ca", namespace="enginepress-production")
    for document in documents:
        assert problems(document, VERSIONS[-1]) == [], (document["kind"], document["metadata"]["name"])
    (pod,) = _pods(documents)
    _trusts_the_site(pod)
    assert {"configMapRef": {"name": "enginepress-proxy"}} in pod["containers"][0]["envFrom"]
    assert named(documents, "ConfigMap", "enginepress-proxy")["metadata"]["namespace"] == "enginepress-production"
    assert 3128 in {p["port"] for p in named(documents, "NetworkPolicy", "promote")["spec"]["egress"][0]["ports"]}


def test_the_watchers_recipes_may_lie_on_a_volume(tmp_path: Path) -> None:
    documents = _site(tmp_path, "overlays/openshift", "recipes-pvc")
    job = named(documents, "CronJob", "enginepress-watch")
    assert problems(job, VERSIONS[-1]) == []
    (pod,) = _pods(documents)
    (recipes,) = [v for v in pod["volumes"] if v["name"] == "recipes"]
    assert recipes == {"name": "recipes", "persistentVolumeClaim": {"claimName": "enginepress-recipes", "readOnly": True}}
    assert {"name": "recipes", "mountPath": "/recipes", "readOnly": True} in pod["containers"][0]["volumeMounts"]


def test_a_profiles_namespace_is_taken_as_the_docs_say(tmp_path: Path) -> None:
    page = (DEPLOY.parent / "docs" / "kubeflow.md").read_text()
    (written,) = re.findall(r"```yaml\n(namespace: team-a\n.*?)```", page, re.DOTALL)
    documents = _site(tmp_path, "overlays/kubernetes", **yaml.safe_load(written))
    assert of_kind(documents, "Namespace") == []
    assert {d["metadata"]["namespace"] for d in documents} == {"team-a"}
    (bound,) = of_kind(documents, "RoleBinding")
    assert {subject["namespace"] for subject in bound["subjects"]} == {"team-a"}


def test_the_check_itself_notices_what_is_wrong(rendered: dict[str, list[dict[str, Any]]]) -> None:
    good = named(rendered["overlays/openshift"], "CronJob", "enginepress-watch")
    typo = copy.deepcopy(good)
    typo["spec"]["concurencyPolicy"] = "Forbid"
    assert problems(typo, VERSIONS[-1])
    wrong = copy.deepcopy(good)
    wrong["spec"]["jobTemplate"]["spec"]["backoffLimit"] = "one"
    assert problems(wrong, VERSIONS[-1])
    firewall = copy.deepcopy(named(rendered["overlays/openshift"], "EgressFirewall", "default"))
    firewall["spec"]["egress"][0]["to"] = {"dnsname": "x"}
    assert problems(firewall, VERSIONS[-1])
    firewall["spec"]["egress"][0]["to"] = {"dnsName": "*.hf.co"}
    assert problems(firewall, VERSIONS[-1]), "OpenShift resolves a star only with a technology preview"
    assert problems({"apiVersion": "route.openshift.io/v1", "kind": "Route", "metadata": {"name": "x"}}, VERSIONS[-1]) == [
        "no schema knows route.openshift.io/v1 Route"
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_pods_are_restricted(rendered: dict[str, list[dict[str, Any]]], folder: str) -> None:
    """What Kubernetes' Pod Security Standard `restricted` and OpenShift's SCC restricted-v2 demand, and a read-only root."""
    for pod in _pods(rendered[folder]):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for volume in pod["volumes"]:
            assert set(volume) - {"name"} <= {"configMap", "persistentVolumeClaim", "emptyDir"}, (
                "restricted-v2 takes no hostPath or nfs"
            )
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
            writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
            assert "/tmp" in writable
            assert "@sha256:" in container["image"]


def test_openshift_gives_uid_and_group_and_plain_kubernetes_only_a_group(rendered: dict[str, list[dict[str, Any]]]) -> None:
    (openshift,) = _pods(rendered["overlays/openshift"])
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(openshift["securityContext"])
    for pod in _pods(rendered["overlays/kubernetes"]):
        assert pod["securityContext"]["fsGroup"] == 0, "Kubeflow's pods are in no other group, and write to the same volumes"


def test_plain_kubernetes_is_made_to_let_kubeflows_pods_write_to_both_volumes(rendered: dict[str, list[dict[str, Any]]]) -> None:
    job = named(rendered["overlays/kubernetes"], "Job", "enginepress-volumes")["spec"]
    pod = job["template"]["spec"]
    claims = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
    assert claims == {d["metadata"]["name"] for d in of_kind(rendered["overlays/kubernetes"], "PersistentVolumeClaim")}
    (container,) = pod["containers"]
    for mount in container["volumeMounts"]:
        assert mount["name"] == "scratch" or mount["mountPath"] in container["command"][-1]
    assert job["ttlSecondsAfterFinished"] > 0, "a job cannot be changed, and its image will be"


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_holds_a_secret_and_nobody_may_everything(rendered: dict[str, list[dict[str, Any]]], folder: str) -> None:
    assert of_kind(rendered[folder], "Secret") == []
    assert of_kind(rendered[folder], "ClusterRole") == of_kind(rendered[folder], "ClusterRoleBinding") == []
    for role in of_kind(rendered[folder], "Role"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            if "secrets" in rule["resources"]:
                assert rule["resourceNames"]
                assert rule["verbs"] == ["get"]
            assert "pods/exec" not in rule["resources"]


@pytest.mark.parametrize("production", PRODUCTION)
def test_promoting_to_production_is_a_role_of_its_own_in_a_namespace_of_its_own(
    rendered: dict[str, list[dict[str, Any]]], production: str
) -> None:
    role = named(rendered[production], "Role", "enginepress-promote")
    writes = {
        (r, v) for rule in role["rules"] for r in rule["resources"] for v in rule["verbs"] if v not in ("get", "list", "watch")
    }
    assert writes == {("jobs", "create"), ("configmaps", "patch"), ("configmaps", "update")}
    (settings,) = [rule for rule in role["rules"] if "configmaps" in rule["resources"]]
    assert settings["resourceNames"] == ["enginepress-promotion"], "what is promoted is said there, and nothing else may be"
    (pod,) = _pods(rendered[production])
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "enginepress-production"}}]
    for folder in ("overlays/kubernetes", "overlays/openshift"):
        assert "enginepress-production" not in yaml.safe_dump(rendered[folder])
        for name in ("enginepress-pipeline", "enginepress-submit", "enginepress-view"):
            verbs = named(rendered[folder], "Role", name)["rules"]
            assert not any({"cronjobs"} & set(rule["resources"]) for rule in verbs)


def test_the_watcher_runs_one_at_a_time_and_may_be_ended(rendered: dict[str, list[dict[str, Any]]]) -> None:
    job = named(rendered["overlays/kubernetes"], "CronJob", "enginepress-watch")["spec"]
    assert (job["concurrencyPolicy"], job["timeZone"], job["suspend"]) == ("Forbid", "Etc/UTC", True)
    pod, _ = _pods(rendered["overlays/kubernetes"])
    assert pod["containers"][0]["command"][2:] == ["enginepress", "watch", "/recipes", "--once", "--workspace", "/workspace"]


@pytest.mark.parametrize("folder", ["overlays/kubernetes", "overlays/openshift"])
def test_steps_that_run_other_peoples_tools_reach_no_network_outside(
    rendered: dict[str, list[dict[str, Any]]], folder: str
) -> None:
    policies = {d["metadata"]["name"]: d["spec"] for d in of_kind(rendered[folder], "NetworkPolicy")}
    assert policies["nothing-else"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert not any("ingress" in spec for spec in policies.values())
    (reaching,) = policies["sources-and-stores"]["podSelector"]["matchExpressions"]
    labels = {
        task.platform["podMetadata"]["labels"]["app.kubernetes.io/component"]: task
        for task in compiled("rebuild_on_new_checkpoints").tasks.values()
    }
    assert set(reaching["values"]) - {"watch"} <= set(labels), "each is the label of a step"
    reads = policies["stores"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
    kept_in = set(labels) - set(reaching["values"]) - {reads}
    assert kept_in == {"convert", "build", "assemble", "conclude", "report"}
    for name, task in labels.items():
        assert not (task.secrets and name in kept_in), "a step that has a Secret asks somebody, so it must reach them"
    for rule in policies["kubeflow"]["egress"]:
        assert rule.get("ports") or rule["to"] == [{"podSelector": {}}], "of Kubeflow's namespace only what a pod asks"
    for spec in policies.values():
        for rule in spec.get("egress", []):
            for peer in rule.get("to", []):
                if "ipBlock" in peer:
                    assert "169.254.169.254/32" in peer["ipBlock"]["except"], "a cloud's metadata service gives out credentials"


def test_names_in_the_manifests_are_the_pipelines_defaults(rendered: dict[str, list[dict[str, Any]]]) -> None:
    parameters = compiled("rebuild_on_new_checkpoints").parameters
    documents = rendered["overlays/kubernetes"]
    claims = {d["metadata"]["name"] for d in of_kind(documents, "PersistentVolumeClaim")}
    assert claims == {parameters["workspace_pvc"]["defaultValue"], parameters["store_pvc"]["defaultValue"]}
    pod, _ = _pods(documents)
    secrets = {e["secretRef"]["name"] for e in pod["containers"][0]["envFrom"]}
    assert secrets == {parameters[f"{kind}_secret"]["defaultValue"] for kind in ("source", "s3", "registry", "recipe")}
    assert {"name": "recipes", "configMap": {"name": parameters["recipes"]["defaultValue"]}} in pod["volumes"]


def test_every_file_of_deploy_is_used() -> None:
    used: set[Path] = set()
    for file in DEPLOY.rglob("kustomization.yaml"):
        used.add(file)
        listed = yaml.safe_load(file.read_text()).get("resources", [])
        used |= {(file.parent / name).resolve() for name in listed}
    assert {f.resolve() for f in DEPLOY.rglob("*.yaml")} <= {f.resolve() for f in used}
