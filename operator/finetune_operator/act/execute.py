"""Effects → requests. The one place where something is done.

In: an effect, or a decision's question, and the job that it is for. Out: what the API server answered is in the store, so that
the next decision sees it.
Raises `Stale` (what we knew was old: decide again), `Refused` (the attempt may not begin: the job waits and says why) or
`ApiError`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, assert_never

from finetune_operator import names
from finetune_operator.act.apiserver import CORE, JOBS, RAYJOBS, RBAC, ApiError, ApiServer
from finetune_operator.act.rayjob import render_config_map, render_rayjob
from finetune_operator.act.refusals import refusal_of
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
from finetune_operator.observe.store import Store
from finetune_operator.observe.views import JobView, RayJobView, compact, view_job, view_rayjob
from finetune_operator.settings import Settings
from finetune_training.contract.moment import timestamp
from finetune_training.contract.record import Json

_LOG_LINES, _LOG_BYTES, _LOG_SECONDS = 20, 65_536, 5.0
"""Of a log that says why an attempt failed: nobody waits for it."""


class Stale(Exception):
    """The store was behind; it is not any more."""


class Refused(Exception):
    """The API server does not let an attempt begin. `final`: it never will."""

    def __init__(self, reason: str, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.reason, self.message, self.final = reason, message, final


class Executor:
    """For one operator."""

    def __init__(self, server: ApiServer, store: Store, settings: Settings) -> None:
        self._server, self._store, self._settings = server, store, settings
        self._accounts: set[tuple[str, str]] = set()
        """(namespace, account) that are known to be there."""

    def forget_accounts(self, namespace: str = "") -> None:
        """Look for the accounts of a namespace (empty: of all) once more before the next attempt: they may be gone."""
        self._accounts = {each for each in self._accounts if namespace not in ("", each[0])}

    async def execute(self, effect: Effect, job: JobView) -> None:
        """Do it. Doing it twice does no harm."""
        match effect:
            case Start():
                await self._start(effect, job)
            case ConfirmGone():
                await self._confirm_gone(effect, job)
            case DeleteRayJob():
                await self._delete(effect, job)
            case ForgetPod():
                await self._forget(effect, job)
            case SetStatus():
                await self._set_status(effect, job)
            case Announce():
                await self._announce(effect, job)
            case _:
                assert_never(effect)

    async def read(self, asked: LogOf, job: JobView) -> str:
        """The log; empty if there is none to be had."""
        try:
            return await self._server.log(
                job.namespace, asked.pod, asked.container, lines=_LOG_LINES, limit=_LOG_BYTES, seconds=_LOG_SECONDS
            )
        except ApiError:
            return ""

    async def _start(self, start: Start, job: JobView) -> None:
        await self._look_once_more(job)
        account = start.plan.service_account
        if (job.namespace, account) not in self._accounts:
            await _allowed(self._ensure_account(job.namespace, account))
            self._accounts.add((job.namespace, account))
        rayjob = await self._rayjob(start, job)
        config = render_config_map(start.plan, start.attempt, rayjob.uid)
        await _allowed(self._create_once(CORE, job.namespace, "configmaps", config))

    async def _look_once_more(self, job: JobView) -> None:
        """A job that is gone, or was suspended a moment ago, must not start GPUs."""
        body = await self._server.get(JOBS, job.namespace, names.PLURAL, job.name, subresource="status")
        known = (job.uid, str(job.version))
        if body is None or (body["metadata"]["uid"], body["metadata"]["resourceVersion"]) != known:
            self._learn(job, body)
            raise Stale

    def _learn(self, job: JobView, body: Json | None) -> None:
        """The job is this now: gone, another object of that name, or a newer version."""
        live = view_job(body) if body else None
        if live is None or live.uid != job.uid:
            self._store.remove(job)
        if live is not None:
            self._store.learn(live)

    async def _rayjob(self, start: Start, job: JobView) -> RayJobView:
        name = names.child_name(job.name, start.attempt)
        known = next((each for each in self._store.seen(job.key).rayjobs if each.name == name), None)
        if known and known.job_uid == job.uid:
            return known
        try:
            body = render_rayjob(start.plan, start.attempt, out_of_memory=start.out_of_memory)
            made = await _allowed(self._server.create(RAYJOBS, job.namespace, names.RAYJOBS, body))
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            made = await self._adopted(name, job)
        view = view_rayjob(made)
        self._store.put(view)
        return view

    async def _adopted(self, name: str, job: JobView) -> Json:
        """The RayJob that is there, if it is ours: an earlier request was answered to nobody."""
        body = await self._server.get(RAYJOBS, job.namespace, names.RAYJOBS, name)
        if body is None:
            raise Stale
        if body["metadata"].get("labels", {}).get(names.UID_LABEL) != job.uid:
            raise Refused(
                "NameTaken",
                f"There is a RayJob {name} in namespace {job.namespace} that is not this job's. That of a job that was just "
                "deleted goes by itself; any other one must be deleted, or this job be named otherwise.",
            )
        return body

    async def _ensure_account(self, namespace: str, account: str) -> None:
        """What the pods run as, and its right to write `status.run`: once for each namespace."""
        name = account or names.DRIVER_ACCOUNT
        metadata = {"namespace": namespace, "labels": names.MANAGED_BY}
        if not account:
            body: Json = {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": metadata | {"name": name},
                "automountServiceAccountToken": False,
            }
            await self._make_once(CORE, namespace, "serviceaccounts", body)
        kind, role = self._settings.driver_role
        binding = names.DRIVER_ACCOUNT if not account else f"{names.DRIVER_ACCOUNT}.{account}"
        body = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata | {"name": binding},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }
        await self._make_once(RBAC, namespace, "rolebindings", body)

    async def _make_once(self, path: str, namespace: str, resource: str, body: Json) -> None:
        if await self._server.get(path, namespace, resource, body["metadata"]["name"]) is None:
            await self._create_once(path, namespace, resource, body)

    async def _create_once(self, path: str, namespace: str, resource: str, body: Json) -> None:
        try:
            await self._server.create(path, namespace, resource, body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise

    async def _confirm_gone(self, effect: ConfirmGone, job: JobView) -> None:
        body = await self._server.get(RAYJOBS, job.namespace, names.RAYJOBS, effect.name)
        if body and body["metadata"].get("labels", {}).get(names.UID_LABEL) == job.uid:
            self._store.learn(view_rayjob(body))
            raise Stale

    async def _delete(self, effect: DeleteRayJob, job: JobView) -> None:
        known = next((each for each in self._store.seen(job.key).rayjobs if each.uid == effect.uid), None)
        body = await self._server.delete(RAYJOBS, job.namespace, names.RAYJOBS, effect.name, effect.uid)
        if body and body.get("kind") == "RayJob":
            self._store.put(view_rayjob(body))
        elif known:
            self._store.remove(known)

    async def _forget(self, effect: ForgetPod, job: JobView) -> None:
        await self._server.delete(CORE, job.namespace, "pods", effect.name, effect.uid, at_once=True)
        for known in self._store.seen(job.key).pods:
            if known.uid == effect.uid:
                self._store.remove(known)

    async def _set_status(self, effect: SetStatus, job: JobView) -> None:
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            # Only the object that was looked at: the API server compares no uid here (1.36).
            "metadata": {"name": job.name, "namespace": job.namespace, "resourceVersion": str(job.version)},
            "status": effect.status,
        }
        try:
            answer = await self._server.apply(JOBS, job.namespace, names.PLURAL, body, subresource="status")
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            self._learn(job, await self._server.get(JOBS, job.namespace, names.PLURAL, job.name, subresource="status"))
            raise Stale from error
        # Only the metadata came back; `run` is as it was, because nobody wrote in between.
        run = {name: value for name, value in json.loads(job.status).items() if name == "run"}
        version, deleting = int(answer["metadata"]["resourceVersion"]), "deletionTimestamp" in answer["metadata"]
        status = compact({**effect.status, **run})
        self._store.put(
            replace(job, version=version, deleting=deleting, phase=effect.status.get("phase", ""), status=status)
        )

    async def _announce(self, effect: Announce, job: JobView) -> None:
        """An Event that cannot be posted changes nothing: the conditions say the same."""
        now = timestamp(time.time())
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{job.name}.{time.time_ns():x}", "namespace": job.namespace},
            "involvedObject": {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "namespace": job.namespace,
                "name": job.name,
                "uid": job.uid,
            },
            "type": effect.type,
            "reason": effect.reason,
            "message": effect.message[:1024],
            "source": {"component": names.OPERATOR_MANAGER},
            "reportingComponent": names.OPERATOR_MANAGER,
            "reportingInstance": self._settings.identity,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        await self._server.create(CORE, job.namespace, "events", body)


async def _allowed(request: Awaitable[Any]) -> Any:
    """What was asked for. A refusal is told in the words of its row."""
    try:
        return await request
    except ApiError as error:
        if refusal := refusal_of(error):
            message = refusal.message.format(said=error.message.strip())
            raise Refused(refusal.reason, message, final=refusal.final) from error
        raise
