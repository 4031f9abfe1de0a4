"""What went wrong, for people and for the operator.

In: any exception of a run. Out: a `Failure`: its class (who has to act), a CamelCase reason, one message
that says what is wrong, where, and what to do. The class decides whether another attempt is made (docs/failures.md),
so this room decides by types and error codes first and reads texts only where a library offers nothing else.
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


# Decided by the names of types, so that reading a failure imports neither torch nor Ray.
_BY_TYPE: dict[str, tuple[FailureClass, str]] = {
    "torch.OutOfMemoryError": (FailureClass.OUT_OF_MEMORY, "OutOfMemory"),
    "torch.cuda.OutOfMemoryError": (FailureClass.OUT_OF_MEMORY, "OutOfMemory"),
    "builtins.MemoryError": (FailureClass.OUT_OF_MEMORY, "OutOfMemory"),
    "ray.exceptions.OutOfMemoryError": (FailureClass.OUT_OF_MEMORY, "OutOfMemory"),
    "ray.exceptions.ActorDiedError": (FailureClass.INFRASTRUCTURE, "WorkerLost"),
    "ray.exceptions.ActorUnavailableError": (FailureClass.INFRASTRUCTURE, "ClusterLost"),
    "ray.exceptions.RaySystemError": (FailureClass.INFRASTRUCTURE, "ClusterLost"),
    "ray.exceptions.RpcError": (FailureClass.INFRASTRUCTURE, "ClusterLost"),
    "ray.train.v2._internal.exceptions.WorkerHealthCheckFailedError": (FailureClass.INFRASTRUCTURE, "WorkerLost"),
    "ray.train.v2._internal.exceptions.WorkerHealthCheckTimeoutError": (FailureClass.INFRASTRUCTURE, "WorkerLost"),
    "ray.train.v2._internal.exceptions.WorkerGroupStartupTimeoutError": (
        FailureClass.INFRASTRUCTURE,
        "ClusterTooSmall",
    ),
    "ray.train.v2._internal.exceptions.WorkerGroupStartupFailedError": (FailureClass.INFRASTRUCTURE, "WorkerLost"),
    "ray.exceptions.WorkerCrashedError": (FailureClass.INFRASTRUCTURE, "WorkerLost"),
    "ray.exceptions.NodeDiedError": (FailureClass.INFRASTRUCTURE, "NodeLost"),
    "ray.exceptions.ObjectLostError": (FailureClass.INFRASTRUCTURE, "NodeLost"),
    "torch.distributed.DistBackendError": (FailureClass.INFRASTRUCTURE, "Collective"),
    "torch.distributed.DistNetworkError": (FailureClass.INFRASTRUCTURE, "Collective"),
    "torch.distributed.DistStoreError": (FailureClass.INFRASTRUCTURE, "Collective"),
    f"{__name__}.Terminated": (FailureClass.PREEMPTED, "Preempted"),
    "builtins.KeyboardInterrupt": (FailureClass.INTERRUPTED, "Interrupted"),
    "builtins.ConnectionError": (FailureClass.INFRASTRUCTURE, "Network"),
}

# A RuntimeError is all that these libraries raise.
_BY_TEXT: tuple[tuple[str, FailureClass, str], ...] = (
    ("DefaultCPUAllocator: can't allocate memory", FailureClass.OUT_OF_MEMORY, "OutOfMemory"),
    ("CUDA out of memory", FailureClass.OUT_OF_MEMORY, "OutOfMemory"),
    ("[../third_party/gloo", FailureClass.INFRASTRUCTURE, "Collective"),
    ("Connection closed by peer", FailureClass.INFRASTRUCTURE, "Collective"),
    ("Connection reset by peer", FailureClass.INFRASTRUCTURE, "Collective"),
    ("NCCL error", FailureClass.INFRASTRUCTURE, "Collective"),
)

AGAIN = "Run the same command again: it resumes from the last checkpoint."
"""The remedy where nothing else needs to be done. On a cluster the operator does it."""
_REMEDIES = {
    "OutOfMemory": (
        "Lower spec.training.microBatchSize or set spec.training.gradientCheckpointing, and run the same command again. "
        "If that is not enough: raise spec.deepspeed.stage, set spec.deepspeed.offload or lower spec.dataset.maxLength, "
        "and start anew with --fresh."
    ),
    "ClusterTooSmall": "Give the cluster more machines or ask for fewer workers, then run the same command again.",
    "DiskFull": "Free space on that disk, then run the same command again: it resumes from the last checkpoint.",
    "Unknown": "This looks like a bug. The traceback is in the log.",
}


def classify(error: BaseException, *, rank: int | None = None) -> Failure:
    """The failure behind `error`: the first one of its chain of causes that is recognised, else class Unknown. Memory that has
    run out comes before what it did to others."""
    found = [failure for cause in _chain(error) if (failure := _recognise(cause))]
    if found:
        failure = next((each for each in found if each.cls is FailureClass.OUT_OF_MEMORY), found[0])
        return replace(failure, rank=failure.rank if failure.rank is not None else rank)
    message = f"{type(error).__name__}: {error}".strip()
    return Failure(FailureClass.UNKNOWN, "Unknown", message, _REMEDIES["Unknown"], rank=rank)


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
            FailureClass.INFRASTRUCTURE, "DiskFull", f"No space left on device: {where}", _REMEDIES["DiskFull"]
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
