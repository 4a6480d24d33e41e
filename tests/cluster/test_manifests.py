"""deploy/: it renders, every object is what Kubernetes takes, pods are restricted, and nobody may more than they need."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.compiled import compiled
from tests.cluster.manifests import DEPLOY, VERSIONS, named, of_kind, problems, render

FOLDERS = ("overlays/kubernetes", "overlays/openshift", "production")


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[dict[str, Any]]]:
    return {folder: render(DEPLOY / folder) for folder in FOLDERS}


@pytest.fixture(scope="module")
def with_all_components(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """An overlay of a site that takes everything that can be taken."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "deploy").symlink_to(DEPLOY)
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "resources": ["deploy/overlays/kubernetes"],
                "components": [f"deploy/components/{name}" for name in ("gpu-watch", "kueue", "proxy")],
            }
        )
    )
    return render(folder)


def _pods(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [d["spec"]["jobTemplate"]["spec"]["template"]["spec"] for d in of_kind(documents, "CronJob")]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_kubernetes_takes_every_object(rendered: dict[str, list[dict[str, Any]]], folder: str, version: str) -> None:
    assert rendered[folder]
    for document in rendered[folder]:
        assert problems(document, version) == [], (document["kind"], document["metadata"]["name"])


def test_kubernetes_takes_what_the_components_add(with_all_components: list[dict[str, Any]]) -> None:
    for document in with_all_components:
        assert problems(document, VERSIONS[-1]) == [], (document["kind"], document["metadata"]["name"])
    (pod,) = _pods(with_all_components)
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "NVIDIA_VISIBLE_DEVICES" not in {e["name"] for e in container["env"]}, "that would hide the GPU that it takes"
    assert pod["imagePullSecrets"] == [{"name": "mirror-pull"}]
    assert {"configMapRef": {"name": "enginepress-proxy"}} in container["envFrom"]
    (job,) = of_kind(with_all_components, "CronJob")
    assert job["spec"]["jobTemplate"]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "enginepress"


def test_the_check_itself_notices_what_is_wrong(rendered: dict[str, list[dict[str, Any]]]) -> None:
    good = named(rendered["overlays/openshift"], "CronJob", "enginepress-watch")
    typo = copy.deepcopy(good)
    typo["spec"]["concurencyPolicy"] = "Forbid"
    assert problems(typo, VERSIONS[-1])
    wrong = copy.deepcopy(good)
    wrong["spec"]["jobTemplate"]["spec"]["backoffLimit"] = "one"
    assert problems(wrong, VERSIONS[-1])
    firewall = copy.deepcopy(named(rendered["overlays/openshift"], "EgressFirewall", "default"))
    firewall["spec"]["egress"][0]["to"]["dnsname"] = "x"
    assert problems(firewall, VERSIONS[-1])
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
    (kubernetes,) = _pods(rendered["overlays/kubernetes"])
    assert kubernetes["securityContext"]["fsGroup"] == 1001


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


def test_promoting_to_production_is_a_role_of_its_own_in_a_namespace_of_its_own(
    rendered: dict[str, list[dict[str, Any]]],
) -> None:
    role = named(rendered["production"], "Role", "enginepress-promote")
    assert {(r, v) for rule in role["rules"] for r in rule["resources"] for v in rule["verbs"] if v == "create"} == {
        ("jobs", "create")
    }
    (pod,) = _pods(rendered["production"])
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "enginepress-production"}}]
    for folder in ("overlays/kubernetes", "overlays/openshift"):
        assert "enginepress-production" not in yaml.safe_dump(rendered[folder])
        for name in ("enginepress-pipeline", "enginepress-submit", "enginepress-view"):
            verbs = named(rendered[folder], "Role", name)["rules"]
            assert not any({"cronjobs"} & set(rule["resources"]) for rule in verbs)


def test_the_watcher_runs_one_at_a_time_and_may_be_ended(rendered: dict[str, list[dict[str, Any]]]) -> None:
    job = named(rendered["overlays/kubernetes"], "CronJob", "enginepress-watch")["spec"]
    assert (job["concurrencyPolicy"], job["timeZone"], job["suspend"]) == ("Forbid", "Etc/UTC", True)
    (pod,) = _pods(rendered["overlays/kubernetes"])
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
    kept_in = set(labels) - set(reaching["values"])
    assert kept_in == {"convert", "build", "assemble", "verify", "report"}
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
    (pod,) = _pods(documents)
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
