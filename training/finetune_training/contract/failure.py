"""What went wrong, for people and for the operator.

In: any exception of a run. Out: a `Failure`: its class (who has to act), a CamelCase reason, one message
that says what is wrong, where, and what to do. The class decides whether another attempt is made (docs/failures.md),
so this room decides by types and error codes first and reads texts only where a library offers nothing else.

    Failure             code  what follows (another attempt: on a cluster without being asked)
    ├── User               2  nothing, before somebody mends the job, the model or the environment
    │   └── …
    ├── Data               3  nothing, before somebody mends a source or a row
    │   └── …
    ├── OutOfMemory        4  the same attempt with less memory (driver/ladder.py), as long as there is less
    │   └── OutOfMemory
    ├── Infrastructure     5  another attempt
    │   ├── WorkerLost     ╮
    │   ├── NodeLost       │  the same attempt with its ranks started again (driver/repair.py)
    │   ├── ClusterLost    │
    │   ├── Collective     ╯
    │   ├── ArtifactDiffers
    │   ├── ClusterTooSmall
    │   ├── DataDamaged
    │   ├── DiskFull
    │   ├── HubUnreachable
    │   ├── InheritanceDamaged
    │   ├── Network
    │   ├── RayNotStarted
    │   └── StoreUnavailable
    ├── Preempted          7  another attempt, which costs nothing
    │   ├── MachineTaken   ─  the same attempt with its ranks started again
    │   └── Preempted
    ├── Hang               8  another attempt
    │   └── Hang
    ├── Fenced             6  nothing here: a newer attempt goes on
    │   └── Fenced
    ├── Interrupted      130  what the user wants
    │   └── Interrupted
    └── Unknown            1  another attempt
        └── Unknown
"""

from __future__ import annotations

import errno
import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any


class FailureClass(StrEnum):
    """Who has to act. The values are part of the API (`status.run.failure.class`)."""

    USER = "User"
    DATA = "Data"
    OUT_OF_MEMORY = "OutOfMemory"
    INFRASTRUCTURE = "Infrastructure"
    PREEMPTED = "Preempted"
    HANG = "Hang"
    INTERRUPTED = "Interrupted"
    FENCED = "Fenced"
    UNKNOWN = "Unknown"


class Reason(StrEnum):
    """What has happened, where code in either package goes by it. Any other reason is one word of whoever raises it, for people
    and their programs (docs/failures.md has all)."""

    WORKER_LOST = "WorkerLost"
    NODE_LOST = "NodeLost"
    CLUSTER_LOST = "ClusterLost"
    CLUSTER_TOO_SMALL = "ClusterTooSmall"
    COLLECTIVE = "Collective"
    MACHINE_TAKEN = "MachineTaken"
    ATTEMPT_CLAIMED = "AttemptClaimed"
    NETWORK = "Network"
    STORE_UNAVAILABLE = "StoreUnavailable"
    HUB_UNREACHABLE = "HubUnreachable"
    DISK_FULL = "DiskFull"
    OUT_OF_MEMORY = "OutOfMemory"
    UNKNOWN = "Unknown"


EXIT_CODES = {
    FailureClass.UNKNOWN: 1,
    FailureClass.USER: 2,
    FailureClass.DATA: 3,
    FailureClass.OUT_OF_MEMORY: 4,
    FailureClass.INFRASTRUCTURE: 5,
    FailureClass.FENCED: 6,
    FailureClass.PREEMPTED: 7,
    FailureClass.HANG: 8,
    FailureClass.INTERRUPTED: 130,
}


@dataclass(frozen=True)
class Failure:
    """Why a run ended. `message` is one or two sentences; `remedy` says what to do; `detail` is more text for people."""

    cls: FailureClass
    reason: str
    message: str
    remedy: str = ""
    detail: str = ""
    rank: int | None = None

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.cls]

    def to_json(self) -> str:
        fields = asdict(self)
        fields["class"] = fields.pop("cls")
        return json.dumps(fields, indent=2, ensure_ascii=False)


class FinetuneError(Exception):
    """An error whose class, reason and message are known where it is raised. Survives pickling between processes."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure

    def __reduce__(self) -> tuple[type[FinetuneError], tuple[Failure]]:
        return (FinetuneError, (self.failure,))

    def at(self, place: str) -> FinetuneError:
        """The error, told of a place."""
        return FinetuneError(replace(self.failure, message=f"{place}: {self.failure.message}"))


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends this process as Ctrl-C does, but it is not the user who wants it."""


def user_error(reason: str, message: str, remedy: str = "", *, detail: str = "") -> FinetuneError:
    """The file, the model or the environment that the user chose is wrong: no other attempt can help."""
    return FinetuneError(Failure(FailureClass.USER, reason, message, remedy, detail))


def data_error(reason: str, message: str, remedy: str = "", *, detail: str = "") -> FinetuneError:
    """A source or its rows cannot be used: no other attempt can help."""
    return FinetuneError(Failure(FailureClass.DATA, reason, message, remedy, detail))


def infrastructure_error(reason: str, message: str, remedy: str = "", *, detail: str = "") -> FinetuneError:
    """A machine, the network or a store failed: another attempt may succeed."""
    return FinetuneError(Failure(FailureClass.INFRASTRUCTURE, reason, message, remedy, detail))


_BY_TYPE: dict[str, tuple[FailureClass, str]] = {
    "torch.OutOfMemoryError": (FailureClass.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
    "torch.cuda.OutOfMemoryError": (FailureClass.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
    "builtins.MemoryError": (FailureClass.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
    "ray.exceptions.OutOfMemoryError": (FailureClass.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
    "ray.exceptions.ActorDiedError": (FailureClass.INFRASTRUCTURE, Reason.WORKER_LOST),
    "ray.exceptions.ActorUnavailableError": (FailureClass.INFRASTRUCTURE, Reason.CLUSTER_LOST),
    "ray.exceptions.RaySystemError": (FailureClass.INFRASTRUCTURE, Reason.CLUSTER_LOST),
    "ray.exceptions.RpcError": (FailureClass.INFRASTRUCTURE, Reason.CLUSTER_LOST),
    "ray.train.v2._internal.exceptions.WorkerHealthCheckFailedError": (FailureClass.INFRASTRUCTURE, Reason.WORKER_LOST),
    "ray.train.v2._internal.exceptions.WorkerHealthCheckTimeoutError": (
        FailureClass.INFRASTRUCTURE,
        Reason.WORKER_LOST,
    ),
    "ray.train.v2._internal.exceptions.WorkerGroupStartupTimeoutError": (
        FailureClass.INFRASTRUCTURE,
        Reason.CLUSTER_TOO_SMALL,
    ),
    "ray.train.v2._internal.exceptions.WorkerGroupStartupFailedError": (
        FailureClass.INFRASTRUCTURE,
        Reason.WORKER_LOST,
    ),
    "ray.exceptions.WorkerCrashedError": (FailureClass.INFRASTRUCTURE, Reason.WORKER_LOST),
    "ray.exceptions.NodeDiedError": (FailureClass.INFRASTRUCTURE, Reason.NODE_LOST),
    "ray.exceptions.ObjectLostError": (FailureClass.INFRASTRUCTURE, Reason.NODE_LOST),
    "torch.distributed.DistBackendError": (FailureClass.INFRASTRUCTURE, Reason.COLLECTIVE),
    "torch.distributed.DistNetworkError": (FailureClass.INFRASTRUCTURE, Reason.COLLECTIVE),
    "torch.distributed.DistStoreError": (FailureClass.INFRASTRUCTURE, Reason.COLLECTIVE),
    f"{__name__}.Terminated": (FailureClass.PREEMPTED, "Preempted"),
    "builtins.KeyboardInterrupt": (FailureClass.INTERRUPTED, "Interrupted"),
    "builtins.ConnectionError": (FailureClass.INFRASTRUCTURE, Reason.NETWORK),
}
"""Decided by the names of types, so that reading a failure imports neither torch nor Ray."""

_BY_TEXT: tuple[tuple[str, FailureClass, str], ...] = (
    ("DefaultCPUAllocator: can't allocate memory", FailureClass.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
    ("CUDA out of memory", FailureClass.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
    ("[../third_party/gloo", FailureClass.INFRASTRUCTURE, Reason.COLLECTIVE),
    ("Connection closed by peer", FailureClass.INFRASTRUCTURE, Reason.COLLECTIVE),
    ("Connection reset by peer", FailureClass.INFRASTRUCTURE, Reason.COLLECTIVE),
    ("NCCL error", FailureClass.INFRASTRUCTURE, Reason.COLLECTIVE),
)
"""A RuntimeError is all that these libraries raise."""

AGAIN = "Run the same command again: it resumes from the last checkpoint."
"""The remedy where nothing else needs to be done. On a cluster the operator does it."""
_REMEDIES: dict[str, str] = {
    Reason.OUT_OF_MEMORY: (
        "Lower spec.training.microBatchSize or set spec.training.gradientCheckpointing, and run the same command again. "
        "If that is not enough: raise spec.deepspeed.stage, set spec.deepspeed.offload or lower spec.dataset.maxLength, "
        "and start anew with --fresh."
    ),
    Reason.CLUSTER_TOO_SMALL: "Give the cluster more machines or ask for fewer workers, then run the same command again.",
    Reason.DISK_FULL: "Free space on that disk, then run the same command again: it resumes from the last checkpoint.",
    Reason.UNKNOWN: "This looks like a bug. The traceback is in the log.",
}


def classify(error: BaseException, *, rank: int | None = None) -> Failure:
    """The failure behind `error`: the first one of its chain of causes that is recognised, else class Unknown. Memory that has
    run out comes before what it did to others."""
    found = [failure for cause in _chain(error) if (failure := _recognise(cause))]
    if found:
        failure = next((each for each in found if each.cls is FailureClass.OUT_OF_MEMORY), found[0])
        return replace(failure, rank=failure.rank if failure.rank is not None else rank)
    message = f"{type(error).__name__}: {error}".strip()
    return Failure(FailureClass.UNKNOWN, Reason.UNKNOWN, message, _REMEDIES[Reason.UNKNOWN], rank=rank)


def _chain(error: BaseException) -> list[BaseException]:
    """`error`, then what caused it, innermost last; what Ray's wrappers carry counts as a cause."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        carried: list[Any] = [
            getattr(current, name, None) for name in ("cause", "controller_failure", "health_check_failure")
        ]
        nested = next((error for error in carried if isinstance(error, BaseException)), None)
        current = nested or current.__cause__ or current.__context__
    return chain


def _recognise(error: BaseException) -> Failure | None:
    if isinstance(error, FinetuneError):
        return error.failure
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = error.filename or "the local disk"
        return Failure(
            FailureClass.INFRASTRUCTURE,
            Reason.DISK_FULL,
            f"No space left on device: {where}",
            _REMEDIES[Reason.DISK_FULL],
        )
    for kind in type(error).__mro__:
        known = _BY_TYPE.get(f"{kind.__module__.removesuffix('._C')}.{kind.__qualname__}")
        if known:
            return Failure(*known, _first_line(error), _REMEDIES.get(known[1], AGAIN))
    if isinstance(error, RuntimeError):
        for text, cls, reason in _BY_TEXT:
            if text in str(error):
                return Failure(cls, reason, _first_line(error), _REMEDIES.get(reason, AGAIN))
    return None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
