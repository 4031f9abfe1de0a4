"""The chart as Helm renders it, without a cluster: what the values mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from finetune_operator.api import crd
from finetune_operator.settings import Platform, Settings
from tests import chart_values
from tests.cluster.helm import CHART
from tests.cluster.layout import ROOT
from tests.unit.chart.rendered import NAMESPACE, RELEASE, Body, kinds, only, render, settings

DEFAULT_KINDS = [
    *("ClusterRole", "ClusterRole", "ClusterRole", "ClusterRole", "ClusterRoleBinding", "ConfigMap"),
    *("CustomResourceDefinition", "Deployment", "ServiceAccount"),
    *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
]


def test_the_operator_reads_the_defaults_as_its_own(tmp_path: Path) -> None:
    bodies = render()
    assert kinds(bodies) == DEFAULT_KINDS
    assert settings(bodies, tmp_path) == Settings(lease_namespace=NAMESPACE, identity="finetune-operator-x")


def test_the_operator_reads_every_value(tmp_path: Path) -> None:
    found = settings(render(chart_values.EVERYTHING | chart_values.NAMESPACED), tmp_path)
    given = chart_values.EVERYTHING
    assert found.platform == Platform.model_validate(
        {
            "gpuPools": given["gpuPools"],
            "head": given["head"],
            "trainingImage": f"registry.example/finetune-training:1.2.3@{chart_values.DIGEST}",
            "imagePullPolicy": "Always",
            "imagePullSecrets": ["team-registry"],
            "rayVersion": "2.59.0",
            "checkpointUri": "s3://models/runs",
            "env": [{"name": "AWS_REGION", "value": "eu-central-1"}],
            "priorityClassName": "training",
        }
    )
    assert found.namespaces == ("team-a", "team-b")
    assert found.driver_role == ("Role", f"{RELEASE}-driver")
    assert (found.workers, found.resync_seconds, found.leader_election) == (16, 60.5, True)
    assert (found.lease_namespace, found.lease_name) == (NAMESPACE, RELEASE)
    assert (found.log_format, found.log_level) == ("text", "debug")


@pytest.mark.parametrize(("workers", "seconds"), [(256, 1_000_000), (1, 0.25)])
def test_numbers_arrive_as_they_were_written(tmp_path: Path, workers: int, seconds: float) -> None:
    found = settings(render({"workers": workers, "resyncSeconds": seconds}), tmp_path)
    assert (found.workers, found.resync_seconds) == (workers, seconds)


def test_the_crd_is_that_of_the_models_and_is_kept() -> None:
    rendered = only(render(), "CustomResourceDefinition")
    assert rendered["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert rendered["metadata"].pop("labels")["app.kubernetes.io/instance"] == RELEASE
    assert rendered == crd.definition()


def test_the_crd_is_not_kept_or_not_made_if_that_is_asked_for() -> None:
    loose = only(render({"crds": {"keep": False}}), "CustomResourceDefinition")
    assert "annotations" not in loose["metadata"]
    assert "CustomResourceDefinition" not in kinds(render({"crds": {"install": False}}))


def test_an_operator_of_some_namespaces_has_roles_there_and_nothing_of_the_cluster() -> None:
    bodies = render(chart_values.NAMESPACED)
    places = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in bodies]
    for namespace in ("team-a", "team-b"):
        assert ("Role", namespace, RELEASE) in places
        assert ("RoleBinding", namespace, RELEASE) in places
        assert ("Role", namespace, f"{RELEASE}-driver") in places
    assert "ClusterRoleBinding" not in kinds(bodies)
    # What is left of the cluster is for people, and has names that a second release does not take.
    cluster = {name for kind, namespace, name in places if not namespace and kind != "CustomResourceDefinition"}
    assert cluster == {f"{RELEASE}-{NAMESPACE}-{each}" for each in ("view", "edit", "status")}
    selector = only(bodies, "ValidatingAdmissionPolicyBinding")["spec"]["matchResources"]["namespaceSelector"]
    assert selector["matchExpressions"][0]["values"] == ["team-a", "team-b"]


def test_the_same_rights_in_both_ways_to_watch() -> None:
    roles = [each for each in render(chart_values.NAMESPACED) if each["kind"] == "Role"]
    for name in (RELEASE, f"{RELEASE}-driver"):
        cluster = only(render(), "ClusterRole", name)["rules"]
        assert [each["rules"] for each in roles if each["metadata"]["name"] == name] == [cluster, cluster]


def test_the_operator_holds_what_the_drivers_role_grants() -> None:
    """Else it could not bind it."""
    held, granted = (only(render(), "ClusterRole", name)["rules"] for name in (RELEASE, f"{RELEASE}-driver"))
    assert all(rule in held for rule in granted)


def test_no_role_has_a_wildcard_or_touches_secrets() -> None:
    roles = [each for each in render(chart_values.EVERYTHING) if each["kind"] in ("Role", "ClusterRole")]
    rules = [rule for role in roles for rule in role["rules"]]
    assert len(rules) > 10
    assert not [rule for rule in rules if "*" in rule["verbs"] + rule["resources"] + rule["apiGroups"]]
    assert not [rule for rule in rules if "secrets" in rule["resources"]]


def test_roles_accounts_and_the_policy_can_be_left_to_others() -> None:
    off = {"rbac": {"create": False, "userRoles": False}, "admissionPolicy": {"create": False}}
    bodies = render(off | {"serviceAccount": {"create": False, "name": "ours"}, "crds": {"install": False}})
    assert kinds(bodies) == ["ConfigMap", "Deployment"]
    assert only(bodies, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "ours"


def test_everything_that_can_be_switched_on() -> None:
    bodies = render(chart_values.EVERYTHING)
    more = ["NetworkPolicy", "PodDisruptionBudget", "PodMonitor", "Role", "RoleBinding", "Service"]
    assert kinds(bodies) == sorted([*DEFAULT_KINDS, *more])
    assert [each["metadata"]["name"] for each in bodies if each["metadata"]["labels"].get("team") != "platform"] == [
        f"{RELEASE}-test"
    ]
    account = only(bodies, "ServiceAccount", "tuner")
    assert account["metadata"]["annotations"] == chart_values.EVERYTHING["serviceAccount"]["annotations"]
    for binding in (each for each in bodies if each["kind"].endswith("RoleBinding")):
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "tuner", "namespace": NAMESPACE}]
    conditions = only(bodies, "ValidatingAdmissionPolicy")["spec"]["matchConditions"]
    users = '["system:serviceaccount:finetune-system:tuner","system:serviceaccount:velero:velero"]'
    assert f"!(request.userInfo.username in {users})" in [each["expression"] for each in conditions]
    assert only(bodies, "Service", f"{RELEASE}-metrics")["metadata"]["annotations"] == {"prometheus.io/scrape": "true"}
    monitor = only(bodies, "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["interval"], endpoint["relabelings"][0]["targetLabel"]) == ("15s", "cluster")


def test_selectors_find_the_operators_pods_and_not_that_of_helm_test() -> None:
    bodies = render(chart_values.EVERYTHING)
    pod = only(bodies, "Deployment")["spec"]["template"]["metadata"]["labels"]
    test = only(bodies, "Pod")["metadata"]["labels"]
    selectors = [
        only(bodies, "Deployment")["spec"]["selector"]["matchLabels"],
        only(bodies, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        only(bodies, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        only(bodies, "PodMonitor")["spec"]["selector"]["matchLabels"],
        *(each["spec"]["selector"] for each in bodies if each["kind"] == "Service"),
    ]
    assert len(selectors) == 6
    for selector in selectors:
        assert pod.items() >= selector.items()
        assert not test.items() >= selector.items()


def test_the_network_policy_lets_the_test_the_metrics_the_names_and_the_api_server_through() -> None:
    bodies = render(chart_values.EVERYTHING)
    spec = only(bodies, "NetworkPolicy")["spec"]
    health, metrics = spec["ingress"]
    [peer] = health["from"]
    assert only(bodies, "Pod")["metadata"]["labels"].items() >= peer["podSelector"]["matchLabels"].items()
    assert [each["port"] for each in health["ports"]] == ["health"]
    assert metrics["from"] == chart_values.EVERYTHING["networkPolicy"]["metricsFrom"]
    names, server = spec["egress"]
    assert {each["port"] for each in names["ports"]} == {53}
    assert server == {"ports": [{"port": 6443, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "10.0.0.0/16"}}]}


@pytest.mark.parametrize("release", ["tuning", "x" * 53])
@pytest.mark.parametrize("values", [{}, chart_values.NAMESPACED, chart_values.EVERYTHING], ids=["", "some", "all"])
def test_names_follow_the_release_and_fit(release: str, values: Body) -> None:
    bodies = render(values, release=release)
    ours = [each["metadata"]["name"] for each in bodies if each["kind"] != "CustomResourceDefinition"]
    assert [name for name in ours if not name.startswith(release[:40]) and name != "tuner"] == []
    assert [name for name in ours if len(name) > 63 or name.endswith("-")] == []
    assert len({(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in bodies}) == len(
        bodies
    )


def test_the_chart_has_the_version_of_the_operator() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (ROOT / "operator" / "pyproject.toml").read_text()
    assert f'version = "{about["appVersion"]}"' in project
    assert Platform().training_image == f"finetune-training:{about['appVersion']}"
