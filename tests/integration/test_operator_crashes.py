"""Whatever happens to the operator or to the API server, the job ends the same: against a real API server, through a proxy that
kills, refuses and cuts at will. What KubeRay and the driver would write, the test writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import control_plane
from tests.cluster.layout import Layout
from tests.cluster.steps import until
from tests.integration.control_plane_with_crds import control_plane_with_crds, new_namespace
from tests.integration.operator_process import HAND, Hand, Operator, operator
from tests.servers.api_proxy import Answer, ApiProxy, Call, Intercept, Moment, api_proxy


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    with control_plane_with_crds(tmp_path_factory.mktemp("api") / "cluster") as layout:
        yield layout


@pytest.fixture(scope="module")
def proxy(api: Layout) -> Iterator[ApiProxy]:
    with api_proxy(api) as running:
        running.not_counted = HAND
        yield running


def _live(hand: Hand, running: Operator, *, seconds: float = 90) -> dict[str, Any]:
    """Live the life of `job`: run, suspend, resume, run, succeed, each when it is due, with a new operator whenever the last
    one is dead. The end state, without times."""
    for _ in until(seconds):
        if not running.runs:
            running.start()
        status = hand.status("job")
        if status.get("phase") in ("Succeeded", "Failed"):
            return _timeless(hand)
        _do_what_is_due(hand, status)
    raise AssertionError(f"the job does not end: {hand.status('job')}; the operator: {running.log()[-4000:]}")


def _do_what_is_due(hand: Hand, status: dict[str, Any]) -> None:
    rayjobs, phase, attempt = hand.rayjobs(), status.get("phase"), status.get("attempt", 0)
    for name, rayjob in rayjobs.items():
        if not rayjob.get("status"):
            hand.set_rayjob(name, "Running", "RUNNING")
    if phase == "Preparing":
        hand.set_run("job", attempt=attempt, stage="Training" if attempt == 1 else "Exporting", step=3 * attempt)
    elif phase == "Training":
        hand.change("job", suspend=True)
    elif phase == "Suspended" and not rayjobs:
        hand.change("job", suspend=False)
    elif phase == "Exporting":
        hand.set_rayjob("job-2", "Complete", "SUCCEEDED")


def _timeless(hand: Hand) -> dict[str, Any]:
    """All that the job has left, but for times and what is named after its namespace."""
    status = hand.status("job")
    for condition in status["conditions"]:
        del condition["lastTransitionTime"]
    for field in ("startTime", "completionTime"):
        assert status.pop(field)
    assert status.pop("usage")["totalSeconds"] >= 0
    for attempt in status["attempts"]:
        for field in ("startTime", "endTime", "logs"):
            assert attempt.pop(field)
    return {"status": status, "rayjobs": sorted(hand.rayjobs())}


_WRITES = 22
"""So many writes the operator makes in this life at least, the account's included."""


@pytest.fixture(scope="module")
def expected(api: Layout, proxy: ApiProxy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The end of a life in which nothing goes wrong."""
    hand, folder = Hand(proxy.url, new_namespace(api).namespace), tmp_path_factory.mktemp("undisturbed")
    before = len(proxy.writes())
    kubeconfig = proxy.write_kubeconfig(folder / "kubeconfig")
    with operator(kubeconfig, folder, FINETUNE_NAMESPACES=hand.namespace) as running:
        hand.create("job")
        end = _live(hand, running)
        assert running.stop() == 0
    writes = proxy.writes()[before:]
    assert _WRITES <= len(writes) <= _WRITES + 1, "\n".join(map(str, writes))
    assert all(call.status < 300 for call in writes)
    return end


def test_a_job_that_is_suspended_once_lives_to_its_success(expected: dict[str, Any]) -> None:
    status = expected["status"]
    assert status["phase"] == "Succeeded"
    assert status["attempt"] == 2
    assert "failed" not in status
    assert status["run"]["step"] == 6
    assert {each["type"]: each["status"] for each in status["conditions"]} == {
        "Accepted": "True",
        "Training": "False",
        "Complete": "True",
    }
    assert [(each["attempt"], each["reason"], each["step"]) for each in status["attempts"]] == [
        (1, "Suspended", 3),
        (2, "Succeeded", 6),
    ]
    assert "current" not in status
    assert expected["rayjobs"] == ["job-2"]


@pytest.mark.parametrize("number", range(1, _WRITES + 1))
def test_a_job_ends_the_same_when_its_operator_is_killed_at_a_write(
    api: Layout, proxy: ApiProxy, expected: dict[str, Any], tmp_path: Path, number: int
) -> None:
    """Killed when the API server has done it and before the operator knows. Who is killed before it, knows less, but
    leaves the same as who is killed at the one before."""
    hand = Hand(proxy.url, new_namespace(api).namespace)
    running = Operator(
        proxy.write_kubeconfig(tmp_path / "kubeconfig"), tmp_path, {"FINETUNE_NAMESPACES": hand.namespace}
    )
    begin, seen, killed = len(proxy.calls), 0, list[Call]()

    def kill(call: Call, when: Moment) -> Answer | None:
        nonlocal seen
        if not call.is_write or killed or when != "after":
            return None
        seen += 1
        if seen < number:
            return None
        killed.append(call)
        running.kill()
        return Answer(0)

    with _interfering(proxy, kill):
        running.start()
        try:
            hand.create("job")
            assert _live(hand, running) == expected
        finally:
            running.kill()
    assert killed
    made = [each for each in proxy.calls[begin:] if (each.verb, each.resource) == ("create", "rayjobs")]
    assert sum(each.status < 300 for each in made) == 2, "each attempt has one RayJob"


def test_errors_conflicts_and_watches_that_end_change_nothing(
    api: Layout, proxy: ApiProxy, expected: dict[str, Any], tmp_path: Path
) -> None:
    """Every write fails once, with each code in turn; watches last a second, and one in three is 410 Gone."""
    hand, tried, watches = Hand(proxy.url, new_namespace(api).namespace), set[tuple[str, str, str]](), 0
    codes = [409, 429, 500, 503, 0]
    expired = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
    gone = json.dumps({"type": "ERROR", "object": expired}).encode() + b"\n"
    again = json.dumps({"reason": "Rough", "message": "try again"}).encode()

    def rough(call: Call, when: Moment) -> Answer | None:
        nonlocal watches
        key = (call.verb, call.resource, call.name)
        if when == "before" and call.verb == "watch":
            watches += 1
            return Answer(200, gone) if watches % 3 == 0 else None
        if when == "before" and call.is_write and key not in tried:
            tried.add(key)
            return Answer(codes[len(tried) % len(codes)], again)
        return None

    with _interfering(proxy, rough, watch_seconds=1.0):
        kubeconfig = proxy.write_kubeconfig(tmp_path / "kubeconfig")
        with operator(kubeconfig, tmp_path, FINETUNE_NAMESPACES=hand.namespace) as running:
            hand.create("job")
            assert _live(hand, running, seconds=150) == expected
            assert running.stop() == 0
    assert len(tried) >= 5
    assert watches >= 6


@contextmanager
def _interfering(proxy: ApiProxy, intercept: Intercept, *, watch_seconds: float = 0) -> Iterator[None]:
    proxy.intercept, proxy.watch_seconds = intercept, watch_seconds
    try:
        yield
    finally:
        proxy.intercept, proxy.watch_seconds = (lambda _call, _when: None), 0.0


@pytest.mark.slow
def test_an_api_server_that_is_away_for_a_minute_changes_nothing(
    expected: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Away with its etcd, while the attempt is being started."""
    folder = tmp_path_factory.mktemp("outage")
    with control_plane_with_crds(folder / "cluster") as layout, api_proxy(layout) as proxy:
        proxy.not_counted = HAND
        hand = Hand(proxy.url, new_namespace(layout).namespace)
        with operator(layout.kubeconfig, folder / "operator") as running:
            hand.create("job")
            hand.await_status("job", lambda status: status.get("attempt") == 1)
            control_plane.stop_api(layout)
            for _ in until(60):
                assert running.runs, running.log()
            control_plane.start_api(layout)
            assert _live(hand, running, seconds=150) == expected
            assert running.healthy() == 200
            assert running.stop() == 0


def test_a_restart_over_converged_jobs_writes_nothing(api: Layout, proxy: ApiProxy, tmp_path: Path) -> None:
    """One job in every state that lasts."""
    hand = Hand(proxy.url, new_namespace(api).namespace)
    kubeconfig = proxy.write_kubeconfig(tmp_path / "kubeconfig")
    phases = {
        "pending": "Pending", "running": "Preparing", "succeeded": "Succeeded", "suspended": "Suspended", "failed": "Failed",
    }  # fmt: skip
    with operator(kubeconfig, tmp_path, FINETUNE_NAMESPACES=hand.namespace) as running:
        for name in ("pending", "running", "succeeded"):
            hand.create(name)
        hand.create("suspended", suspend=True)
        hand.create("failed", resources={"pool": "none"})
        for name, deployment, state in (("running", "Running", "RUNNING"), ("succeeded", "Complete", "SUCCEEDED")):
            hand.await_status(name, lambda status: status.get("attempt") == 1)
            hand.set_rayjob(f"{name}-1", deployment, state)
        for name, phase in phases.items():
            hand.await_phase(name, phase)
        assert running.stop() == 0
        before = len(proxy.writes())
        running.start()
        _await_looks(running, len(phases))
        for name in phases:  # whose events come after those of the start
            hand.change(name, ttlSecondsAfterFinished=3600)
        for name in phases:
            hand.await_status(name, lambda status: status["observedGeneration"] == 2)
        after = [call for call in proxy.writes()[before:] if call.resource == "finetunejobs/status"]
        assert [call.name for call in after] == sorted(phases, key=[call.name for call in after].index)
        assert proxy.writes()[before:] == after, "nothing but the generation was written"


def _await_looks(running: Operator, number: int) -> None:
    for _ in until(60):
        if running.healthy() == 200 and running.metric("finetune_reconciles_total") >= number:
            return
    raise AssertionError(running.log())


def test_without_kuberay_the_job_says_so_and_starts_when_it_is_there(tmp_path: Path) -> None:
    with control_plane_with_crds(tmp_path / "cluster") as layout, api_proxy(layout) as proxy:
        kubectl = new_namespace(layout)
        hand = Hand(proxy.url, kubectl.namespace)
        crd = kubectl.get("crd", "rayjobs.ray.io")
        kubectl("delete", "crd", "rayjobs.ray.io")
        with operator(layout.kubeconfig, tmp_path / "operator", FINETUNE_RESYNC_SECONDS="2") as running:
            hand.create("job")
            status = hand.await_status("job", lambda status: bool(status.get("conditions")), seconds=15)
            said = next(each for each in status["conditions"] if each["type"] == "Training")
            assert said["reason"] == "KubeRayMissing"
            assert "Have KubeRay 1.6 or newer installed" in said["message"]
            body = {**crd, "metadata": {"name": "rayjobs.ray.io"}, "status": None}
            kubectl("create", "--filename=-", stdin=json.dumps(body))
            for _ in until(60):
                if not running.runs:
                    break
            assert not running.runs, "only a new process watches a kind that has come"
            running.start()
            hand.await_status("job", lambda status: status.get("attempt") == 1)


def test_a_kuberay_without_the_fields_that_are_needed_is_named(tmp_path: Path) -> None:
    with control_plane_with_crds(tmp_path / "cluster") as layout, api_proxy(layout) as proxy:
        kubectl = new_namespace(layout)
        hand = Hand(proxy.url, kubectl.namespace)
        path = (
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/rayClusterSpec/properties/authOptions"
        )
        removal = json.dumps([{"op": "remove", "path": path}])
        kubectl("patch", "crd", "rayjobs.ray.io", "--type=json", f"--patch={removal}")
        with operator(layout.kubeconfig, tmp_path / "operator"):
            hand.create("job")
            status = hand.await_status("job", lambda status: bool(status.get("conditions")), seconds=15)
            said = next(each for each in status["conditions"] if each["type"] == "Training")
            assert said["reason"] == "KubeRayTooOld"
            assert "authOptions" in said["message"]
