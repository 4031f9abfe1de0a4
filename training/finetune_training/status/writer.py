"""The sink to `status.run` of the FineTuneJob in the cluster.

In: progress events, and how the run ended. Out: the newest state in the object's status, by server-side apply. A thread of
its own writes, so a slow or absent API server neither delays nor stops the training: at once when the stage changes and
at the end, every few seconds otherwise. Only when the operator asks for it: FINETUNE_STATUS, FINETUNE_ATTEMPT.
"""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from finetune_training.contract.environment import ATTEMPT, STATUS
from finetune_training.contract.failure import Failure
from finetune_training.contract.jobfile import Identity
from finetune_training.contract.names import API_VERSION, DRIVER_MANAGER, KIND, PLURAL
from finetune_training.events.progress import Event
from finetune_training.events.result import RunResult
from finetune_training.status import apiserver
from finetune_training.status.apiserver import Answer, ApiServer, Unreachable
from finetune_training.status.run_state import RunState

_NEVER = math.inf

logger = logging.getLogger(__name__)
Apply = Callable[[dict[str, Any]], Answer]
Outcome = RunResult | Failure


@dataclass(frozen=True)
class Pace:
    """Seconds: between writes; of the first and the longest pause after a try that failed; that the end may take."""

    between: float = 5.0
    pause: float = 1.0
    longest_pause: float = 15.0
    end: float = 60.0


class StatusWriter:
    """A run whose status nobody wants to have: what `finetune run` tells outside of a cluster."""

    def show(self, event: Event) -> None:
        """Take note of `event`."""

    def end(self, outcome: Outcome) -> None:
        """Take note of the end. Of several the first counts."""

    def close(self) -> None:
        """Wait, not for ever, until all that was noted is written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class ClusterStatusWriter(StatusWriter):
    """Writes `status.run` with `apply`, from now until `close`."""

    def __init__(self, attempt: int, apply: Apply, pace: Pace | None = None) -> None:
        self._apply, self._pace = apply, pace or Pace()
        self._changed = threading.Condition()
        self._run, self._ended, self._closing = RunState(attempt), False, False
        # Times of the monotonic clock: when the newest state is to be written, the last try, the end of a pause.
        self._due, self._tried, self._resume = 0.0, -_NEVER, -_NEVER
        self._failures = 0
        self._thread = threading.Thread(target=self._write_until_closed, name="status.run", daemon=True)
        self._thread.start()

    def show(self, event: Event) -> None:
        self._become(lambda run: run.after(event))

    def end(self, outcome: Outcome) -> None:
        if not self._ended:
            self._become(lambda run: run.ended(outcome))
            self._ended = True

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(self._pace.end)
        if self._thread.is_alive():
            logger.warning("The end of the run could not be written to status.run within %g s", self._pace.end)

    def _become(self, change: Callable[[RunState], RunState]) -> None:
        with self._changed:
            before = self._run
            self._run = before if self._ended else change(before)
            if self._run == before:
                return
            soon = self._tried + self._pace.between if self._run.stage is before.stage else 0.0
            self._due = min(self._due, soon)
            self._changed.notify()

    def _write_until_closed(self) -> None:
        try:
            while (run := self._next()) and self._write(run):
                pass
        except Exception:
            logger.exception("status.run is no longer written")

    def _next(self) -> RunState | None:
        """The state to write, when its time has come; None when there is nothing more to write."""
        with self._changed:
            while True:
                now = time.monotonic()
                if self._due == _NEVER and self._closing:
                    return None
                due = max(self._resume, now if self._closing else self._due)
                if due <= now:
                    self._due, self._tried = _NEVER, now
                    return self._run
                self._changed.wait(None if due == _NEVER else due - now)

    def _write(self, run: RunState) -> bool:
        """Try it once. False: it makes no sense to go on."""
        try:
            answer = self._apply(run.to_status(time.time()).to_json())
        except Unreachable as error:
            answer = Answer(0, str(error))
        if 200 <= answer.code < 300:
            self._failures = 0
            return True
        if not _may_pass(answer):
            logger.warning("status.run is no longer written: %s", _refusal(answer))
            return False
        self._pause(answer)
        return True

    def _pause(self, answer: Answer) -> None:
        if not self._failures:
            logger.warning("status.run cannot be written now (%s); trying again", answer.message or answer.code)
        pause = min(self._pace.pause * 2**self._failures, self._pace.longest_pause) * random.uniform(0.5, 1)
        self._failures = min(self._failures + 1, 16)
        with self._changed:
            self._due, self._resume = 0.0, time.monotonic() + pause


def status_for(identity: Identity | None) -> StatusWriter:
    """The sink of the run that is the object `identity`. To be closed, best by `with`."""
    if os.environ.get(STATUS) != "true":
        return StatusWriter()
    server, attempt = apiserver.in_pod(), os.environ.get(ATTEMPT, "")
    if server is None or not attempt.isdigit() or identity is None:
        logger.warning(
            f"{STATUS} is set, but status.run is not written: it wants a pod, {ATTEMPT}, and metadata.uid in the job's file"
        )
        return StatusWriter()
    return ClusterStatusWriter(int(attempt), lambda run: write_run(server, identity, run))


def write_run(server: ApiServer, identity: Identity, run: dict[str, Any]) -> Answer:
    """Apply `run`, but never to a new object of the same name. The API server does not compare a uid when a status is
    applied (1.36), so the object is read first, and applied to at just that version."""
    path = status_path(identity)
    read = server.get(path)
    if read.code >= 300:
        return read
    metadata = read.found["metadata"]
    if metadata["uid"] != identity.uid:
        return Answer(404, f"{identity.name} has another uid now")
    return server.apply(path, body(identity, run, version=metadata["resourceVersion"]), manager=DRIVER_MANAGER)


def status_path(identity: Identity) -> str:
    """The status of the job, below the API server's root."""
    namespace, name = quote(identity.namespace, safe=""), quote(identity.name, safe="")
    return f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}/{name}/status"


def body(identity: Identity, run: dict[str, Any], *, version: str) -> dict[str, Any]:
    """What is applied, if the object still has that version."""
    metadata = {"name": identity.name, "namespace": identity.namespace, "resourceVersion": version}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "status": {"run": run}}


def _may_pass(answer: Answer) -> bool:
    """Whether the same may succeed later. 401: the token has just been rotated; 403: an API server that has just started
    knows no rights yet, or the operator has not announced the attempt; 409: somebody else was quicker."""
    return answer.code in (0, 401, 403, 408, 409, 429) or answer.code >= 500


def _refusal(answer: Answer) -> str:
    meaning = "the FineTuneJob is gone" if answer.code == 404 else "the API server refuses it"
    return f"{meaning} (HTTP {answer.code}: {answer.message})"
