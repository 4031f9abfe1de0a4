"""What effects do to the API server, as far as decisions see it: a few objects, no watches, no network.

`ApiServer.reconcile` is one look of the operator: decide, and carry out all effects or, where the operator is killed
meanwhile, the first few of them.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from finetune_operator import names
from finetune_operator.act.rayjob import render_rayjob
from finetune_operator.decide.effects import (
    Announce,
    ConfirmGone,
    DeleteRayJob,
    Effect,
    ForgetPod,
    LogOf,
    SetStatus,
    Start,
)
from finetune_operator.decide.reconcile import decide
from finetune_operator.observe.world import World
from finetune_operator.settings import Platform
from tests.unit.operator import worlds
from tests.unit.operator.worlds import NOW, PLATFORM, Object
from tests.unit.operator.written import Status


class ApiServer:
    """One job and what belongs to it."""

    def __init__(self, job: Object, *, rayjobs: tuple[Object, ...] = (), pods: tuple[Object, ...] = ()) -> None:
        self.job = copy.deepcopy(job)
        self.rayjobs = {each["metadata"]["name"]: copy.deepcopy(each) for each in rayjobs}
        self.pods = {each["metadata"]["name"]: copy.deepcopy(each) for each in pods}
        self.now = NOW
        self.begun: list[int] = []
        """The attempt of every RayJob that was made."""
        self.events: list[Announce] = []
        self.logs: dict[str, str] = {}
        """The end of each container's log."""
        self.asked: list[LogOf] = []

    def world(self) -> World:
        return worlds.world(self.job, rayjobs=self.rayjobs.values(), pods=self.pods.values(), now=self.now)

    @property
    def status(self) -> Status:
        return Status(copy.deepcopy(self.job.get("status") or {}))

    @property
    def live(self) -> list[str]:
        return [name for name, each in self.rayjobs.items() if "deletionTimestamp" not in each["metadata"]]

    def reconcile(self, platform: Platform = PLATFORM, *, killed_after: int | None = None) -> tuple[Effect, ...]:
        """One look. Returns what it decided to do."""
        world = self.world()
        decision = decide(world, platform)
        if decision.question:
            assert not decision.effects
            self.asked.append(decision.question)
            decision = decide(replace(world, log=self.logs.get(decision.question.container, "")), platform)
        assert decision.question is None
        effects = decision.effects
        for effect in effects[:killed_after]:
            self._carry_out(effect)
        return effects

    def settle(self) -> ApiServer:
        """Look again until there is nothing to do, pods that are being deleted being gone in the end."""
        for _ in range(6):
            if not self.reconcile():
                if not any("deletionTimestamp" in each["metadata"] for each in self.pods.values()):
                    return self
                self.collect()
        raise AssertionError(f"never at rest: {self.reconcile()}")

    # ── what others do ──────────────────────────────────────────────────────────────────────────────────────────────

    def collect(self) -> None:
        """The kubelets have ended the pods that were being deleted."""
        self.pods = {name: each for name, each in self.pods.items() if "deletionTimestamp" not in each["metadata"]}

    def kuberay(self, attempt: int, **status: Any) -> None:
        """KubeRay writes the status of a RayJob, and has made its pods."""
        name = names.child_name(self.job["metadata"]["name"], attempt)
        self.rayjobs[name]["status"] = status
        for role in ("head", "worker"):
            pod = worlds.pod(role, attempt, uid=self.job["metadata"]["uid"])
            self.pods.setdefault(pod["metadata"]["name"], pod)

    def driver(self, attempt: int, **run: Any) -> None:
        """The driver of an attempt reports."""
        status = self.job.setdefault("status", {})
        status["run"] = {"attempt": attempt, "updatedAt": worlds.time(self.now)} | run

    def edit(self, **changes: Any) -> None:
        """Somebody changes the job's spec."""
        self.job["spec"] |= changes
        self.job["metadata"]["generation"] += 1

    def delete_rayjob(self, name: str) -> None:
        """It is gone, and its pods are on their way."""
        gone = self.rayjobs.pop(name)["metadata"]["labels"][names.ATTEMPT_LABEL]
        for pod in self.pods.values():
            if pod["metadata"]["labels"][names.ATTEMPT_LABEL] == gone:
                pod["metadata"]["deletionTimestamp"] = worlds.time(self.now)

    # ── what the operator does ──────────────────────────────────────────────────────────────────────────────────────

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Start():
                rayjob = render_rayjob(effect.plan, effect.attempt)
                if rayjob["metadata"]["name"] not in self.rayjobs:
                    self.begun.append(effect.attempt)
                    made = worlds.rayjob(effect.attempt, uid=effect.plan.uid, age=NOW - self.now)
                    self.rayjobs[rayjob["metadata"]["name"]] = made | {
                        "metadata": made["metadata"] | {"labels": rayjob["metadata"]["labels"]}
                    }
            case DeleteRayJob():
                if self.rayjobs.get(effect.name, {}).get("metadata", {}).get("uid") == effect.uid:
                    self.delete_rayjob(effect.name)
            case ForgetPod():
                self.pods.pop(effect.name, None)
            case SetStatus():
                run = (self.job.get("status") or {}).get("run")
                self.job["status"] = copy.deepcopy(dict(effect.status)) | ({"run": run} if run else {})
            case Announce():
                self.events.append(effect)
            case ConfirmGone():
                assert effect.name not in self.rayjobs
