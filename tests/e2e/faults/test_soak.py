"""Thirty short jobs, a few at a time, each with a fault of its own at a moment that nobody has chosen: every job ends as it
should, and nothing is left of it but what it is for.

FINETUNE_SOAK_SEED makes the same draw again; FINETUNE_SOAK_JOBS draws more or fewer.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from obstore.store import S3Store

from tests.cluster.faults import Faults
from tests.cluster.helm import Helm
from tests.cluster.kubectl import Kubectl
from tests.cluster.steps import Problem
from tests.e2e.faults.book import Book, Soak
from tests.e2e.faults.conftest import Model
from tests.e2e.faults.trial import RUNS, Trial, learnt
from tests.e2e.platform import NAMESPACE
from tests.faulty import short_of_memory

JOBS = int(os.environ.get("FINETUNE_SOAK_JOBS", "30"))
# As many at once as the node for heads has room for.
AT_ONCE, STEPS, EVERY, BATCH, LENGTH = 2, 12, 3, 2, 24
# Every so many jobs one trains all of a tiny model; the others are of the real one, with LoRA.
FULL = 5
# The operator may keep so much more at the end than when the first jobs were done.
GROWTH_BYTES = 16 << 20
SLOW = "time.sleep(1)"
ONE_WORKER = {
    "pool": "gpu", "workers": 1, "gpusPerWorker": 0,
    "worker": {"cpu": "500m", "memory": "4Gi"}, "head": {"cpu": "300m", "memory": "3Gi"},
}  # fmt: skip
CHILDREN = "pods,rayjobs,rayclusters,configmaps,services,jobs"
pytestmark = pytest.mark.timeout(7200)


@dataclass(frozen=True)
class Fate:
    """`befall` does it to a job that has pods, after `within` seconds at most. `code`: what the model does in each forward pass.
    `end`: the phase in the end, or the reason of the failure, or Gone."""

    name: str
    befall: Callable[[Trial, Faults], object] = lambda trial, on: None
    end: str = "Succeeded"
    code: str = SLOW


def _suspend(trial: Trial, on: Faults) -> None:
    for suspended in (True, False):
        trial.kubectl(
            "patch", "ftj", trial.name, "--type=merge", f'--patch={{"spec":{{"suspend":{str(suspended).lower()}}}}}'
        )
        if suspended:
            trial.seconds_until_gone(seconds=90)


def _reset_s3(trial: Trial, on: Faults) -> None:
    with on.s3_fails(reset=True):
        time.sleep(10)  # the fault


def _delete(kind: str) -> Callable[[Trial, Faults], object]:
    def befall(trial: Trial, on: Faults) -> None:
        if kind == "ftj":
            on.kubectl("delete", "ftj", trial.name, "--wait=false")
        else:
            on.kubectl("delete", kind, f"--selector=finetune.dev/job={trial.name}", "--wait=false")

    return befall


FATES = [
    Fate("nothing"),
    Fate("worker killed", lambda trial, on: on.kill(trial.pod("worker"))),
    Fate("worker's pod deleted", lambda trial, on: on.delete(trial.pod("worker"))),
    Fate("head killed", lambda trial, on: on.kill(trial.pod("head"))),
    Fate("head's pod deleted", lambda trial, on: on.delete(trial.pod("head"), grace_seconds=0)),
    Fate("RayJob deleted", _delete("rayjob")),
    Fate("RayCluster deleted", _delete("raycluster")),
    Fate("suspended and resumed", _suspend),
    Fate("S3 resets for 10 s", _reset_s3),
    Fate("job deleted", _delete("ftj"), end="Gone"),
    Fate("NaN", end="LossNotFinite", code="with torch.no_grad(): next(self.parameters()).fill_(float('nan'))"),
    Fate("out of memory once", code=short_of_memory(tokens=LENGTH)),
]


@dataclass(frozen=True)
class Ending:
    """`missed`: the fault found nothing that it could befall any more."""

    trial: Trial
    fate: Fate
    came_to: str
    attempts: int
    seconds: float
    missed: bool = False

    @property
    def wrong(self) -> bool:
        return self.came_to != ("Succeeded" if self.missed else self.fate.end)


def test_thirty_jobs_with_random_faults(
    jobs: Kubectl, platform: Helm, model: Model, real: Model, on_jobs: Faults, module_s3: S3Store, book: Book
) -> None:
    seed = int(os.environ.get("FINETUNE_SOAK_SEED", random.randrange(10**6)))
    draw = random.Random(seed)
    print(f"\nFINETUNE_SOAK_SEED={seed}")
    codes = {fate.code: f"soak-{number}" for number, fate in enumerate(FATES)}
    models = {code: (real(name, code), model(f"{name}-full", code)) for code, name in codes.items()}
    fates = draw.sample(FATES * (JOBS // len(FATES)), JOBS // len(FATES) * len(FATES)) + draw.sample(
        FATES, JOBS % len(FATES)
    )
    delays = [draw.uniform(0, 40) for _ in fates]
    memory = [_operator(jobs)]

    def one(number: int) -> Ending:
        trial = Trial(jobs, module_s3, f"soak-{number}")
        ending = _live(trial, fates[number], models[fates[number].code][number % FULL == 0], on_jobs, delays[number])
        memory.append(_operator(jobs))
        print(
            f"{trial.name}: {ending.fate.name} after {delays[number]:.0f} s{' (missed)' if ending.missed else ''}: "
            f"{ending.came_to}, {ending.attempts} attempts, {ending.seconds:.0f} s; operator {memory[-1][1] >> 20} MiB"
        )
        return ending

    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        endings = list(pool.map(one, range(JOBS)))
    minutes = (time.monotonic() - began) / 60

    wrong = [f"{each.trial.name}: {each.fate.name} came to {each.came_to}" for each in endings if each.wrong]
    assert not wrong
    left = _left(jobs)
    assert not left, "nothing of an ended job stays but the job"
    for each in endings:
        if each.came_to == "Succeeded":
            _check_bucket(each.trial)
    assert len({name for name, _ in memory}) == 1, "the operator was started again"
    early, late = memory[len(memory) // 3][1], memory[-1][1]
    missed = sum(each.missed for each in endings)
    ends = dict(Counter(each.came_to for each in endings))
    book.write_soak(Soak(seed, minutes, ends, missed, sum(each.attempts for each in endings), early, late))
    assert late - early < GROWTH_BYTES, f"the operator has grown from {early} to {late} bytes"
    assert missed <= JOBS // 3, "too few faults befell a job"


def _live(trial: Trial, fate: Fate, fields: dict[str, Any], on: Faults, delay: float) -> Ending:
    began = time.monotonic()
    trial.start(
        **fields | {"dataset": fields["dataset"] | {"maxLength": LENGTH}},
        training={"maxSteps": STEPS, "globalBatchSize": BATCH, "microBatchSize": BATCH, "learningRate": 1e-4},
        checkpoint={"uri": RUNS, "everySteps": EVERY, "keep": 2},
        backoffLimit=8,
        ttlSecondsAfterFinished=1,
        resources=ONE_WORKER,
    )
    trial.watch(lambda status: bool(status.get("rayJobName")) and bool(trial.pods("worker")), seconds=600)
    time.sleep(delay)  # the moment that nobody has chosen
    missed = False
    try:
        fate.befall(trial, on)
    except (Problem, IndexError) as error:  # what it is for has ended, or has not begun
        print(f"{trial.name}: {fate.name}: {str(error)[:200]}")
        missed = True
    if fate.end == "Gone" and not missed:
        trial.seconds_until_gone(seconds=120)
        return Ending(trial, fate, "Gone", 1, time.monotonic() - began)
    status = trial.await_end(seconds=1800)
    trial.seconds_until_gone(seconds=120)
    came_to = status["phase"] if status["phase"] == "Succeeded" else status["failure"]["reason"]
    return Ending(trial, fate, came_to, status["attempt"], time.monotonic() - began, missed)


def _check_bucket(trial: Trial) -> None:
    """All of its steps, and no object that belongs to nothing."""
    assert sorted(learnt(trial.events())) == list(range(1, STEPS + 1)), trial.name
    folders = {key.split("/")[1] for key in trial.keys("checkpoints/")}
    assert folders == trial.committed(), f"{trial.name} has objects of checkpoints without a manifest"
    assert any(key.endswith(".safetensors") for key in trial.keys("result/")), trial.name


def _left(jobs: Kubectl) -> list[str]:
    """What is there yet of jobs that have ended, once the operator and the garbage collector had a minute."""
    for _ in range(60):
        found = jobs.get(CHILDREN, "--selector=finetune.dev/job")["items"]
        if not found:
            break
        time.sleep(1)
    return [f"{each['kind']} {each['metadata']['name']}" for each in found]


def _operator(kubectl: Kubectl) -> tuple[str, int]:
    """The operator's pod, with how often it was started, and its memory in bytes."""
    (pod,) = kubectl.within(NAMESPACE).get("pods", "--selector=app.kubernetes.io/name=finetune-operator")["items"]
    name, started = pod["metadata"]["name"], pod["status"]["containerStatuses"][0]["restartCount"]
    text = kubectl("get", f"--raw=/api/v1/namespaces/{NAMESPACE}/pods/{name}:8081/proxy/metrics")
    line = next(each for each in text.splitlines() if each.startswith("process_resident_memory_bytes "))
    return f"{name} ({started})", int(float(line.split()[1]))
