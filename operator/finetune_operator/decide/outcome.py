"""How an attempt has ended.

In: the attempt's RayJob, its pods, and what its driver said last (`status.run`). Out: still running, succeeded, or an
`AttemptFailure`, which is a row of causes.py with what is known of the case. Of several that could be, the one counts that
explains the others:

1. A container that was killed for its memory: its driver sees no more than a rank that is gone.
2. The driver's word, unless it only says what the driver saw (`SYMPTOMS`) or that it was told to end.
3. A pod that was taken away, the head before the workers.
4. A Ray container that ended by itself, the head's first; not by what KubeRay did once the job was over.
5. What the driver saw.
6. What KubeRay says.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field

from finetune_operator.api.status import LastFailure
from finetune_operator.decide import causes
from finetune_operator.decide.causes import Cause
from finetune_operator.names import HEAD, SUBMITTER, WORKER
from finetune_operator.observe.views import Ended, PodView, RayJobView
from finetune_operator.observe.world import LOST_AFTER, World
from finetune_training.contract.failure import EXIT_CODES, FailureClass, Reason
from finetune_training.contract.run import MESSAGE_MAX, RunStage

LAST_WORD_WITHIN = 20.0
"""Seconds that KubeRay gets to see that the submitter, or the head, has ended. Before its cluster is `ready` it never does."""
_CLASSES = {code: cls for cls, code in EXIT_CODES.items()}
_EXIT = re.compile(r"failed with exit code (-?\d+)")


@dataclass(frozen=True)
class AttemptFailure:
    """Why an attempt ended. The names of the fields are those of `status.failure`, `cls` is its `class`. `last`, `repeats` and
    `log` are those of its row."""

    cls: str
    reason: str
    message: str
    pod: str | None = None
    node: str | None = None
    rank: int | None = None
    last: bool = field(default=False, compare=False)
    repeats: bool = field(default=False, compare=False)
    log: str = field(default="", compare=False)
    container: str = field(default="", compare=False)

    def to_status(self, log: str = "") -> LastFailure:
        """As `status.failure`, with the end of a log."""
        return LastFailure(
            class_=self.cls,
            reason=self.reason,
            message=self.message[:MESSAGE_MAX],
            pod=self.pod,
            node=self.node,
            rank=self.rank,
            log=log or None,
        )


class Succeeded:
    """The attempt did all it should."""


Outcome = Succeeded | AttemptFailure | None


def outcome(world: World, rayjob: RayJobView | None) -> Outcome:
    """Of the attempt that `rayjob` is. None: it runs, or will."""
    if rayjob and rayjob.job_status == "SUCCEEDED" and rayjob.terminal:
        return Succeeded()
    if rayjob is None or rayjob.deleting:
        return _row(causes.RAYJOB_DELETED, attempt=world.attempt)
    if " is invalid: " in rayjob.problem:
        return _row(causes.PODS_INVALID, problem=rayjob.problem.strip())
    if rayjob.terminal:
        return _explained(world, rayjob) or _of_kuberay(rayjob)
    return None if rayjob.suspend else _unnoticed(world, rayjob)


def _unnoticed(world: World, rayjob: RayJobView) -> Outcome:
    """What KubeRay does not see. It looks at the job's end only once its cluster was ready: a driver that fails early leaves
    the RayJob Initializing for ever. And of a worker that is lost it makes another one, which would be killed as well."""
    done, submitter = world.stage == RunStage.SUCCEEDED, _ended_head(world, SUBMITTER)
    if submitter and submitter.exit_code == 0 and done:
        return Succeeded()
    # Where it ended well, KubeRay is only slow: it does look.
    if submitter and (submitter.exit_code or rayjob.deployment_status != "Running"):
        return _explained(world, rayjob) or _row(causes.DRIVER_ENDED, cls=FailureClass.UNKNOWN, code="")
    if done:
        return None
    if killed := _of_memory(world, container=WORKER):
        return killed
    if not _head_is_lost(world):
        return None
    return _explained(world, rayjob) or _row(causes.HEAD_LOST)


def _ended_head(world: World, container: str) -> Ended | None:
    """A container of the head that ended so long ago that KubeRay should know."""
    found = (ended for pod, ended in _ended(world) if pod.head and ended.container == container)
    return next((each for each in found if world.now - each.time >= LAST_WORD_WITHIN), None)


def _head_is_lost(world: World) -> bool:
    heads = [pod for pod in world.pods_of(world.attempt) if pod.head]
    gone = [pod for pod in heads if pod.gone_by is not None and world.now > pod.gone_by + LOST_AFTER]
    return bool(heads) and (len(gone) == len(heads) or (len(heads) == 1 and _ended_head(world, HEAD) is not None))


def _explained(world: World, rayjob: RayJobView) -> AttemptFailure | None:
    """The order of the evidence."""
    if killed := _of_memory(world):
        return killed
    driver = _of_the_driver(world)
    told = driver is not None and driver.cls == FailureClass.PREEMPTED
    if driver and not told and driver.reason not in causes.SYMPTOMS:
        return driver
    if taken := _of_a_disruption(world, f" {driver.message}" if driver and told else ""):
        return taken
    return driver if told else _of_an_exit(world, rayjob) or driver


def _of_memory(world: World, container: str = "") -> AttemptFailure | None:
    """Of any container, or of those of this name."""
    for pod, ended in _ended(world):
        if ended.reason == "OOMKilled" and container in ("", ended.container):
            peak = world.run.memory.peak_bytes if world.run and world.run.memory else None
            return _row(
                causes.MEMORY.get(ended.container, causes.MEMORY[""]),
                pod,
                ended.container,
                limit=f" of {ended.limit}" if ended.limit else "",
                peak=f" (the most that a rank has had: {peak / 2**30:.1f} GiB)" if peak else "",
            )
    return None


def _of_the_driver(world: World) -> AttemptFailure | None:
    said = world.run.failure if world.run else None
    if not said:
        return None
    if said.reason == Reason.ATTEMPT_CLAIMED:
        return _row(causes.HEAD_REPLACED)
    return AttemptFailure(
        said.class_, said.reason, said.message, rank=said.rank,
        last=said.class_ == FailureClass.OUT_OF_MEMORY, repeats=said.reason not in causes.OUTSIDE,
    )  # fmt: skip


def _of_a_disruption(world: World, saved: str) -> AttemptFailure | None:
    for pod in world.pods_of(world.attempt):
        if not (pod.disruption or pod.reason):
            continue
        # The kubelet says TerminationByKubelet of all that it ends; the pod's own reason says more.
        known = (each for each in (pod.reason, pod.disruption) if each and each in causes.DISRUPTIONS)
        cause = causes.DISRUPTIONS[next(known, "EvictionByEvictionAPI" if pod.disruption else "")]
        return _row(cause, pod, why=pod.why.rstrip("."), saved=saved)
    return None


def _of_an_exit(world: World, rayjob: RayJobView) -> AttemptFailure | None:
    over = rayjob.end + 1 if rayjob.end else world.now
    for pod, ended in _ended(world):
        told = pod.told_to_go is not None and ended.time >= pod.told_to_go
        if ended.container not in (HEAD, WORKER) or not ended.exit_code or told or ended.time > over:
            continue
        cause = causes.EXITS.get(ended.exit_code, causes.EXITS[None])
        name = causes.SIGNALS.get(ended.exit_code, "")
        return _row(cause, pod, ended.container, signal=name, code=ended.exit_code)
    return None


def _of_kuberay(rayjob: RayJobView) -> AttemptFailure:
    said = f" KubeRay says: {rayjob.message.strip()}" if rayjob.message.strip() else ""
    if rayjob.deployment_status == "ValidationFailed":
        return _row(causes.KUBERAY["ValidationFailed"], said=said)
    if rayjob.job_status == "STOPPED":
        return _row(causes.STOPPED, said=said)
    if "head pod not found" in rayjob.message:  # its reason is AppFailed, and no app has failed
        return _row(causes.HEAD_LOST)
    if rayjob.reason == "AppFailed":
        return _of_an_exit_code(rayjob.message)
    cause = causes.KUBERAY.get(rayjob.reason, causes.KUBERAY[""])
    return _row(cause, reason=rayjob.reason or cause.reason, said=said)


def _of_an_exit_code(message: str) -> AttemptFailure:
    """The submitter ends with 0 or 1, whatever the driver did; Ray's message has the driver's own exit code."""
    found = _EXIT.search(message)
    code = int(found[1]) if found else None
    if code is None or code in _CLASSES:
        said = f" with exit code {code}" if found else ""
        cls = _CLASSES.get(code or 0, FailureClass.UNKNOWN)
        return _row(causes.DRIVER_ENDED, cls=cls, last=cls == FailureClass.OUT_OF_MEMORY, code=said)
    number = -code if code < 0 else code - 128
    if number in set(signal.Signals):
        return _row(causes.DRIVER_KILLED, signal=signal.Signals(number).name)
    return _row(causes.DRIVER_ENDED, cls=FailureClass.UNKNOWN, code=f" with exit code {code}")


def _row(
    cause: Cause,
    pod: PodView | None = None,
    container: str = "",
    *,
    cls: str = "",
    reason: str = "",
    last: bool = False,
    **known: object,
) -> AttemptFailure:
    """The case of a row."""
    return AttemptFailure(
        cls or cause.cls or FailureClass.UNKNOWN,
        reason or cause.reason,
        cause.message.format(pod=pod.name if pod else "", container=container, **known),
        pod=pod.name if pod else None,
        node=(pod.node or None) if pod else None,
        last=last or cause.last,
        repeats=cause.repeats,
        log=cause.log,
        container=container,
    )


def _ended(world: World) -> Iterable[tuple[PodView, Ended]]:
    return ((pod, ended) for pod in world.pods_of(world.attempt) for ended in pod.ended)
