"""What a real KubeRay makes of what the operator renders: it finds nothing invalid, and the pods are what we mean.

There are no nodes: pods are made, and stay as they were made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from finetune_operator import names
from finetune_operator.decide.plan import amount
from finetune_operator.observe.views import view_pod, view_rayjob
from tests.cluster import processes
from tests.cluster.kubectl import Kubectl
from tests.cluster.layout import Layout
from tests.cluster.programs import module_folder
from tests.cluster.steps import until
from tests.integration.control_plane_with_crds import control_plane_with_crds, new_namespace
from tests.unit.operator.manifests import GOLDEN, plans

Object = dict[str, Any]
PLANS = plans()


@dataclass(frozen=True)
class Made:
    """What there is of one golden RayJob."""

    rayjob: Object
    pods: list[Object]

    @property
    def heads(self) -> list[Object]:
        return [each for each in self.pods if view_pod(each).head]

    @property
    def workers(self) -> list[Object]:
        return [each for each in self.pods if not view_pod(each).head]


@pytest.fixture(scope="module")
def kuberay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    with control_plane_with_crds(tmp_path_factory.mktemp("kuberay") / "cluster") as layout:
        kubectl = Kubectl(layout.kubeconfig)
        crds = module_folder("kuberay", "github.com/ray-project/kuberay/ray-operator") / "config" / "crd" / "bases"
        kubectl("create", f"--filename={crds / 'ray.io_rayservices.yaml'}")  # all its controllers start, or none
        kubectl("create", "priorityclass", "training", "--value=1")
        flags = ["--enable-leader-election=false", "--metrics-addr=0", "--health-probe-bind-address=0"]
        processes.start(layout.folder, "ray-operator", ["ray-operator", f"--kubeconfig={layout.kubeconfig}", *flags])
        yield layout


@pytest.fixture(scope="module")
def made(kuberay: Layout) -> dict[str, Made]:
    """Of each golden file, in a namespace of its own."""
    namespaces = {name: new_namespace(kuberay) for name in PLANS}
    for name, kubectl in namespaces.items():
        for account in (names.DRIVER_ACCOUNT, "trainer"):
            kubectl("create", "serviceaccount", account)
        for manifest in yaml.safe_load_all((GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")):
            manifest["metadata"].pop("namespace")
            manifest["metadata"].pop("ownerReferences")  # there is no garbage collector, and no owner
            kubectl("create", "--filename=-", stdin=json.dumps(manifest))
    return {name: _made(kubectl, PLANS[name][0].workers, kuberay) for name, kubectl in namespaces.items()}


def _made(kubectl: Kubectl, workers: int, layout: Layout) -> Made:
    for _ in until(60):
        found = Made(kubectl.get("rayjobs")["items"][0], kubectl.get("pods")["items"])
        if len(found.pods) == workers + 1 or view_rayjob(found.rayjob).terminal:
            break
    assert "ray-operator" in processes.running(layout.folder), processes.tail(
        processes.log_of(layout.folder, "ray-operator")
    )
    return found


def start_command(pod: Object) -> dict[str, str]:
    """The options of `ray start` in the Ray container."""
    (line,) = pod["spec"]["containers"][0]["args"]
    return dict(re.findall(r"--([-a-z]+)=(\S+)", line))


@pytest.mark.parametrize("name", PLANS)
def test_kuberay_takes_a_rayjob_up_and_makes_its_gang(made: dict[str, Made], name: str) -> None:
    view = view_rayjob(made[name].rayjob)
    assert (view.deployment_status, view.message, view.problem) == ("Initializing", "", "")
    assert (len(made[name].heads), len(made[name].workers)) == (1, PLANS[name][0].workers)


@pytest.mark.parametrize("name", PLANS)
def test_every_pod_is_found_by_our_labels(made: dict[str, Made], name: str) -> None:
    plan, attempt = PLANS[name]
    for pod in made[name].pods:
        view = view_pod(pod)
        assert (view.job, view.job_uid, view.attempt) == (plan.name, plan.uid, attempt)


@pytest.mark.parametrize("name", PLANS)
def test_ray_starts_with_what_its_pod_has(made: dict[str, Made], name: str) -> None:
    plan, _ = PLANS[name]
    head = start_command(made[name].heads[0])
    assert (head["num-cpus"], head["num-gpus"]) == ("0", "0")
    for pod in made[name].workers:
        options = start_command(pod)
        assert options["num-gpus"] == str(plan.gpus_per_worker)
        assert options["num-cpus"] == plan.worker.cpu  # from the request: there is no limit


@pytest.mark.parametrize("name", PLANS)
def test_shared_memory_is_mounted_once_in_the_size_of_the_plan(made: dict[str, Made], name: str) -> None:
    plan, _ = PLANS[name]
    for pod, size in ((made[name].heads[0], plan.head.shm), (made[name].workers[0], plan.worker.shm)):
        volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
        mounts = [
            each["name"] for each in pod["spec"]["containers"][0]["volumeMounts"] if each["mountPath"] == "/dev/shm"
        ]
        assert [amount(volumes[each]["emptyDir"]["sizeLimit"]) for each in mounts] == [amount(size)]


@pytest.mark.parametrize("name", PLANS)
def test_no_container_is_started_again_and_none_scales(made: dict[str, Made], name: str) -> None:
    for pod in made[name].pods:
        assert pod["spec"]["restartPolicy"] == "Never"
        assert "autoscaler" not in [each["name"] for each in pod["spec"]["containers"]]


@pytest.mark.parametrize("name", PLANS)
def test_the_submitter_is_beside_the_head_and_submits_our_entrypoint(made: dict[str, Made], name: str) -> None:
    _, submitter = made[name].heads[0]["spec"]["containers"]
    assert submitter["name"] == "ray-job-submitter"
    assert "-- finetune run /etc/finetune/job.yaml ;" in submitter["args"][0]


@pytest.mark.parametrize("name", PLANS)
def test_ray_has_a_token_where_it_knows_tokens(made: dict[str, Made], name: str) -> None:
    for pod in made[name].pods:
        modes = [each.get("value") for each in pod["spec"]["containers"][0]["env"] if each["name"] == "RAY_AUTH_MODE"]
        assert modes == ([] if name == "ray-without-tokens" else ["token"])


def problem(kubectl: Kubectl) -> str:
    """Why KubeRay cannot make the pods of the smallest job."""
    manifest = next(yaml.safe_load_all((GOLDEN / "smallest.yaml").read_text(encoding="utf-8")))
    manifest["metadata"].pop("namespace")
    kubectl("create", "--filename=-", stdin=json.dumps(manifest))
    for _ in until(60):
        if found := view_rayjob(kubectl.get("rayjob", "plays-1")).problem:
            return found
    return ""


def test_why_pods_cannot_be_made_is_seen(kuberay: Layout) -> None:
    """There is no account in this namespace."""
    said = problem(new_namespace(kuberay))
    assert re.match(r'pods "plays-1-\S+" is forbidden: error looking up service account', said)
    assert said.endswith('serviceaccount "finetune-driver" not found')


def test_a_namespace_of_restricted_pods_refuses_kuberays_submitter_and_nothing_of_ours(kuberay: Layout) -> None:
    """docs/limits.md. When this fails, KubeRay has mended it."""
    kubectl = new_namespace(kuberay)
    kubectl("label", "namespace", kubectl.namespace, "pod-security.kubernetes.io/enforce=restricted")
    kubectl("create", "serviceaccount", names.DRIVER_ACCOUNT)
    said = problem(kubectl)
    assert "violates PodSecurity" in said
    assert set(re.findall(r'container "([^"]+)"', said)) == {"ray-job-submitter"}
