"""The chart as Helm renders it, without a cluster: what the values mean, and that wrong ones are named."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from finetune_operator.api import crd
from finetune_operator.api.chart import Values
from finetune_operator.settings import Platform, Settings, read_settings
from tests import chart_values
from tests.cluster.helm import CHART, Helm, HelmFailed
from tests.cluster.layout import ROOT

RELEASE, NAMESPACE = "finetune-operator", "finetune-system"
Body = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """Reads 2e-05 as a number, as Helm and Kubernetes do (YAML 1.2)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def render(values: Body | None = None, *, release: str = RELEASE, chart: Path = CHART) -> list[Body]:
    """All objects, those of `helm test` too."""
    text = Helm(namespace=NAMESPACE)("template", release, str(chart), values=values or {})
    return [each for each in yaml.load_all(text, Loader=_Loader) if each]


def only(bodies: list[Body], kind: str, name: str = "") -> Body:
    [found] = [each for each in bodies if each["kind"] == kind and name in ("", each["metadata"]["name"])]
    return found


def kinds(bodies: list[Body]) -> list[str]:
    return sorted(each["kind"] for each in bodies if "helm.sh/hook" not in each["metadata"].get("annotations", {}))


def container(bodies: list[Body]) -> Body:
    [found] = only(bodies, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def settings(bodies: list[Body], tmp_path: Path) -> Settings:
    """What the operator reads of its environment and of the pools file."""
    file = tmp_path / "platform.yaml"
    file.write_text(only(bodies, "ConfigMap")["data"]["platform.yaml"])
    environment = {each["name"]: each.get("value", "finetune-operator-x") for each in container(bodies)["env"]}
    assert environment["FINETUNE_PLATFORM_FILE"] == "/etc/finetune/platform.yaml"
    return read_settings(environment | {"FINETUNE_PLATFORM_FILE": str(file)})


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_values_yaml_has_every_key_with_the_default_of_its_model() -> None:
    assert yaml.safe_load((CHART / "values.yaml").read_text()) == Values().model_dump(by_alias=True)


def test_every_value_is_explained() -> None:
    """By a comment above it or above those that stand together. What `enabled` means is its group's comment."""
    unexplained, explained = [], set[int]()
    lines = (CHART / "values.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if not (key := re.match(r"( *)([a-zA-Z]+):", line)):
            continue
        above = lines[number - 1].strip()
        if above.startswith("#") or number - 1 in explained:
            explained.add(number)
        elif key[2] != "enabled":
            unexplained.append(line)
    assert len(explained) > 60
    assert unexplained == []


def test_the_pool_in_the_comments_is_a_pool_with_every_field() -> None:
    text = (CHART / "values.yaml").read_text()
    example = re.search(r"^# gpuPools:\n(?:# .*\n)+", text, re.MULTILINE)
    assert example
    shown = yaml.safe_load(re.sub("^# ", "", example[0], flags=re.MULTILINE))
    [pool] = Values.model_validate(shown).gpu_pools.values()
    assert shown["gpuPools"]["a100"].keys() == pool.model_dump(by_alias=True).keys()


def test_the_pools_in_the_documents_are_accepted() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    examples = [yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    examples = [each for each in examples if "apiVersion" not in each]
    assert sum("gpuPools" in each for each in examples) >= 4
    for each in examples:
        assert kinds(render(each))


def models(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    for field in model.model_fields.values():
        value = field.get_default(call_default_factory=True)
        yield f"{path}{field.alias}", value
        if isinstance(value, BaseModel):
            yield from models(type(value), f"{path}{field.alias}.")


@pytest.mark.parametrize("path", [path for path, _ in models(Values)])
def test_a_value_of_the_wrong_type_is_named(path: str) -> None:
    with pytest.raises(HelmFailed, match=re.escape(f"at '/{path.replace('.', '/')}") + "(/0)?': got"):
        Helm()("template", RELEASE, str(CHART), "--show-only=templates/platform.yaml", f"--set-json={path}=[[]]")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gpuPool": {}}, "additional properties 'gpuPool' not allowed"),
        ({"gpuPools": {"a100": {"gpuPerNode": 8}}}, r"'/gpuPools/a100'.*'gpuPerNode' not allowed"),
        ({"gpuPools": {"A100": {}}}, r"'/gpuPools'.*'A100' not allowed"),
        ({"gpuPools": {"a100": {"gpusPerNode": 0.5}}}, "'/gpuPools/a100/gpusPerNode': got number, want integer"),
        ({"gpuPools": {"a100": {"worker": {"cpu": "8"}}}}, r"'/gpuPools/a100/worker'.*missing property 'memory'"),
        ({"gpuPools": {"a100": {"shmSize": "8 GB"}}}, "'/gpuPools/a100/shmSize'.*'8 GB' does not match pattern"),
        ({"image": {"digest": "1234"}}, "'/image/digest'.*'1234' does not match pattern"),
        ({"log": {"level": "loud"}}, "'/log/level'.*must be one of 'debug', 'info', 'warning', 'error'"),
        ({"watch": {"namespaces": ["a", "a"]}}, "'/watch/namespaces'.*items at 0 and 1 are equal"),
        ({"podDisruptionBudget": {"maxUnavailable": 0}}, "'/podDisruptionBudget/maxUnavailable'.*got 0, want 1"),
        ({"replicas": 2}, "replicas: 2 operators would work on the same jobs; set leaderElection.enabled: true"),
        ({"podLabels": {"app.kubernetes.io/name": "x"}}, "podLabels: app.kubernetes.io/name is set by the chart"),
    ],
)
def test_a_value_that_cannot_be_is_named(values: Body, said: str) -> None:
    with pytest.raises(HelmFailed, match=said):
        render(values)


@pytest.mark.parametrize(
    "values",
    [{}, chart_values.POOLS, chart_values.NAMESPACED, chart_values.EVERYTHING],
    ids=["defaults", "pools", "namespaced", "everything"],
)
def test_lint_finds_nothing(values: Body) -> None:
    assert "0 chart(s) failed" in Helm()("lint", "--strict", str(CHART), values=values)


def test_a_chart_that_contains_this_one_gives_it_values(tmp_path: Path) -> None:
    parent = tmp_path / "platform"
    (parent / "charts").mkdir(parents=True)
    (parent / "charts" / RELEASE).symlink_to(CHART)
    dependency = {"name": RELEASE, "version": "0.1.0"}
    about = {"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": [dependency]}
    (parent / "Chart.yaml").write_text(yaml.safe_dump(about))
    bodies = render({"global": {"domain": "example"}, RELEASE: chart_values.POOLS}, release="platform", chart=parent)
    assert only(bodies, "Deployment")["metadata"]["name"] == "platform-finetune-operator"


# ── what is rendered ─────────────────────────────────────────────────────────────────────────────────────────────────


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


def test_the_pod_has_what_was_asked_for() -> None:
    given, bodies = chart_values.EVERYTHING, render(chart_values.EVERYTHING)
    template = only(bodies, "Deployment")["spec"]["template"]
    spec = template["spec"]
    for key in ("nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "priorityClassName"):
        assert spec[key] == given[key]
    assert spec["terminationGracePeriodSeconds"] == 60
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert given["extraVolumes"][0] in spec["volumes"]
    assert template["metadata"]["labels"].items() >= {"team": "platform", "cost": "platform"}.items()
    assert template["metadata"]["annotations"]["note"] == "one"
    own = container(bodies)
    assert given["extraVolumeMounts"][0] in own["volumeMounts"]
    assert given["extraEnv"][0] in own["env"]
    assert own["envFrom"] == given["extraEnvFrom"]
    assert own["imagePullPolicy"] == "Always"
    # Maps of values are merged: the request of memory is the chart's.
    assert own["resources"] == {"requests": {"cpu": 1, "memory": "128Mi"}, "limits": {"memory": "1Gi"}}


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, "finetune-operator:0.1.0"),
        ({"tag": "dev"}, "finetune-operator:dev"),
        ({"repository": "localhost/x", "tag": "dev"}, "localhost/x:dev"),
        ({"digest": chart_values.DIGEST}, f"finetune-operator@{chart_values.DIGEST}"),
        ({"digest": chart_values.DIGEST, "tag": "v1"}, f"finetune-operator:v1@{chart_values.DIGEST}"),
    ],
)
def test_the_image(image: Body, expected: str) -> None:
    bodies = render({"image": image})
    [check] = only(bodies, "Pod")["spec"]["containers"]
    assert container(bodies)["image"] == check["image"] == expected


@pytest.mark.parametrize("values", [{}, chart_values.EVERYTHING], ids=["defaults", "everything"])
def test_pods_are_restricted_and_write_nowhere_but_in_tmp(values: Body) -> None:
    bodies = render(values)
    for spec in (only(bodies, "Deployment")["spec"]["template"]["spec"], only(bodies, "Pod")["spec"]):
        assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        [own] = spec["containers"]
        assert own["securityContext"]["readOnlyRootFilesystem"]
        assert own["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        writable = [each["name"] for each in own.get("volumeMounts", []) if not each.get("readOnly")]
        assert writable in ([], ["tmp"])


def test_another_pools_file_makes_another_pod_and_nothing_else_does() -> None:
    def checksum(values: Body) -> str:
        found = only(render(values), "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/platform"]
        assert isinstance(found, str)
        return found

    assert checksum({}) == checksum({"labels": {"a": "b"}})
    assert len({checksum(each) for each in ({}, chart_values.POOLS, {"trainingImage": {"tag": "x"}})}) == 3


def test_one_replica_is_replaced_and_several_roll() -> None:
    assert only(render(), "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    one = {"leaderElection": {"enabled": True}}
    assert only(render(one), "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    assert only(render(one | {"replicas": 2}), "Deployment")["spec"]["strategy"] == {"type": "RollingUpdate"}


def test_every_probe_asks_whether_the_operator_is_well() -> None:
    own = container(render())
    ports = {each["name"]: each["containerPort"] for each in own["ports"]}
    environment = {each["name"]: each.get("value") for each in own["env"]}
    assert environment["FINETUNE_HEALTH_PORT"] == str(ports["health"])
    assert environment["FINETUNE_METRICS_PORT"] == str(ports["metrics"])
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert own[probe]["httpGet"] == {"path": "/healthz", "port": "health"}


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


def test_the_schema_says_what_each_value_is() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"].keys() == yaml.safe_load((CHART / "values.yaml").read_text()).keys()
    assert schema["$defs"]["Pool"]["properties"]["nodeSelector"]["description"] == "Labels of the nodes."
