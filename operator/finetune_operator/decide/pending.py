"""Why an attempt does not run yet, in one sentence that says what to do.

In: the attempt's RayJob and pods. Out: a phase and the reason for it. What holds the others up comes first: pods that cannot be
made, then images and Secrets that are missing, then room. Nobody should have to look at pods to know why a job waits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_operator.api.status import CurrentAttempt, Phase
from finetune_operator.observe.views import PodView, RayJobView, Waiting
from finetune_operator.observe.world import World
from finetune_training.contract.moment import seconds

TAKEN_UP_WITHIN = 180.0
"""Seconds in which a KubeRay that runs has written into a new RayJob's status: it takes up one at a time by default."""

_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
_MISSING = re.compile(r'(secret|configmap) "([^"]+)" not found')
_NO_KEY = re.compile(r"couldn't find key (\S+) in (Secret|ConfigMap) \S*?/?([-a-z0-9.]+)$")
_NO_ACCOUNT = re.compile(r'serviceaccount "([^"]+)" not found')


@dataclass(frozen=True)
class Waits:
    """`reason` is one word for programs, `message` is for people."""

    phase: Phase
    reason: str
    message: str


def why_pending(world: World, rayjob: RayJobView) -> Waits:
    """For an attempt whose RayJob is not running."""
    pods = _wanted(world, rayjob)
    return (
        _refused(rayjob)
        or _cannot_start(pods)
        or _no_room(pods)
        or _not_taken_up(world, rayjob)
        or _on_the_way(pods, world)
    )  # fmt: skip


def why_not_whole(world: World, rayjob: RayJobView) -> str:
    """For one whose RayJob is: what the pod waits for that takes the place of one that was lost. Empty if none does."""
    pods = _wanted(world, rayjob)
    waits = _cannot_start(pods) or _no_room(pods)
    return waits.message if waits else ""


def _wanted(world: World, rayjob: RayJobView) -> list[PodView]:
    return [each for each in world.pods if each.attempt == rayjob.attempt and not each.deleting]


def pending_left(world: World, current: CurrentAttempt | None) -> float | None:
    """Seconds of spec.pendingDeadlineSeconds that are left to the attempt. None: there is no deadline, a queue holds the pods,
    or all of them run or have run."""
    limit, began = world.spec.pending_deadline_seconds, seconds(current.waiting_since) if current else None
    if limit is None or began is None or (current and current.running_time) or world.all_run:
        return None
    return began + limit - world.now


def _refused(rayjob: RayJobView) -> Waits | None:
    if rayjob.suspend:
        return Waits(
            Phase.PENDING,
            "Queued",
            f"RayJob {rayjob.name} is held back by a queue (Kueue): it starts when it is admitted.",
        )
    if not rayjob.problem:
        return None
    problem = rayjob.problem.strip().rstrip(".")
    if "exceeded quota" in problem:
        return Waits(
            Phase.PENDING, "QuotaExceeded",
            f"The namespace's quota is used up: {problem}. Ask for less, wait for other jobs to end, or have the quota raised.",
        )  # fmt: skip
    if found := _NO_ACCOUNT.search(problem):
        return Waits(
            Phase.PENDING, "ServiceAccountMissing",
            f"There is no ServiceAccount {found[1]} in namespace {rayjob.namespace}: create it, or use a new job without "
            "spec.serviceAccountName.",
        )  # fmt: skip
    if "violates PodSecurity" in problem:
        return Waits(
            Phase.PENDING, "PodsRefused",
            f"The namespace takes no such pods: {problem}. KubeRay's submitter cannot be restricted: have the namespace enforce "
            "`baseline` (label pod-security.kubernetes.io/enforce).",
        )  # fmt: skip
    return Waits(Phase.PENDING, "PodsRefused", f"The pods cannot be made: {problem}.")


def _cannot_start(pods: Sequence[PodView]) -> Waits | None:
    for pod in pods:
        for waiting in pod.waiting:
            if waiting.reason in _IMAGE:
                return Waits(Phase.PROVISIONING, "ImagePull", _image(pod, waiting))
            if waiting.reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
                return Waits(Phase.PROVISIONING, *_config(pod, waiting))
    return None


def _image(pod: PodView, waiting: Waiting) -> str:
    said = f": {_sentence(waiting.message)}" if waiting.message else "."
    return (
        f"The image of pod {pod.name} cannot be pulled ({waiting.reason}){said} Check spec.image, and that the nodes may "
        "pull it (imagePullSecrets)."
    )


def _config(pod: PodView, waiting: Waiting) -> tuple[str, str]:
    if found := _MISSING.search(waiting.message):
        kind = {"secret": "Secret", "configmap": "ConfigMap"}[found[1]]
        return (
            f"{kind}Missing",
            f"There is no {kind} {found[2]} in namespace {pod.namespace}: create it, or correct spec.env and spec.envFrom in a "
            "new job. The pods start as soon as it is there.",
        )
    if found := _NO_KEY.search(waiting.message):
        return (
            f"{found[2]}Missing",
            f"{found[2]} {found[3]} in namespace {pod.namespace} has no key {found[1]}: add it, or correct spec.env in a new "
            "job.",
        )
    return (
        "ContainerRefused",
        f"Container {waiting.container} of pod {pod.name} cannot start: {_sentence(waiting.message)}",
    )


def _no_room(pods: Sequence[PodView]) -> Waits | None:
    stuck = [pod for pod in pods if pod.unschedulable]
    if not stuck:
        return None
    remedy = (
        "The head pods' nodes are set by the platform team (the chart's head)."
        if stuck[0].head
        else "Wait for room in the pool, or ask for less in a new job (resources.workers, gpusPerWorker, worker)."
    )
    return Waits(
        Phase.PENDING, "Unschedulable",
        f"{len(stuck)} of {len(pods)} pods find no node, {stuck[0].name} because {_of_nodes(stuck[0].unschedulable)} {remedy}",
    )  # fmt: skip


def _of_nodes(said: str) -> str:
    """What the scheduler says of nodes, without what follows on claims and on preemption, which no reader can act on."""
    return _sentence(re.split(r"[.,]? (?:no new claims to deallocate|preemption:)", said)[0])


def _not_taken_up(world: World, rayjob: RayJobView) -> Waits | None:
    if rayjob.deployment_status or world.now - rayjob.created < TAKEN_UP_WITHIN:
        return None
    return Waits(
        Phase.PENDING, "KubeRayNotResponding",
        f"KubeRay has not taken up RayJob {rayjob.name}: check that its operator runs and watches namespace {rayjob.namespace}.",
    )  # fmt: skip


def _on_the_way(pods: Sequence[PodView], world: World) -> Waits:
    """KubeRay makes the head first: as long as pods are missing, those that are there say nothing of the others."""
    if len(pods) <= world.workers or not all(pod.scheduled for pod in pods):
        return Waits(Phase.PENDING, "WaitingForPods", "The pods are being made and given their nodes.")
    return Waits(Phase.PROVISIONING, "StartingRay", "The pods have their nodes; images are pulled and Ray starts.")


def _sentence(text: str) -> str:
    return text.strip().rstrip(".") + "."
