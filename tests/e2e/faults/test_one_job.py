"""One job that all of it befalls, one fault after the other, and that ends as if nothing had happened.

The real model trains (BF16, LoRA with dropout, packing) while each fault is real. After each it must go on from a checkpoint that
is no older than the newest that was committed when the fault began; and in the end every step has learnt from the rows that the
order promises, and the losses are those of a run that nothing befell, as far as that one was let run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from obstore.store import S3Store

from tests.cluster.faults import Faults
from tests.cluster.kubectl import Kubectl
from tests.e2e.conftest import layout_of
from tests.e2e.faults.book import Book, Entry
from tests.e2e.faults.conftest import Model
from tests.e2e.faults.trial import RUNS, Learnt, Trial, learnt
from tests.e2e.order import expected
from tests.e2e.platform import NAMESPACE

# Two cores that compute BF16 in software need ten seconds for a step of this model, however small it is.
STEPS, EVERY, BATCH, LENGTH = 150, 5, 2, 32
UNDISTURBED = 50
# For so long each step takes some seconds at least, so that the job is still under way when the last fault comes.
SLOW_SECONDS = 3000
# While a checkpoint is on its way the steps go on: so many more may have to be done again. Where it cannot arrive, they go on
# until the next is due, which waits for it.
UNDER_WAY = 5
SLOW = """
    if time.time() < float(os.environ["SLOW_UNTIL"]):
        time.sleep(max(0, getattr(self, "next_step", 0) - time.time()))
        self.next_step = time.time() + 10
"""
RANK = "RayTrainWorker"
pytestmark = pytest.mark.timeout(3600)


def spec(fields: dict[str, Any], *, slow_until: float) -> dict[str, Any]:
    return fields | {
        "dataset": fields["dataset"] | {"maxLength": LENGTH},
        "training": {"maxSteps": STEPS, "globalBatchSize": BATCH, "microBatchSize": 1, "learningRate": 1e-4},
        "checkpoint": {"uri": RUNS, "everySteps": EVERY, "keep": 2},
        "backoffLimit": 20,
        "env": [
            {"name": "SLOW_UNTIL", "value": str(slow_until)},
            {"name": "FINETUNE_HANG_SECONDS", "value": "20"},
        ],
    }


@pytest.fixture(scope="module")
def undisturbed(jobs: Kubectl, real: Model, module_s3: S3Store) -> dict[int, Learnt]:
    """What the first steps of the run have to be: the same job, suspended after them."""
    trial = Trial(jobs, module_s3, "undisturbed")
    trial.start(**spec(real("slow", SLOW), slow_until=0))
    trial.watch(lambda status: status.get("run", {}).get("step", 0) >= UNDISTURBED, seconds=2400)
    jobs("patch", "ftj", trial.name, "--type=merge", '--patch={"spec":{"suspend":true}}')
    trial.seconds_until_gone(seconds=60)
    found = learnt(trial.events())
    jobs("delete", "ftj", trial.name, "--timeout=60s")
    assert sorted(found) == list(range(1, len(found) + 1))
    assert len(found) >= UNDISTURBED
    return found


@pytest.fixture(scope="module")
def trial(jobs: Kubectl, real: Model, module_s3: S3Store, undisturbed: dict[int, Learnt]) -> Trial:
    found = Trial(jobs, module_s3, "tried")
    found.start(**spec(real("slow", SLOW), slow_until=time.time() + SLOW_SECONDS))
    found.await_saved(0)
    return found


@dataclass
class Befallen:
    """What was so when a fault began. `restarts`, `attempts`: how many it should cost."""

    at: float
    attempt: int
    restarts: int
    committed: set[str]
    step: int


@contextmanager
def befalls(
    trial: Trial, book: Book, fault: str, *, attempts: int = 0, restarts: int = 0, under_way: int = UNDER_WAY
) -> Iterator[Befallen]:
    """In the block the fault begins, and may end. Afterwards the job must go on, having cost so much."""
    trial.await_training()
    run = trial.run
    before = Befallen(time.time(), run["attempt"], run.get("restarts", 0), trial.committed(), run["step"])
    yield before
    place = (before.attempt + attempts, restarts if attempts else before.restarts + restarts)
    beyond = (
        before.step if attempts or restarts else trial.run["step"]
    )  # what was saved before the fault ended proves nothing
    trial.await_saved(beyond, attempt=place[0], restarts=place[1], seconds=600)
    events = [each for each in trial.events() if each["time"] > before.at]
    said, lost = "", None
    if attempts or restarts:
        resumed = [each for each in events if each["event"] == "Resumed"]
        assert resumed, events
        newest = max(int(name.split("-")[1]) for name in before.committed)
        assert resumed[-1]["step"] >= newest, "a committed checkpoint was lost"
        reached = [
            each["step"] for each in trial.events() if each["event"] == "Step" and each["time"] < resumed[-1]["time"]
        ]
        lost = max(0, reached[-1] - resumed[-1]["step"])
        assert lost <= EVERY + under_way
        recovery = next(
            each["time"] for each in events if each["event"] == "Step" and each["time"] > resumed[-1]["time"]
        ) - before.at  # fmt: skip
    else:
        times = [before.at, *(each["time"] for each in events if each["event"] == "Step")]
        recovery = max(later - earlier for earlier, later in pairwise(times))
    status = trial.status
    if attempts:
        last = next(each for each in status["attempts"] if each["attempt"] == before.attempt)
        end, said = f"{last.get('class') or last['reason']}: the next attempt", last.get("message", "")
    elif restarts:
        end, said = "repaired in the attempt", next(each["why"] for each in events if each["event"] == "Restarted")
    else:
        end = "went on"
    assert (status["attempt"], status["run"].get("restarts", 0)) == place, status
    book.write(Entry(fault, end, recovery, lost, said))


# ── first, so that an attempt's end is among the steps that are compared ────────────────────────────────────────────


def test_head_sigkill(trial: Trial, on_jobs: Faults, book: Book) -> None:
    with befalls(trial, book, "head SIGKILL", attempts=1):
        on_jobs.kill(trial.pod("head"))


# ── what is repaired within the attempt ─────────────────────────────────────────────────────────────────────────────


def test_worker_sigkill(trial: Trial, on_jobs: Faults, book: Book) -> None:
    with befalls(trial, book, "worker SIGKILL (a rank)", restarts=1):
        on_jobs.kill(trial.pod("worker"), matching=RANK)


def test_worker_pod_killed(trial: Trial, on_jobs: Faults, book: Book) -> None:
    with befalls(trial, book, "worker SIGKILL (all of the container)", restarts=1):
        on_jobs.kill(trial.pod("worker"))


def test_worker_pod_deleted(trial: Trial, jobs: Kubectl, book: Book) -> None:
    with befalls(trial, book, "worker pod deleted", restarts=1):
        jobs("delete", "pod", trial.pod("worker"), "--wait=false")


def test_worker_node_drained(trial: Trial, on_jobs: Faults, book: Book) -> None:
    with befalls(trial, book, "worker node drained", restarts=1):
        node = trial.pods("worker")[0]["spec"]["nodeName"]
        with on_jobs.drained(node):
            trial.watch(lambda status: status["run"].get("restarts", 0) > 0, seconds=60)


def test_s3_down_for_a_minute_during_a_checkpoint(trial: Trial, on_jobs: Faults, book: Book) -> None:
    with befalls(trial, book, "S3 down 60 s during a checkpoint"), on_jobs.without_s3():
        time.sleep(60)  # the fault


def test_kuberay_down(trial: Trial, on_jobs: Faults, book: Book) -> None:
    with befalls(trial, book, "KubeRay down 2 min"), on_jobs.without_kuberay():
        time.sleep(120)  # the fault


def test_api_server_down(trial: Trial, on_jobs: Faults, book: Book) -> None:
    with befalls(trial, book, "API server down 1 min"), on_jobs.without_api_server():
        time.sleep(60)  # the fault


def test_operator_killed_again_and_again(trial: Trial, cluster: Kubectl, book: Book) -> None:
    operators = Faults(cluster.within(NAMESPACE), layout_of())
    with befalls(trial, book, "operator killed every 10 s for a minute"):
        for _ in range(6):
            for pod in operators.kubectl.get("pods")["items"]:
                operators.delete(pod["metadata"]["name"], grace_seconds=0)
            time.sleep(10)  # the fault


# ── what costs an attempt ───────────────────────────────────────────────────────────────────────────────────────────


def test_rank_sigstop(trial: Trial, on_jobs: Faults, book: Book) -> None:
    with (
        befalls(trial, book, "rank SIGSTOP (hang)", attempts=1) as before,
        on_jobs.frozen(trial.pod("worker"), matching=RANK),
    ):
        trial.watch(lambda status: status.get("failure", {}).get("class") == "Hang", seconds=300)
    assert "is stopped (SIGSTOP)" in trial.text(f"attempts/{before.attempt}/failure.json")
    assert "state T" in trial.text(f"attempts/{before.attempt}/stacks.txt")


def test_rayjob_deleted(trial: Trial, jobs: Kubectl, book: Book) -> None:
    with befalls(trial, book, "RayJob deleted by hand", attempts=1):
        jobs("delete", "rayjob", trial.status["rayJobName"], "--wait=false")


def test_raycluster_deleted(trial: Trial, jobs: Kubectl, book: Book) -> None:
    with befalls(trial, book, "RayCluster deleted by hand", attempts=1):
        name = jobs.get("rayjob", trial.status["rayJobName"])["status"]["rayClusterName"]
        jobs("delete", "raycluster", name, "--wait=false")


def test_suspended_and_resumed(trial: Trial, jobs: Kubectl, book: Book) -> None:
    with befalls(trial, book, "suspend and resume mid-step", attempts=1):
        jobs("patch", "ftj", trial.name, "--type=merge", '--patch={"spec":{"suspend":true}}')
        released = trial.seconds_until_gone(seconds=60)
        print(f"suspended: the pods were gone after {released:.0f} s")
        trial.watch(lambda status: status["phase"] == "Suspended", seconds=10)
        jobs("patch", "ftj", trial.name, "--type=merge", '--patch={"spec":{"suspend":false}}')


def test_head_node_drained(trial: Trial, on_jobs: Faults, book: Book) -> None:
    """The operator, KubeRay and the S3 server are on it, too."""
    with (
        befalls(trial, book, "head node drained", attempts=1),
        on_jobs.drained(trial.pods("head")[0]["spec"]["nodeName"]),
    ):
        pass


def test_two_faults_at_once(trial: Trial, on_jobs: Faults, cluster: Kubectl, book: Book) -> None:
    operators = Faults(cluster.within(NAMESPACE), layout_of())
    fault = "a rank and the operator killed while S3 is down"
    with befalls(trial, book, fault, restarts=1, under_way=EVERY), on_jobs.without_s3():
        on_jobs.kill(trial.pod("worker"), matching=RANK)
        for pod in operators.kubectl.get("pods")["items"]:
            operators.delete(pod["metadata"]["name"], grace_seconds=0)


def test_worker_node_lost_for_good(trial: Trial, on_jobs: Faults, book: Book) -> None:
    with befalls(trial, book, "worker node lost for good", restarts=1) as before:
        node = trial.pods("worker")[0]["spec"]["nodeName"]
        with on_jobs.lost(node):
            trial.await_saved(before.step, attempt=before.attempt, restarts=before.restarts + 1, seconds=600)


def test_a_run_that_went_through_all_faults_learns_what_an_undisturbed_run_learns(
    trial: Trial, undisturbed: dict[int, Learnt], book: Book
) -> None:
    status = trial.await_end(seconds=3000)
    assert status["phase"] == "Succeeded", status
    released = trial.seconds_until_gone(seconds=60)
    found = learnt(trial.events())
    promised = expected(trial, global_batch_size=BATCH)
    assert {step: each.rows for step, each in found.items()} == {step: promised[step] for step in range(1, STEPS + 1)}
    worst = max(abs(found[step].loss - each.loss) for step, each in undisturbed.items())
    assert worst < 1e-4, f"the losses differ by {worst}"
    assert {step: found[step].tokens for step in undisturbed} == {
        step: each.tokens for step, each in undisturbed.items()
    }
    usage, attempts = status["usage"], status["attempt"]
    book.write(
        Entry(
            "all of these, one after the other", "Complete", None, sum(each.get("lostSteps", 0) for each in status["attempts"]),
            f"{attempts} attempts, goodput {usage['goodput']}; each step had its rows, none of {len(undisturbed)} losses is off "
            f"by more than {worst:g}",
            released,
        )
    )  # fmt: skip
