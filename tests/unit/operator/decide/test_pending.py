"""Why an attempt waits: what schedulers, kubelets and KubeRay say, in words that tell what to do."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.decide.pending import why_pending
from tests.unit.operator import worlds
from tests.unit.operator.worlds import Object, job, pod, rayjob, waits, world

STARTING: Object = {"jobDeploymentStatus": "Initializing"}
NO_GPU = (
    "0/5 nodes are available: 2 node(s) didn't match Pod's node affinity/selector, 3 Insufficient nvidia.com/gpu. "
    "preemption: 0/5 nodes are available: 2 Preemption is not helpful for scheduling, 3 No preemption victims found for "
    "incoming pod."
)
NO_MEMORY = "0/2 nodes are available: 2 Insufficient memory. no new claims to deallocate, preemption: not eligible."
PULL = (
    'failed to pull and unpack image "registry/training:1": failed to resolve reference "registry/training:1": '
    "registry/training:1: not found"
)

REASONS: dict[str, tuple[Object, list[Object], tuple[str, str], list[str]]] = {
    "a queue holds it back": (
        rayjob(suspend=True),
        [],
        ("Pending", "Queued"),
        ["RayJob plays-1 is held back by a queue (Kueue): it starts when it is admitted."],
    ),
    "the quota is used up": (
        rayjob(
            **worlds.replica_failure(
                'pods "plays-1-x7k2p-worker-worker-" is forbidden: exceeded quota: gpus, requested: '
                "requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=8, limited: requests.nvidia.com/gpu=8"
            )
        ),
        [pod()],
        ("Pending", "QuotaExceeded"),
        ["exceeded quota: gpus, requested: requests.nvidia.com/gpu=8", "Ask for less, wait for other jobs to end"],
    ),
    "its account is missing": (
        rayjob(
            **worlds.replica_failure(
                'pods "plays-1-x7k2p-head" is forbidden: error looking up service account team/trainer: serviceaccount '
                '"trainer" not found'
            )
        ),
        [],
        ("Pending", "ServiceAccountMissing"),
        ["There is no ServiceAccount trainer in namespace team: create it", "spec.serviceAccountName"],
    ),
    "pods are refused": (
        rayjob(**worlds.replica_failure('admission webhook "policy.example" denied the request: no latest tag.')),
        [],
        ("Pending", "PodsRefused"),
        ['The pods cannot be made: admission webhook "policy.example" denied the request: no latest tag.'],
    ),
    "the namespace takes restricted pods only": (
        rayjob(
            **worlds.replica_failure(
                'pods "plays-1-x7k2p-head" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation '
                '!= false (container "ray-job-submitter" must set securityContext.allowPrivilegeEscalation=false)'
            )
        ),
        [],
        ("Pending", "PodsRefused"),
        ["(container \"ray-job-submitter\" must set", "have the namespace enforce `baseline`"],
    ),
    "the image is not there": (
        rayjob(**STARTING),
        [pod(waiting=[waits("ErrImagePull", PULL)])],
        ("Provisioning", "ImagePull"),
        ["plays-1-x7k2p-head cannot be pulled (ErrImagePull): failed to pull", "not found. Check spec.image"],
    ),
    "its pull is put off": (
        rayjob(**STARTING),
        [pod("worker", waiting=[waits("ImagePullBackOff", 'Back-off pulling image "registry/training:1"')])],
        ("Provisioning", "ImagePull"),
        ["plays-1-x7k2p-worker cannot be pulled", "imagePullSecrets"],
    ),
    "its name is no name": (
        rayjob(**STARTING),
        [pod(waiting=[waits("InvalidImageName")])],
        ("Provisioning", "ImagePull"),
        ["(InvalidImageName). Check spec.image"],
    ),
    "a Secret is missing": (
        rayjob(**STARTING),
        [pod(waiting=[waits("CreateContainerConfigError", 'secret "s3-credentials" not found')])],
        ("Provisioning", "SecretMissing"),
        ["There is no Secret s3-credentials in namespace team: create it", "start as soon as it is there"],
    ),
    "a ConfigMap is missing": (
        rayjob(**STARTING),
        [pod(waiting=[waits("CreateContainerConfigError", 'configmap "settings" not found')])],
        ("Provisioning", "ConfigMapMissing"),
        ["There is no ConfigMap settings in namespace team: create it"],
    ),
    "a Secret has not the key": (
        rayjob(**STARTING),
        [pod(waiting=[waits("CreateContainerConfigError", "couldn't find key HF_TOKEN in Secret team/hub")])],
        ("Provisioning", "SecretMissing"),
        ["Secret hub in namespace team has no key HF_TOKEN: add it"],
    ),
    "a ConfigMap has not the key": (
        rayjob(**STARTING),
        [pod(waiting=[waits("CreateContainerConfigError", "couldn't find key region in ConfigMap team/settings")])],
        ("Provisioning", "ConfigMapMissing"),
        ["ConfigMap settings in namespace team has no key region: add it"],
    ),
    "a container is refused for another reason": (
        rayjob(**STARTING),
        [
            pod(
                waiting=[
                    waits(
                        "CreateContainerConfigError", "container has runAsNonRoot and image will run as root (pod: ...)"
                    )
                ]
            )
        ],
        ("Provisioning", "ContainerRefused"),
        ["Container ray-head of pod plays-1-x7k2p-head cannot start: container has runAsNonRoot and image will run as root"],
    ),
    "no node has room for a worker": (
        rayjob(**STARTING),
        [pod(), pod("worker", unschedulable=NO_GPU)],
        ("Pending", "Unschedulable"),
        [
            "1 of 2 pods find no node, plays-1-x7k2p-worker because 0/5 nodes are available: 2 node(s) didn't match Pod's node "
            "affinity/selector, 3 Insufficient nvidia.com/gpu. Wait for room",
            "resources.workers, gpusPerWorker, worker",
        ],
    ),
    "no node has room for the head": (
        rayjob(**STARTING),
        [pod(unschedulable=NO_MEMORY), pod("worker")],
        ("Pending", "Unschedulable"),
        ["-head because 0/2 nodes are available: 2 Insufficient memory. The head", "set by the platform team (the chart's head)"],
    ),
    "KubeRay has not taken it up": (
        rayjob(age=200),
        [],
        ("Pending", "KubeRayNotResponding"),
        ["KubeRay has not taken up RayJob plays-1: check that its operator runs and watches namespace team."],
    ),
    "it was only just made": (rayjob(age=10), [], ("Pending", "WaitingForPods"), ["are being made"]),
    "not all pods have a node": (
        rayjob(**STARTING),
        [pod(), pod("worker") | {"status": {"phase": "Pending"}}],
        ("Pending", "WaitingForPods"),
        ["given their nodes"],
    ),
    "the head has its node, and a worker is not there yet": (
        rayjob(**STARTING), [pod()], ("Pending", "WaitingForPods"), ["being made and given their nodes"],
    ),
    "all pods start": (rayjob(**STARTING), [pod(), pod("worker")], ("Provisioning", "StartingRay"), ["Ray starts"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REASONS)
def test_an_attempt_waits_because(name: str) -> None:
    attempt, pods, expected, parts = REASONS[name]
    (seen,) = (found := world(rayjobs=[attempt], pods=pods)).rayjobs
    waiting = why_pending(found, seen)
    assert (waiting.phase, waiting.reason) == expected
    for part in parts:
        assert part in waiting.message
    assert ".." not in waiting.message.replace("...", "")
    assert waiting.message.endswith(".")


@pytest.mark.parametrize(
    "pods",
    [
        pytest.param([pod(attempt=1, waiting=[waits("ErrImagePull")])], id="of an earlier attempt"),
        pytest.param([pod(attempt=2, deleting=True, waiting=[waits("ErrImagePull")])], id="that is going"),
    ],
)
def test_what_holds_up_a_pod_that_does_not_count_is_not_said(pods: list[Any]) -> None:
    found = world(job(), rayjobs=[rayjob(2, **STARTING)], pods=pods)
    assert why_pending(found, found.rayjobs[0]).reason == "WaitingForPods"


def test_what_holds_up_all_others_comes_first() -> None:
    image = waits("ImagePullBackOff", 'Back-off pulling image "x"')
    pods = [pod(unschedulable=NO_GPU), pod("worker", waiting=[image])]
    found = world(rayjobs=[rayjob(**STARTING)], pods=pods)
    assert why_pending(found, found.rayjobs[0]).reason == "ImagePull"
    refused = world(rayjobs=[rayjob(**worlds.replica_failure("exceeded quota: x"))], pods=pods)
    assert why_pending(refused, refused.rayjobs[0]).reason == "QuotaExceeded"
