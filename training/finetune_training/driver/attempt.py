"""One attempt at a run: what was asked for, its identity, its claim, its folder, its log.

In: a job and its store. Out: an `Attempt` that nobody else has: claims are create-only objects, so two processes that
run the same job get different numbers, and the older one finds out when it commits (lineage.py). An attempt whose ranks are
started again claims a new turn. What stays the same from attempt to attempt is run_folder.py's.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_training.checkpoint import lineage
from finetune_training.checkpoint.run_folder import RESOLVED, TRAINED
from finetune_training.checkpoint.turn import Turn
from finetune_training.contract.environment import ATTEMPT
from finetune_training.contract.failure import FinetuneError, Reason, user_error
from finetune_training.contract.spec import Job
from finetune_training.driver.ladder import Memory
from finetune_training.store.shipping import shipped
from finetune_training.store.storage import Store

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Request:
    """What `finetune run` was asked to do. `job` as the user wrote it, `text` the file's text."""

    job: Job
    text: str
    workers: int | None = None


@dataclass(frozen=True)
class Attempt:
    """A claimed attempt, at its newest turn. `inherited`: the checkpoints that it may load, newest first. `memory`: what the run
    was made to get by with (ladder.py), None: what its spec says. `folder`: for its logs and metrics, on this machine; it is
    in the store already when that is a local folder."""

    store: Store
    turn: Turn
    folder: Path
    inherited: list[str]
    memory: Memory | None = None

    @property
    def number(self) -> int:
        return self.turn.attempt

    @property
    def key(self) -> str:
        return f"attempts/{self.number}"

    def again(self, memory: Memory | None) -> Attempt:
        """The same attempt with a new turn, for ranks that are started again. Raises a Fenced error when a newer attempt has
        claimed the run."""
        turn = self.turn.next
        if not _claimed(self.store, turn, _claim_body(memory)):
            raise FinetuneError(lineage.fenced(f"somebody else has claimed {turn}"))
        return replace(self, turn=turn, inherited=lineage.inherit(self.store, turn), memory=memory)

    @property
    def metrics(self) -> Path:
        """Where its events are written."""
        return self.folder / METRICS

    def shipped(self) -> AbstractContextManager[None]:
        """Meanwhile logs and metrics are brought to the store as they grow."""
        return shipped(self.store, self.key, [self.folder / "driver.log", self.metrics])

    def keep_metrics(self) -> None:
        """Bring the metrics so far to the store: an attempt that is killed keeps the history of its last checkpoint."""
        if self.store.folder is None:
            self.store.put(f"{self.key}/{METRICS}", self.metrics.read_bytes())

    def keep(self) -> None:
        """Bring the logs and metrics to the store. The attempt is over and its machines wait: a store that is away is not waited
        for."""
        if self.store.folder is None:
            store = self.store.quick
            for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
                store.upload(path, f"{self.key}/{path.relative_to(self.folder).as_posix()}")
            shutil.rmtree(self.folder)


def start_anew(store: Store) -> Attempt:
    """Claim an attempt that is newer than all, which fences whoever still runs; then forget the earlier attempts, their
    checkpoints and results. Prepared data stays: its name says what is in it."""
    attempt = claim(store, anew=True)
    for folder in ("result", TRAINED, "checkpoints"):
        store.delete_folder(folder)
    for turn in lineage.turns(store):
        if turn < attempt.turn:
            store.delete_folder(f"attempts/{turn}")
    store.delete(["job.yaml", "spec.json", RESOLVED])
    return attempt


def claim(store: Store, *, anew: bool = False) -> Attempt:
    """The next attempt, claimed for this process, and what it inherits: nothing when it begins `anew`. FINETUNE_ATTEMPT names
    its number on a cluster."""
    newest = max(lineage.turns(store), default=Turn(0))
    memory = None if anew else _memory(store, newest)
    body = _claim_body(memory)
    given = os.environ.get(ATTEMPT)
    turn = Turn(int(given) if given else newest.attempt + 1)
    while not _claimed(store, turn, body):
        if given:
            raise user_error(
                Reason.ATTEMPT_CLAIMED, f"Attempt {turn} of {store.uri} is claimed already.", f"Use a new {ATTEMPT}."
            )
        turn = Turn(turn.attempt + 1)
    local = store.folder
    folder = local / "attempts" / str(turn) if local else Path(tempfile.mkdtemp(prefix="finetune-attempt-"))
    return Attempt(store, turn, folder, lineage.inherit(store, turn, nothing=anew), memory)


def _claimed(store: Store, turn: Turn, body: bytes) -> bool:
    """Whether `turn` is now ours."""
    key = f"attempts/{turn}/claim"
    return store.create(key, body) or store.get(key) == body  # a retry has met its own write


def _claim_body(memory: Memory | None) -> bytes:
    fields = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    return json.dumps(fields | ({"memory": memory.to_json()} if memory else {})).encode()


def _memory(store: Store, newest: Turn) -> Memory | None:
    """Of the newest turn: each takes over what the one before it had come to."""
    text = store.get(f"attempts/{newest}/claim")
    fields = json.loads(text).get("memory") if text else None
    return Memory.from_json(fields) if fields else None
