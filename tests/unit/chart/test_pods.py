"""The operator's pods as Helm renders them, without a cluster."""

from __future__ import annotations

import pytest

from tests import chart_values
from tests.unit.chart.rendered import Body, container, only, render


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
