"""A run that is trained and exported → what it leaves: result, report, model cards.

In: the last attempt and what came of it. Out: a `RunResult`, and in the store the report, a card beside every artifact and its
copies, and last `result/metrics.json`: with it the run is done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from finetune_training.checkpoint.lineage import check_fence
from finetune_training.checkpoint.run_folder import REPORT, RESULT
from finetune_training.contract.spec import ArtifactFormat, Output
from finetune_training.data.shards import DataManifest
from finetune_training.driver.attempt import METRICS, Attempt, Request
from finetune_training.driver.finish import Finished
from finetune_training.events.history import History, read_history
from finetune_training.events.progress import Evaluated, Trained
from finetune_training.events.result import Evaluations, RunResult, Scores
from finetune_training.show.model_card import render_model_card
from finetune_training.show.report import ReportInputs, render_report
from finetune_training.store.storage import open_store
from finetune_training.worker.task import Task


def result_of(
    task: Task, attempt: Attempt, trained: Trained, done: Finished, *, resumed_from: int | None, seconds: float
) -> RunResult:
    """What came of the run. `seconds`: how long this attempt has taken."""
    history = read_history(_records(attempt))
    training_seconds = sum(step.seconds for step in history.steps)
    return RunResult(
        job=task.job.name,
        attempt=attempt.number,
        steps=trained.step,
        resumed_from_step=resumed_from,
        seconds=seconds,
        training_seconds=training_seconds,
        tokens_per_second=history.tokens / training_seconds if training_seconds else 0.0,
        useful_token_ratio=task.data.statistics.useful_token_ratio,
        evaluation=_evaluations(history),
        samples=done.samples,
        artifacts=done.artifacts,
        base_model=task.base.uri,
        base_revision=task.job.spec.model.revision,
        base_license=done.base_license,
        question=next(iter(task.job.spec.evaluation.prompts), task.data.question),
        data_fingerprint=task.data.fingerprint,
        versions=task.versions,
    )


def publish(
    result: RunResult, request: Request, attempt: Attempt, *, data: DataManifest, outputs: Sequence[Output]
) -> None:
    """Report, model cards, and last the metrics. `outputs`: those of the job, their paths absolute. Raises a Fenced error when a
    newer attempt has claimed the run."""
    store, job, statistics = attempt.store, request.job, data.statistics
    check_fence(store, attempt.turn)
    records = _records(attempt)
    inputs = ReportInputs(job, request.text, result, statistics, data.max_length, records, time.time())
    inspected = read_history(records).inspected
    store.put(REPORT, render_report(inputs).encode())
    for artifact in result.artifacts:
        kind = ArtifactFormat(artifact.format)
        card = render_model_card(
            job=job,
            result=result,
            statistics=statistics,
            artifact_format=kind,
            sources=inspected.sources if inspected else (),
        ).encode()
        copies = [output.uri for output in outputs if output.uri and output.format is kind]
        for folder in (artifact.uri, *copies):
            open_store(folder).put("README.md", card)
    store.put(RESULT, result.to_json())


def _records(attempt: Attempt) -> list[dict[str, Any]]:
    """The metrics of all attempts, in their order, each line with its `attempt`."""
    texts = {}
    for number in sorted(int(name) for name in attempt.store.folders("attempts") if name.isdigit()):
        here = number == attempt.number
        kept = attempt.metrics.read_bytes() if here else attempt.store.get(f"attempts/{number}/{METRICS}")
        texts[number] = kept or b""
    found = ((number, _record(line)) for number, text in texts.items() for line in text.splitlines())
    return [record | {"attempt": number} for number, record in found if record is not None]


def _record(line: bytes) -> dict[str, Any] | None:
    """None for half a line, which a process that died or a full disk leaves."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _evaluations(history: History) -> Evaluations:
    last = history.evaluations[-1] if history.evaluations else None
    return Evaluations(baseline=_scores(history.baseline), tuned=_scores(last))


def _scores(evaluated: Evaluated | None) -> Scores | None:
    if evaluated is None:
        return None
    return Scores(loss=evaluated.loss, perplexity=evaluated.perplexity, supervised_tokens=evaluated.supervised_tokens)
