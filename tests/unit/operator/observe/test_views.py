"""What is kept of objects, whole ones and odd ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_operator import names
from finetune_operator.observe.views import Ended, Waiting, view_job, view_pod, view_rayjob
from finetune_training.contract.moment import seconds
from tests.unit.operator import worlds
from tests.unit.operator.worlds import NOW, Object, job, pod, rayjob


def test_a_job_is_seen_with_its_spec_and_its_phase() -> None:
    view = view_job(
        job(
            suspend=True,
            backoffLimit=5,
            activeDeadlineSeconds=60,
            ttlSecondsAfterFinished=0,
            status={"phase": "Suspended", "run": {"attempt": 1, "loss": 0.5}},
        )
    )
    assert view.key == "team/plays"
    assert (view.version, view.generation, view.phase, view.deleting) == (10, 1, "Suspended", False)
    asked = json.loads(view.spec)
    assert (asked["suspend"], asked["backoffLimit"]) == (True, 5)
    assert (asked["activeDeadlineSeconds"], asked["ttlSecondsAfterFinished"]) == (60, 0)
    assert json.loads(view.spec)["model"] == {"uri": "hf://owner/model", "revision": "", "trustRemoteCode": False} | {
        "attention": "Auto"
    }
    assert json.loads(view.status) == {"phase": "Suspended", "run": {"attempt": 1, "loss": 0.5}}


def test_a_new_job_has_no_status() -> None:
    view = view_job(job())
    assert (view.phase, json.loads(view.status)) == ("", {})


def test_text_is_kept_as_it_is() -> None:
    view = view_job(job(dataset={"train": [{"uri": "s3://data/spiel.jsonl"}], "chatTemplate": 'Frage: ☺ "{{ x }}"'}))
    assert json.loads(view.spec)["dataset"]["chatTemplate"] == 'Frage: ☺ "{{ x }}"'


def test_a_rayjob_is_seen_with_its_attempt_and_how_it_ended() -> None:
    view = view_rayjob(rayjob(2, age=30, **worlds.APP_FAILED))
    assert (view.key, view.job_uid, view.attempt) == ("team/plays", worlds.UID, 2)
    assert (view.job_status, view.deployment_status, view.reason) == ("FAILED", "Failed", "AppFailed")
    assert view.message.startswith("Job entrypoint command failed")
    assert (view.created, view.end) == (NOW - 30, NOW)
    assert view.terminal


@pytest.mark.parametrize(
    ("deployment", "terminal"),
    [
        ("", False), ("Initializing", False), ("Running", False), ("Suspending", False), ("Suspended", False),
        ("Complete", True), ("Failed", True), ("ValidationFailed", True),
    ],
)  # fmt: skip
def test_a_rayjob_is_terminal_when_kuberay_does_nothing_more_with_it(deployment: str, terminal: bool) -> None:
    assert view_rayjob(rayjob(jobDeploymentStatus=deployment)).terminal is terminal


def test_a_rayjob_that_kuberay_has_not_seen_has_no_status() -> None:
    body = rayjob()
    del body["status"]
    view = view_rayjob(body)
    assert (view.job_status, view.deployment_status, view.problem, view.end) == ("", "", "", None)


def test_a_rayjob_says_why_kuberay_cannot_make_pods_and_only_while_it_cannot() -> None:
    body = rayjob(**worlds.replica_failure("exceeded quota: gpus"))
    assert body["status"]["rayClusterStatus"]["conditions"][0]["message"] == "FailedCreateHeadPod\nexceeded quota: gpus"
    assert view_rayjob(body).problem == "exceeded quota: gpus"
    body["status"]["rayClusterStatus"]["conditions"][0]["status"] = "False"
    assert view_rayjob(body).problem == ""


def test_a_pod_that_waits_says_which_container_and_why() -> None:
    view = view_pod(pod(waiting=[worlds.waits("ImagePullBackOff", 'Back-off pulling image "x"')]))
    assert (view.key, view.attempt, view.head, view.node, view.scheduled) == ("team/plays", 1, True, "node-1", True)
    assert view.waiting == (Waiting("ray-head", "ImagePullBackOff", 'Back-off pulling image "x"'),)
    assert view.ended == ()


def test_a_pod_without_a_node_says_what_the_scheduler_said() -> None:
    view = view_pod(pod("worker", unschedulable="0/3 nodes are available: 3 Insufficient nvidia.com/gpu."))
    assert (view.head, view.node, view.scheduled) == (False, "", False)
    assert view.unschedulable == "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."


def test_a_pod_has_ended_also_when_the_kubelet_knows_no_more_of_its_containers() -> None:
    unknown = {"name": "ray-worker", "state": {"terminated": {"reason": "ContainerStatusUnknown", "exitCode": 137}}}
    view = view_pod(pod(ended=[worlds.ended(reason="OOMKilled", code=137, ago=5), unknown]))
    assert view.ended == (
        Ended("ray-head", "OOMKilled", 137, NOW - 5),
        Ended("ray-worker", "ContainerStatusUnknown", 137, 0.0),
    )


def test_the_init_containers_of_a_pod_count() -> None:
    body = pod(initContainerStatuses=[worlds.waits("ImagePullBackOff", container="wait-gcs-ready")])
    assert [each.container for each in view_pod(body).waiting] == ["wait-gcs-ready"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param(
            {"disrupted": ("EvictionByEvictionAPI", "Eviction API: evicting")},
            "EvictionByEvictionAPI: Eviction API: evicting",
            id="a drain",
        ),
        pytest.param({"phase": "Failed", "reason": "Evicted"}, "Evicted", id="the kubelet"),
        pytest.param({}, "", id="nothing"),
    ],
)
def test_a_pod_says_who_takes_it_away(changes: dict[str, Any], why: str) -> None:
    assert view_pod(pod(**changes)).why == why


def test_a_pod_that_the_kubelet_evicts_keeps_both_reasons() -> None:
    both = ("TerminationByKubelet", "The node was low on resource: memory.")
    view = view_pod(pod(disrupted=both, reason="Evicted", phase="Failed"))
    assert (view.disruption, view.reason) == ("TerminationByKubelet", "Evicted")


def test_a_pod_says_when_it_got_its_node_and_ran() -> None:
    view = view_pod(pod(runs=30))
    assert (view.scheduled_at, view.started) == (NOW - 40, NOW - 30)
    half = pod(runs=30, waiting=[worlds.waits("PodInitializing", container="ray-job-submitter")])
    assert view_pod(half).started is None
    assert view_pod(pod(runs=30, phase="Pending")).started is None
    assert (view_pod(pod()).scheduled_at, view_pod(pod()).started) == (None, None)


def test_an_ended_container_says_how_much_memory_was_allowed() -> None:
    view = view_pod(pod(ended=[worlds.ended(), worlds.ended("sidecar")], limits={"ray-head": "8Gi"}))
    assert [each.limit for each in view.ended] == ["8Gi", ""]


def test_a_long_message_of_kuberay_keeps_its_beginning_and_its_end() -> None:
    view = view_rayjob(rayjob(message="begin" + "x" * 20_000 + "end"))
    assert len(view.message) < 2000
    assert (view.message[:5], view.message[-3:]) == ("begin", "end")


def test_a_pod_that_was_just_made_has_next_to_nothing() -> None:
    body = pod()
    del body["status"], body["spec"]
    view = view_pod(body)
    assert (view.phase, view.node, view.scheduled, view.waiting, view.ended) == ("Pending", "", False, (), ())


def stripped(body: Object, **labels: str) -> Object:
    body["metadata"]["labels"] = {names.UID_LABEL: "x"} | labels
    return body


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param({}, id="none but the one that is watched"),
        pytest.param({names.ATTEMPT_LABEL: "two"}, id="no number"),
    ],
)
def test_what_has_not_all_of_our_labels_belongs_to_no_job(labels: dict[str, str]) -> None:
    """Anybody may set labels: that must not keep the operator from everybody else's jobs."""
    for view in (view_pod(stripped(pod(), **labels)), view_rayjob(stripped(rayjob(), **labels))):
        assert (view.key, view.job, view.attempt) == ("team/", "", 0)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T01:01:00+01:00", 60.0),
        ("1970-01-01T00:00:00.500000Z", 0.5),
        ("", None),
        (None, None),
    ],
)
def test_a_time_of_kubernetes_is_read_as_seconds(text: str | None, number: float | None) -> None:
    assert seconds(text) == number
