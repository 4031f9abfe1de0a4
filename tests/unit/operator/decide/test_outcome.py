"""How an attempt has ended."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.decide.outcome import AttemptFailure, Succeeded, outcome
from tests.unit.operator import worlds
from tests.unit.operator.worlds import (
    APP_FAILED,
    HEAD_LOST,
    RUNNING,
    STOPPED,
    SUBMISSION_FAILED,
    SUCCEEDED,
    VALIDATION_FAILED,
    Object,
    job,
    pod,
    rayjob,
    world,
)
from tests.unit.operator.worlds import status as written

OOM = pod("worker", ended=[worlds.ended("ray-worker", reason="OOMKilled", code=137)], node="gpu-7")
SAID = {"class": "Data", "reason": "BadRow", "message": "Row 3 of s3://x is no JSON.", "rank": 2}
INITIALIZING = {"jobDeploymentStatus": "Initializing"}


def of(
    kuberay: Object | None, *, run: Object | None = None, pods: list[Object] | None = None, **metadata: Any
) -> Succeeded | AttemptFailure | None:
    rayjobs = [] if kuberay is None else [rayjob(**kuberay, **metadata)]
    found = world(job(status=written("Training", run=run)), rayjobs=rayjobs, pods=pods or [])
    return outcome(found, found.rayjob)


@pytest.mark.parametrize(
    "kuberay",
    [
        pytest.param({}, id="KubeRay has not seen it"),
        pytest.param(INITIALIZING, id="its cluster starts"),
        pytest.param(RUNNING, id="it runs"),
        pytest.param({"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Running"}, id="KubeRay has not closed it"),
        pytest.param({"jobDeploymentStatus": "Suspended"}, id="a queue has it"),
    ],
)
def test_an_attempt_has_not_ended_while(kuberay: Object) -> None:
    assert of(kuberay) is None


def test_an_attempt_succeeded_when_its_ray_job_did() -> None:
    assert isinstance(of(SUCCEEDED), Succeeded)
    assert isinstance(of(SUCCEEDED, pods=[OOM]), Succeeded)


INVALID = 'Pod "plays-1-x7k2p-head" is invalid: spec.containers[0].env[0].name: Invalid value: "A B"'

ROWS: dict[str, tuple[dict[str, Any], AttemptFailure]] = {
    "its RayJob is gone": (
        {"kuberay": None},
        AttemptFailure("Infrastructure", "RayJobDeleted", "The RayJob of attempt 1 was deleted while it ran."),
    ),
    "its RayJob is going": (
        {"kuberay": RUNNING, "deleting": True},
        AttemptFailure("Infrastructure", "RayJobDeleted", "The RayJob of attempt 1 was deleted while it ran."),
    ),
    "Kubernetes refuses its pods": (
        {"kuberay": worlds.replica_failure(INVALID)},
        AttemptFailure("User", "PodsInvalid", f"Kubernetes refuses the pods: {INVALID} Correct it in a new job."),
    ),
    "its driver says why": (
        {"kuberay": APP_FAILED, "run": {"stage": "Failed", "failure": SAID}},
        AttemptFailure("Data", "BadRow", "Row 3 of s3://x is no JSON.", rank=2),
    ),
    "KubeRay finds it invalid": (
        {"kuberay": VALIDATION_FAILED},
        AttemptFailure(
            "User", "RayJobRefused",
            f"KubeRay finds the RayJob invalid. KubeRay says: {VALIDATION_FAILED['message']} Correct it in a new job.",
        ),
    ),
    "somebody stopped it": (
        {"kuberay": STOPPED},
        AttemptFailure("Infrastructure", "RayJobStopped", "The Ray job was stopped by somebody."),
    ),
    "its driver left no word": (
        {"kuberay": APP_FAILED},
        AttemptFailure("Unknown", "DriverEnded", "The driver ended with exit code 1 and left no word why."),
    ),
    "its head is gone": (
        {"kuberay": HEAD_LOST | {"message": "Ray head pod not found."}},
        AttemptFailure("Infrastructure", "HeadLost", "The head pod was lost, and the Ray cluster with it."),
    ),
    "it could not be submitted": (
        {"kuberay": SUBMISSION_FAILED},
        AttemptFailure(
            "Infrastructure", "SubmissionFailed",
            f"The Ray cluster was lost. KubeRay says: {SUBMISSION_FAILED['message']}",
        ),
    ),
    "KubeRay gave it up": (
        {"kuberay": {"jobDeploymentStatus": "Failed", "reason": "JobStatusCheckTimeoutExceeded"}},
        AttemptFailure("Infrastructure", "JobStatusCheckTimeoutExceeded", "The Ray cluster was lost."),
    ),
    "KubeRay says nothing": (
        {"kuberay": {"jobDeploymentStatus": "Failed"}},
        AttemptFailure("Infrastructure", "RayJobFailed", "The Ray cluster was lost."),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_an_attempt_has_failed_because(name: str) -> None:
    given, failure = ROWS[name]
    assert of(**given) == failure


@pytest.mark.parametrize(
    "pods",
    [
        pytest.param([pod("worker", 2, ended=[worlds.ended(reason="OOMKilled")])], id="another attempt's"),
        pytest.param([pod("worker", ended=[worlds.ended(reason="Completed", code=0)])], id="one that did its work"),
    ],
)
def test_a_pod_that_explains_nothing_is_not_blamed(pods: list[Object]) -> None:
    failure = of(APP_FAILED, pods=pods)
    assert isinstance(failure, AttemptFailure)
    assert failure.reason == "DriverEnded"


def submitter(code: int, ago: float) -> Object:
    return pod(ended=[worlds.ended("ray-job-submitter", code=code, ago=ago)])


def test_a_driver_that_ends_before_its_cluster_was_ready_is_noticed_after_a_while() -> None:
    """KubeRay looks at the job only once all pods are ready, which they may never be."""
    assert of(INITIALIZING, pods=[submitter(1, ago=19)]) is None
    failure = of(INITIALIZING, pods=[submitter(1, ago=20)])
    assert failure == AttemptFailure("Unknown", "DriverEnded", "The driver ended and left no word why.")
    said = of(INITIALIZING, pods=[submitter(1, ago=20)], run={"stage": "Failed", "failure": SAID})
    assert isinstance(said, AttemptFailure)
    assert said.reason == "BadRow"
    assert isinstance(of(INITIALIZING, pods=[submitter(0, ago=20)], run={"stage": "Succeeded"}), Succeeded)


def test_a_driver_that_ended_well_is_left_to_kuberay_once_its_cluster_was_ready() -> None:
    """A busy KubeRay may take longer than we wait; it looks at the job itself and says how it ended."""
    assert of(RUNNING, pods=[submitter(0, ago=60)]) is None
    assert isinstance(of(RUNNING, pods=[submitter(0, ago=60)], run={"stage": "Succeeded"}), Succeeded)
    assert isinstance(of(RUNNING, pods=[submitter(1, ago=60)]), AttemptFailure)
    assert isinstance(of(INITIALIZING, pods=[submitter(0, ago=60)]), AttemptFailure)


def test_a_driver_that_a_queue_has_ended_has_not_failed() -> None:
    """Its pods go; the RayJob starts again when it is admitted."""
    for deployment in ("Running", "Suspending"):
        assert of({"jobDeploymentStatus": deployment, "suspend": True}, pods=[submitter(143, ago=25)]) is None


def test_the_end_of_another_container_is_not_the_drivers() -> None:
    worker = pod("worker", ended=[worlds.ended("ray-job-submitter", ago=100)])
    assert of(INITIALIZING, pods=[worker]) is None


def test_a_failure_in_the_status_has_the_names_of_the_api_and_a_bounded_message() -> None:
    assert AttemptFailure("Data", "BadRow", "m" * 2000, rank=0).to_status().to_json() == {
        "class": "Data",
        "reason": "BadRow",
        "message": "m" * 1024,
        "rank": 0,
    }
