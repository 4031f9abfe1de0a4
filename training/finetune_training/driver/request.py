"""What a person has asked for.

In: the arguments of `finetune run`. Out: a value that the attempt carries with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune_training.contract.spec import Job


@dataclass(frozen=True)
class Request:
    """What `finetune run` was asked to do. `job` as the user wrote it, `text` the file's text."""

    job: Job
    text: str
    workers: int | None = None
