"""The chart's admission policy on a real API server: what the pods of a job may write, and what they may not."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from finetune_operator import names
from tests.accounts import Account, Refused, log_in, make_account, make_pod
from tests.cluster.helm import CHART, Helm
from tests.cluster.kubectl import Kubectl
from tests.cluster.layout import Layout
from tests.cluster.steps import until

SYSTEM, TEAM, OTHER = "finetune-system", "team", "other"
OPERATOR, DRIVER = "finetune-operator", names.DRIVER_ACCOUNT
EXEMPT = f"system:serviceaccount:{TEAM}:restorer"
TIME = "2030-01-01T00:00:00Z"
_numbers = itertools.count()

Job = Callable[..., str]
Person = Callable[..., Account]


@pytest.fixture(scope="module")
def cluster(api_server: Layout) -> Kubectl:
    """An API server with the chart, two namespaces with the drivers' account, and the policy at work."""
    admin = Kubectl(api_server.kubeconfig)
    values = {"admissionPolicy": {"exemptUsers": [EXEMPT]}}
    Helm(api_server.kubeconfig, SYSTEM)("install", OPERATOR, str(CHART), "--create-namespace", values=values)
    for namespace in (TEAM, OTHER):
        admin("create", "namespace", namespace)
        for account in (DRIVER, "restorer"):
            make_account(admin.within(namespace), account)
            bind(admin.within(namespace), account)
    return admin


def bind(kubectl: Kubectl, account: str) -> None:
    role, subject = f"--clusterrole={OPERATOR}-driver", f"--serviceaccount={kubectl.namespace}:{account}"
    kubectl("create", "rolebinding", account, role, subject)


@pytest.fixture(scope="module")
def person(cluster: Kubectl) -> Person:
    """Somebody: person(account, pod=..., namespace=...). A pod that is named is made."""

    def someone(account: str = DRIVER, *, pod: str = "", namespace: str = TEAM) -> Account:
        if pod:
            make_pod(cluster.within(namespace), pod, account)
        return log_in(cluster.within(namespace), account, pod=pod)

    return someone


@pytest.fixture(scope="module")
def job(cluster: Kubectl, person: Person) -> Job:
    """A job whose second attempt the operator has announced, by the operator's own account; returns the job's name."""
    operator = the_operator(person)

    def make(name: str = "", attempt: int | None = 2) -> str:
        name = name or f"shakespeare{next(_numbers)}"
        spec = {
            "model": {"uri": "hf://owner/model"},
            "dataset": {"train": [{"uri": "s3://data/plays.jsonl"}]},
            "checkpoint": {"uri": "s3://models"},
            "resources": {"pool": "gpu"},
        }
        body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": name, "namespace": TEAM}}
        cluster.apply(json.dumps(body | {"spec": spec}))
        if attempt is not None:
            condition = {"type": "Accepted", "status": "True", "reason": "Accepted", "lastTransitionTime": TIME}
            announced = {"attempt": attempt, "rayJobName": names.child_name(name, attempt), "startTime": TIME}
            status = announced | {"phase": "Training", "conditions": [condition]}
            apply_status(operator, name, status, names.OPERATOR_MANAGER)
        return name

    return make


def the_operator(person: Person) -> Account:
    return person(OPERATOR, namespace=SYSTEM, pod="finetune-operator-7d9c5b8f4-x2x4z")


def path_of(name: str) -> str:
    return f"/apis/{names.API_VERSION}/namespaces/{TEAM}/{names.PLURAL}/{name}"


def apply_status(who: Account, name: str, status: dict[str, Any], manager: str) -> None:
    body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": name, "namespace": TEAM}}
    who.apply(f"{path_of(name)}/status", body | {"status": status}, manager)


def run(attempt: int = 2, **more: Any) -> dict[str, Any]:
    return {"run": {"attempt": attempt, "stage": "Training", "step": 5, "updatedAt": TIME} | more}


def patch(who: Account, name: str, body: dict[str, Any]) -> None:
    """A merge patch of the status subresource."""
    who.patch(f"{path_of(name)}/status", body)


def status_of(cluster: Kubectl, name: str) -> dict[str, Any]:
    status: dict[str, Any] = cluster.within(TEAM).get("finetunejob", name)["status"]
    return status


@pytest.fixture(scope="module", autouse=True)
def at_work(job: Job, person: Person) -> None:
    """The API server looks for policies every now and then: wait until this one is there."""
    name, outsider = job(), person(pod="outsider")
    for _ in until(30):
        try:
            patch(outsider, name, {"status": run()})
        except Refused:
            break
    with pytest.raises(Refused, match="may not write the status"):
        patch(outsider, name, {"status": run()})


def test_the_head_of_the_current_attempt_writes_run(cluster: Kubectl, job: Job, person: Person) -> None:
    name = job()
    head = person(pod=f"{name}-2-b4xz9-head-k7qwm")
    before = status_of(cluster, name)
    apply_status(head, name, run(), names.DRIVER_MANAGER)
    apply_status(head, name, run(step=10, loss=2.5), names.DRIVER_MANAGER)
    after = status_of(cluster, name)
    assert after.pop("run") == run(step=10, loss=2.5)["run"]
    assert after == before


def test_the_head_of_a_job_with_a_long_history_writes_run(cluster: Kubectl, job: Job, person: Person) -> None:
    """The policy compares all of the status, and its cost is bounded."""
    name = job()
    past = {"class": "Infrastructure", "reason": "X", "message": "m" * 256, "startTime": TIME, "endTime": TIME}
    attempts = [past | {"attempt": number, "logs": "s3://" + "l" * 2000} for number in range(1, 11)]
    failure = {"class": "Unknown", "reason": "X", "message": "m" * 1024, "log": "l" * 1024}
    status = status_of(cluster, name) | {"attempts": attempts, "failure": failure, "current": {"startTime": TIME}}
    apply_status(the_operator(person), name, status, names.OPERATOR_MANAGER)
    head = person(pod=f"{name}-2-b4xz9-head-k7qwm")
    apply_status(head, name, run(restarts=1, seconds={"training": 1.5}), names.DRIVER_MANAGER)
    assert status_of(cluster, name)["run"]["restarts"] == 1
    with pytest.raises(Refused, match=r"these differ: attempts$"):
        patch(head, name, {"status": run() | {"attempts": attempts[1:]}})


def test_a_head_without_a_random_end_writes_too(job: Job, person: Person) -> None:
    name = job()
    patch(person(pod=f"{name}-2-b4xz9-head"), name, {"status": run()})


@pytest.mark.parametrize("attempt", [1, 12, 123, 1234])
def test_the_head_of_a_job_with_the_longest_name_writes_run(job: Job, person: Person, attempt: int) -> None:
    name = job("a" * (names.JOB_NAME_MAX - len(str(attempt))) + "x" * len(str(attempt)), attempt)
    # As KubeRay 1.6 does it: controllers/ray/utils/util.go, GenerateRayClusterName and PodName.
    head = f"{names.child_name(name, attempt)}-b4xz9"[:50] + "-head-k7qwm"
    assert len(head) <= 63
    patch(person(pod=head), name, {"status": run(attempt)})


@pytest.mark.parametrize(
    "pod",
    [
        "{job}-1-b4xz9-head-k7qwm",  # the attempt before
        "{job}-22-b4xz9-head-k7qwm",  # a later one, whose name begins alike
        "{job}-2-b4xz9-gpu-worker-k7qwm",
        "{job}-2-b4xz9-head-worker-k7qwm",  # a worker of a group called head
        "{job}-2-x-1-b4xz9-head-k7qwm",  # the first attempt of a job called {job}-2-x
        "{job}-2-head-k7qwm",
        "{job}-2-b4xz9-head-k7qwm-x",
        "other-2-b4xz9-head-k7qwm",
        "x{job}-2-b4xz9-head-k7qwm",
    ],
)
def test_no_other_pod_writes(cluster: Kubectl, job: Job, person: Person, pod: str) -> None:
    name = job()
    name_of_pod = pod.format(job=name)
    expected = (
        rf"pod {name_of_pod} may not write the status of FineTuneJob {name}: only the head pod of its current attempt may, "
        rf"and that is of RayJob {name}-2"
    )
    with pytest.raises(Refused, match=expected):
        patch(person(pod=name_of_pod), name, {"status": run()})
    assert "run" not in status_of(cluster, name)


def test_a_head_does_not_write_the_status_of_another_job(job: Job, person: Person) -> None:
    mine, yours = job(), job()
    head = person(pod=f"{mine}-2-b4xz9-head-k7qwm")
    with pytest.raises(Refused, match=rf"may not write the status of FineTuneJob {yours}"):
        patch(head, yours, {"status": run()})
    patch(head, mine, {"status": run()})


def test_a_pod_of_the_same_name_in_another_namespace_does_not_write(cluster: Kubectl, job: Job, person: Person) -> None:
    name = job()
    cluster.within(TEAM)(
        "create", "rolebinding", name, f"--clusterrole={OPERATOR}-driver", f"--serviceaccount={OTHER}:{DRIVER}"
    )
    with pytest.raises(Refused, match="whose token is of no pod of this namespace, may not write"):
        patch(person(pod=f"{name}-2-b4xz9-head-k7qwm", namespace=OTHER), name, {"status": run()})


def test_a_token_of_the_account_that_is_of_no_pod_does_not_write(job: Job, person: Person) -> None:
    with pytest.raises(Refused, match=rf"{TEAM}:{DRIVER}, whose token is of no pod of this namespace"):
        patch(person(), job(), {"status": run()})


def test_before_an_attempt_is_announced_nobody_writes(job: Job, person: Person) -> None:
    name = job(attempt=None)
    with pytest.raises(Refused, match="no attempt has been announced"):
        patch(person(pod=f"{name}-1-b4xz9-head-k7qwm"), name, {"status": run(1)})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"phase": "Succeeded"}, "phase"),
        ({"conditions": []}, "conditions"),
        (
            {"conditions": [{"type": "Complete", "status": "True", "reason": "X", "lastTransitionTime": TIME}]},
            "conditions",
        ),
        ({"attempt": 1}, "attempt"),
        ({"rayJobName": "mine-1"}, "rayJobName"),
        ({"startTime": None}, "startTime"),
        ({"completionTime": TIME, "phase": None}, "completionTime, phase"),
        ({"failure": {"class": "User", "reason": "X"}}, "failure"),
    ],
)
def test_the_head_changes_nothing_but_run(
    cluster: Kubectl, job: Job, person: Person, change: dict[str, Any], named: str
) -> None:
    name = job()
    before = status_of(cluster, name)
    with pytest.raises(Refused, match=rf"may change status\.run and nothing else, but these differ: {named}$"):
        patch(person(pod=f"{name}-2-b4xz9-head-k7qwm"), name, {"status": run() | change})
    assert status_of(cluster, name) == before


@pytest.mark.parametrize(("attempt", "said"), [(1, "but is 1"), (3, "but is 3")])
def test_the_head_writes_for_its_attempt_only(job: Job, person: Person, attempt: int, said: str) -> None:
    name = job()
    with pytest.raises(
        Refused, match=rf"must be that of the current attempt, 2, {said}: a driver whose attempt is over"
    ):
        patch(person(pod=f"{name}-2-b4xz9-head-k7qwm"), name, {"status": run(attempt)})


def test_the_head_does_not_take_run_away(cluster: Kubectl, job: Job, person: Person) -> None:
    name = job()
    head = person(pod=f"{name}-2-b4xz9-head-k7qwm")
    patch(head, name, {"status": run()})
    with pytest.raises(Refused, match=r"status\.run\.attempt .* is missing"):
        patch(head, name, {"status": {"run": None}})
    assert status_of(cluster, name)["run"]["step"] == 5


def test_an_old_head_stops_writing_when_the_next_attempt_is_announced(job: Job, person: Person) -> None:
    name = job()
    head = person(pod=f"{name}-2-b4xz9-head-k7qwm")
    patch(head, name, {"status": run()})
    apply_status(
        the_operator(person),
        name,
        {"attempt": 3, "rayJobName": names.child_name(name, 3)},
        names.OPERATOR_MANAGER,
    )
    with pytest.raises(Refused, match=rf"that is of RayJob {name}-3"):
        patch(head, name, {"status": run()})


def test_metadata_and_spec_are_not_written_through_the_status(cluster: Kubectl, job: Job, person: Person) -> None:
    name = job()
    before = cluster.within(TEAM).get("finetunejob", name)
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "3f0b7a5e-0000-4000-8000-000000000000"}
    metadata = {
        "labels": {"a": "b"},
        "annotations": {"a": "b"},
        "finalizers": ["a.example/b"],
        "ownerReferences": [owner],
    }
    body = {"metadata": metadata, "spec": {"suspend": True}, "status": run()}
    patch(person(pod=f"{name}-2-b4xz9-head-k7qwm"), name, body)
    after = cluster.within(TEAM).get("finetunejob", name)
    assert after["status"]["run"] == run()["run"]
    assert after["spec"] == before["spec"]
    changing = {"managedFields", "resourceVersion"}
    assert {key: value for key, value in after["metadata"].items() if key not in changing} == {
        key: value for key, value in before["metadata"].items() if key not in changing
    }


def test_the_head_cannot_write_the_job_itself(job: Job, person: Person) -> None:
    name = job()
    with pytest.raises(Refused, match="forbidden"):
        person(pod=f"{name}-2-b4xz9-head-k7qwm").patch(path_of(name), {"spec": {"suspend": True}})


def test_the_operator_an_exempt_user_and_an_administrator_write_what_they_want(
    cluster: Kubectl, job: Job, person: Person
) -> None:
    name = job()
    for number, someone in enumerate((the_operator(person), person("restorer"))):
        patch(someone, name, {"status": {"failed": number, "phase": f"Phase{number}"}})
        assert status_of(cluster, name)["failed"] == number
    body = '{"status": {"failed": 7, "run": null}}'
    cluster.within(TEAM)("patch", "finetunejob", name, "--subresource=status", "--type=merge", f"--patch={body}")
    assert status_of(cluster, name)["failed"] == 7
