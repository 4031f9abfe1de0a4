"""A folder of one rank → objects in a store, however the store behaves for a while.

In: staged files. Out: the same files in the store, with their digests. A large file goes in parallel parts, so that memory is
bounded whatever its size. What fails for a passing reason is tried again, with pauses that grow and vary, until `patience`
is over; a file that has arrived is not sent again. What cannot pass (credentials, no bucket, a quota) fails at once.
Source of the pauses: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from finetune_training.checkpoint.manifest import CheckpointFile
from finetune_training.contract.failure import Failure, FailureClass, FinetuneError
from finetune_training.store.digest import sha256_of
from finetune_training.store.storage import Store, patience

T = TypeVar("T")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


@dataclass(frozen=True)
class Uploader:
    """One rank's way into a run's folder. `cancel()` ends what is under way at its next pause."""

    store: Store
    rank: int
    patience: float = field(default_factory=patience)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    @cached_property
    def _quick(self) -> Store:
        """One client for all that is uploaded."""
        return self.store.quick

    def cancel(self) -> None:
        self._cancelled.set()

    def patiently(self, work: Callable[[Store], T], what: str) -> T:
        """What `work` returns, tried again while it fails for reasons that pass. It is given the store, and may be called
        many times. Raises a FinetuneError that names the rank and `what` could not be saved."""
        pauses = _pauses()
        failing_since: float | None = None
        while True:
            try:
                return work(self._quick)
            except FinetuneError as error:
                failing_since = failing_since or time.monotonic()
                seconds = time.monotonic() - failing_since
                if not _passes(error.failure) or seconds >= self.patience or self._cancelled.wait(next(pauses)):
                    raise FinetuneError(self._named(error.failure, what, seconds)) from error

    def folder(self, folder: Path, prefix: str) -> list[CheckpointFile]:
        """Upload all files of `folder` below `prefix`. Raises a FinetuneError that names rank and file."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return [self._file(path, path.relative_to(folder).as_posix(), prefix) for path in paths]

    def _file(self, path: Path, name: str, prefix: str) -> CheckpointFile:
        """The digest is of the file as it was staged, so that what is changed on its way is found when it is loaded."""
        digest = in_background("digest", lambda: sha256_of(path))
        self.patiently(lambda store: store.upload(path, f"{prefix}/{name}"), name)
        return CheckpointFile(name=name, bytes=path.stat().st_size, sha256=digest.result(), rank=self.rank)

    def _named(self, failure: Failure, what: str, seconds: float) -> Failure:
        if failure.cls is FailureClass.FENCED:
            return failure
        lasted = f" for {seconds:.0f} s" if seconds >= 1 else ""
        message = f"Rank {self.rank} could not save {what} of the checkpoint{lasted}: {failure.message}"
        return replace(failure, message=message, rank=self.rank)


def in_background(name: str, work: Callable[[], T]) -> Future[T]:
    """In a thread that does not keep the process alive: work that hangs must not outlive the run."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def _passes(failure: Failure) -> bool:
    """Whether waiting may help: not for what people have to mend."""
    return failure.cls is FailureClass.INFRASTRUCTURE and failure.reason != "DiskFull"


def _pauses() -> Iterator[float]:
    """Seconds between tries: up to twice as long each time, and never those of another rank."""
    longest = _FIRST_PAUSE
    while True:
        yield random.uniform(longest / 2, longest)
        longest = min(2 * longest, _LONGEST_PAUSE)
