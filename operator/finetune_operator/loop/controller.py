"""The loop: key → world → decision → effects.

In: keys from watches, resync and delays. Out: the API server is as `decide` wants it, and metrics and the log say what was
done. Transient errors come back with backoff, the user's become the job's status, ours are logged with their stack and counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

from finetune_operator.act.apiserver import ApiError, ApiServer
from finetune_operator.act.execute import Executor, Refused, Stale
from finetune_operator.api.reading import read
from finetune_operator.api.status import ConditionType, FineTuneJobStatus
from finetune_operator.decide.decision import Decision
from finetune_operator.decide.effects import Announce, SetStatus, Start
from finetune_operator.decide.reconcile import decide, refused
from finetune_operator.loop.kinds import KINDS, Kind
from finetune_operator.loop.metrics import Metrics
from finetune_operator.loop.workqueue import WorkQueue
from finetune_operator.observe.store import Store
from finetune_operator.observe.views import JobView, RayJobView, View, compact
from finetune_operator.observe.world import World, look
from finetune_operator.settings import Settings

logger = logging.getLogger(__name__)

STUCK_SECONDS = 120.0
"""A worker that has had one job for longer than this is stuck: its requests time out after 30 s."""


class NewKind(Exception):
    """KubeRay has come after us: only a new process watches it."""


class Controller:
    """Workers over one store and one queue."""

    def __init__(self, server: ApiServer, settings: Settings, metrics: Metrics, store: Store, queue: WorkQueue) -> None:
        self._server, self._settings, self._metrics = server, settings, metrics
        self._store, self._queue = store, queue
        self._executor = Executor(server, store, settings)
        self._kuberay: bool | None = None
        self._resynced: float | None = None

    def noticed(self, view: View, *, gone: bool = False) -> None:
        """A watch has seen this."""
        if gone:
            self._store.remove(view)
            if isinstance(view, JobView):
                self._metrics.forget(view)
                self._executor.forget_accounts(view.namespace)  # the namespace may go, and come again without them
        elif not self._store.put(view):
            return
        elif isinstance(view, JobView):
            self._metrics.saw(view)
        if self._resynced is not None:  # a replica that waits for its Lease only takes note
            self._queue.add(view.key)

    async def run(self) -> None:
        """Look at everything, then work until the queue is closed. Raises NewKind (perhaps in a group)."""
        self._resynced = time.monotonic()
        while True:
            try:
                await self.resync()
                break
            except ApiError as error:
                logger.warning("The API server cannot be read, and is tried again: %s", error)
                await asyncio.sleep(2)
        async with asyncio.TaskGroup() as tasks:
            workers = [tasks.create_task(self._work()) for _ in range(self._settings.workers)]
            resyncs = tasks.create_task(self._resync_for_ever())
            await asyncio.gather(*workers)
            resyncs.cancel()

    async def resync(self) -> None:
        """List everything; forget what is gone, whatever the watches have missed; look at every job."""
        self._store.begin_listing()
        self._executor.forget_accounts()
        for kind in KINDS:
            for namespace in self._settings.namespaces or ("",):
                await self._list(kind, namespace)
        for key in self._store.jobs():
            self._queue.add(key)
        self._resynced = time.monotonic()

    @property
    def unwell(self) -> str:
        """Why the process should be restarted; empty if it should not. A replica that waits for its Lease is well."""
        if self._resynced is None:
            return ""
        if self._queue.longest > STUCK_SECONDS:
            return f"a worker has been busy with one job for {self._queue.longest:.0f} s"
        if self._queue.oldest > STUCK_SECONDS + self._settings.resync_seconds:
            return f"a job has waited for {self._queue.oldest:.0f} s"
        since = time.monotonic() - self._resynced
        if since > 3 * self._settings.resync_seconds + STUCK_SECONDS:
            return f"the last look at everything was {since:.0f} s ago"
        return ""

    async def _list(self, kind: Kind, namespace: str) -> None:
        try:
            views, version = await self._server.list(kind.path, namespace, kind.resource, kind.label, kind.view)
        except ApiError as error:
            if kind.type is not RayJobView or error.status != 404:
                raise
            if self._kuberay is None:
                logger.warning("KubeRay is not installed: the API server has no %s of %s", kind.resource, kind.path)
            self._kuberay = False
            return
        if kind.type is RayJobView:
            if self._kuberay is False:
                raise NewKind
            self._kuberay = True
        for gone in self._store.replace(kind.type, views, version, namespace):
            if isinstance(gone, JobView):
                self._metrics.forget(gone)
        for each in views:
            if isinstance(each, JobView):
                self._metrics.saw(each)

    async def _resync_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.resync_seconds)
            try:
                await self.resync()
            except ApiError as error:
                logger.warning("The API server cannot be read: %s", error)

    async def _work(self) -> None:
        while (key := await self._queue.get()) is not None:
            began, failed = time.monotonic(), True
            try:
                failed = await self._reconcile(key)
            except ApiError as error:
                known = error.transient
                logger.log(logging.WARNING if known else logging.ERROR, "%s: %s", key, error, extra=_extra(key))
            except Exception:
                logger.exception("%s: a bug: it is tried again", key, extra=_extra(key))
                self._metrics.bugs.inc()
            finally:
                self._queue.done(key, failed=failed)
                self._metrics.reconciled(time.monotonic() - began, failed=failed)

    async def _reconcile(self, key: str) -> bool:
        """Whether it must be tried again."""
        world = look(self._store.seen(key), time.time())
        if world is None:
            return False
        decision = decide(world, self._settings.platform)
        if decision.question:
            world = replace(world, log=await self._executor.read(decision.question, world.job))
            decision = decide(world, self._settings.platform)
        try:
            try:
                await self._carry_out(world, decision)
            except Refused as error:
                await self._carry_out(world, refused(world, error.reason, error.message, final=error.final))
                self._queue.add(key)  # an attempt that was begun by half has to go
                return not error.final
        except Stale:
            return True
        if any(isinstance(effect, Start) for effect in decision.effects):
            self._queue.add(key)  # of an attempt that was taken over there may be more to say, and no event tells of it
        if decision.revisit_after is not None:
            self._queue.add_after(key, decision.revisit_after)
        return False

    async def _carry_out(self, world: World, decision: Decision) -> None:
        for effect in decision.effects:
            try:
                await self._executor.execute(effect, world.job)
            except ApiError as error:
                if not isinstance(effect, Announce):
                    raise
                logger.warning("%s: no Event: %s", world.job.key, error)
            if isinstance(effect, SetStatus):
                self._tell(world, effect)

    def _tell(self, world: World, effect: SetStatus) -> None:
        """The log's line for each change of a job's status."""
        before, after = world.status, read(FineTuneJobStatus, compact(effect.status))
        training = after.condition(ConditionType.TRAINING)
        reason, message = (training.reason, training.message) if training else ("", "")
        self._metrics.saw(replace(world.job, phase=after.phase or ""))
        extra = _extra(world.job.key) | {"attempt": after.attempt, "reason": reason}
        logger.info("%s: %s: %s", world.job.key, after.phase, message, extra=extra)
        if end := attempt_end(before, after):
            self._metrics.attempts.labels(end).inc()
        self._metrics.used(before.usage, after.usage)


def attempt_end(before: FineTuneJobStatus, after: FineTuneJobStatus) -> str:
    """How an attempt has ended with this status: its failure's class, or the reason if it did not fail. Empty: none has."""
    if not after.attempts or (before.attempts and before.attempts[-1].attempt == after.attempts[-1].attempt):
        return ""
    return after.attempts[-1].class_ or after.attempts[-1].reason


def _extra(key: str) -> dict[str, object]:
    return {"job": key}
