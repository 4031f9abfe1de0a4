"""The chart's rights are enough for all that the operator does, and it uses each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.helm import CHART, Helm
from tests.cluster.kubectl import Kubectl
from tests.cluster.layout import Layout
from tests.cluster.steps import until
from tests.integration.control_plane_with_crds import control_plane_with_crds, new_namespace
from tests.integration.operator_process import HAND, Hand, Operator, operator
from tests.servers.api_proxy import ApiProxy, Call, api_proxy

_SYSTEM, _OPERATOR = "finetune-system", "finetune-operator"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    with control_plane_with_crds(tmp_path_factory.mktemp("api") / "cluster") as layout:
        kubectl = Kubectl(layout.kubeconfig)
        kubectl("create", "namespace", _SYSTEM)
        kubectl("delete", "crd", "finetunejobs.finetune.dev")  # the chart brings it
        yield layout


@pytest.mark.parametrize("namespaced", [False, True], ids=["cluster-wide", "namespaced"])
def test_every_call_is_allowed_and_every_right_is_used(api: Layout, tmp_path: Path, namespaced: bool) -> None:
    kubectl = new_namespace(api)
    watched = [kubectl.namespace] if namespaced else []
    helm = Helm(api.kubeconfig, _SYSTEM)
    helm(
        "install", _OPERATOR, str(CHART), values={"watch": {"namespaces": watched}, "leaderElection": {"enabled": True}}
    )
    try:
        with api_proxy(api) as proxy:
            proxy.not_counted = HAND
            _live(kubectl, proxy, tmp_path, watched)
            refused = [call for call in proxy.calls if call.status in (401, 403)]
            assert refused == []
            used = {right for call in proxy.calls if call.resource for right in _rights_for(call)}
        # A pod that is lost is deleted only after minutes: tests/e2e/faults does it.
        granted = _granted(kubectl, watched) - {("delete", "", "pods")}
        assert used == granted, f"not granted: {used - granted}; not used: {granted - used}"
    finally:
        helm("uninstall", _OPERATOR)
        kubectl.within(_SYSTEM)("delete", "lease", "--all")


def _live(kubectl: Kubectl, proxy: ApiProxy, folder: Path, watched: list[str]) -> None:
    """As the chart's account: a job that runs, whose RayJob somebody deletes, whose next driver leaves no word, and that is
    suspended then."""
    token = kubectl.within(_SYSTEM)("create", "token", _OPERATOR).strip()
    environment = {
        "FINETUNE_NAMESPACES": ",".join(watched),
        "FINETUNE_LEADER_ELECTION": "true",
        "FINETUNE_LEASE_NAMESPACE": _SYSTEM,
        "FINETUNE_LEASE_NAME": _OPERATOR,
        "FINETUNE_DRIVER_ROLE": f"{'Role' if watched else 'ClusterRole'}/{_OPERATOR}-driver",
        "FINETUNE_RESYNC_SECONDS": "5",
    }
    hand = Hand(proxy.url, kubectl.namespace)
    kubeconfig = proxy.write_kubeconfig(folder / "kubeconfig", token=token)
    with operator(kubeconfig, folder, **environment) as running:
        hand.create("job")
        hand.await_status("job", lambda status: status.get("attempt") == 1)
        hand.set_rayjob("job-1", "Running", "RUNNING")
        hand.await_phase("job", "Preparing")
        kubectl("delete", "rayjob", "job-1")
        hand.await_status("job", lambda status: status.get("attempt") == 2)
        _make_head(kubectl)
        hand.await_status("job", lambda status: "Unschedulable" in [each["reason"] for each in status["conditions"]])
        hand.set_rayjob("job-2", "Failed", "FAILED", reason="AppFailed", message="Exit code 1.")
        hand.await_status("job", lambda status: status.get("failed") == 2)
        hand.change("job", suspend=True)
        hand.await_phase("job", "Suspended")
        _await_lease(running)
        assert running.stop() == 0


def _make_head(kubectl: Kubectl) -> None:
    """A pod as KubeRay makes it, which the operator sees. It has no node, and so no log."""
    uid, name = kubectl.get("ftj", "job")["metadata"]["uid"], "job-2-b4xz9-head-k7qwm"
    labels = {"finetune.dev/job": "job", "finetune.dev/job-uid": uid, "finetune.dev/attempt": "2"}
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels | {"ray.io/node-type": "head"}},
        "spec": {
            "containers": [{"name": "ray-head", "image": "none"}],
            "serviceAccountName": "finetune-driver",
            "automountServiceAccountToken": False,
        },
    }
    kubectl.apply(json.dumps(body))
    no_room = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/0 nodes are available.",
    }
    patch = json.dumps({"status": {"conditions": [no_room]}})
    kubectl("patch", "pod", name, "--subresource=status", "--type=merge", f"--patch={patch}")


def _await_lease(running: Operator) -> None:
    """Until the Lease was renewed, which is a request of its own."""
    for _ in until(20):
        if running.healthy() == 200 and running.metric("finetune_reconciles_total") > 8:
            return
    raise AssertionError(running.log())


def _rights_for(call: Call) -> set[tuple[str, str, str]]:
    """Applying what is not there makes it, and needs the right to."""
    verbs = {"patch", "create"} if (call.verb, call.status) == ("patch", 201) else {call.verb}
    return {(verb, call.group, call.resource) for verb in verbs}


def _granted(kubectl: Kubectl, watched: list[str]) -> set[tuple[str, str, str]]:
    """What the chart's roles for the operator allow, and no one else's."""
    roles = [("role", _OPERATOR, namespace) for namespace in watched] or [("clusterrole", _OPERATOR, "")]
    found: set[tuple[str, str, str]] = set()
    for kind, name, namespace in roles:
        found |= _rights(kubectl.within(namespace).get(kind, name))
    for role in kubectl.within(_SYSTEM).get("roles")["items"]:
        found |= _rights(role)
    return found


def _rights(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {
        (verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
