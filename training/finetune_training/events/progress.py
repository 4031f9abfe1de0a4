"""One stream of progress events: from ranks and driver to the terminal, `metrics.jsonl` and (on a cluster)
`status.run`.

In: `Event`s, from wherever the work is done. Out: every sink sees every event, in order. Events are plain values that
pickle small; the field names of `Step` are those of `status.run` in the design.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from pydantic.alias_generators import to_camel

from finetune_training.events.specimen import Specimen


class Stage(StrEnum):
    """What a run is doing. The values are the phases of the API."""

    PREPARING = "Preparing"
    STARTING = "Starting"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    EXPORTING = "Exporting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True)
class StageStarted:
    """A stage begins; `note` says more, in a few words."""

    stage: Stage
    note: str = ""
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Inspected:
    """What was seen before anything ran: a sentence for each source, and some rows as they are trained, shortened."""

    sources: tuple[str, ...]
    rows: tuple[Specimen, ...] = ()
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Prepared:
    """The data is there: `rows` in, `samples` of at most `max_length` tokens out; `held_out` of them are for evaluation.
    `useful_token_ratio`: what share of the packed positions is tokens, not padding."""

    rows: int
    samples: int
    held_out: int
    max_length: int
    packed: bool
    useful_token_ratio: float
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Step:
    """One optimizer step. `loss`: mean over the step's supervised tokens. `tokens_per_second`: all tokens of all ranks,
    padding not counted, over this step's time. `gradient_norm` before clipping. `memory_peak`: bytes of host memory, the most of
    any rank's machine or container since it started. `rows`: a checksum of the rows that the ranks have learnt from, whatever
    their order: steps with the same rows have the same."""

    step: int
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float
    gradient_norm: float | None
    tokens: int
    supervised_tokens: int
    seconds: float
    tokens_per_second: float
    eta_seconds: float
    memory_peak: int | None = None
    rows: str = ""
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Evaluated:
    """Loss on the held-out rows: `loss` is the mean over `supervised_tokens`; perplexity is exp(loss). `baseline`: of
    the base model. `seconds`: that it took; 0 if it is repeated from an earlier attempt."""

    step: int
    loss: float
    perplexity: float
    supervised_tokens: int
    baseline: bool
    seconds: float = 0.0
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint is committed: its manifest is in the store."""

    step: int
    uri: str
    bytes: int
    blocked_seconds: float
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Resumed:
    """The run goes on from a checkpoint."""

    step: int
    uri: str
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Restarted:
    """The ranks are started again in the same attempt, for the `restart`-th time. `why`: a sentence."""

    restart: int
    why: str
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class MemoryUse:
    """The settings that decide how much memory the ranks need (ladder.py), whenever they are started with others. `rung`: steps
    down from what was asked for; `change`: what these have changed, in words, empty for none."""

    rung: int
    micro_batch_size: int
    gradient_checkpointing: bool
    stage: int
    offload: str
    change: str
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Warned:
    """Something that the user should know, though the run goes on."""

    message: str
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Likelihoods:
    """What a model makes of a row: the log-probability of each token but the first, given those before it."""

    tokens: list[int]
    log_probs: list[float]


@dataclass(frozen=True)
class Trained:
    """The ranks are done. `interrupted`: the driver asked them to stop; the run goes on from the last checkpoint. `likelihoods`:
    what the trained model makes of a few rows, as it was evaluated: what its artifacts are compared with."""

    step: int
    interrupted: bool
    likelihoods: tuple[Likelihoods, ...] = ()
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Away:
    """From rank 0 to the driver: the ranks do something between two steps (save, evaluate) that takes as long as it takes;
    `over`: they step on."""

    over: bool = False


Event = (
    StageStarted | Inspected | Prepared | Step | Evaluated | CheckpointSaved | Resumed | Restarted | MemoryUse | Warned
)
Report = Event | Trained | Away


class Sink(Protocol):
    """Where events go."""

    def show(self, event: Event) -> None: ...


def as_record(event: Event) -> dict[str, Any]:
    """The event as one line of `metrics.jsonl`: `event` with its name, and its fields in camelCase."""
    return {"event": type(event).__name__, **{to_camel(name): value for name, value in asdict(event).items()}}


class MetricsFile:
    """Sink: one JSON object per line, written at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def show(self, event: Event) -> None:
        self._file.write(json.dumps(as_record(event), ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()
