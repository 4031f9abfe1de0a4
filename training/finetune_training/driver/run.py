"""What an attempt does: prepare, train, finish, report.

In: what was asked for, and a claimed attempt (life.py). Out: a `RunResult` in the store, `result/metrics.json` written last, or a
FinetuneError. This is the order in which things happen; how each is done is in the room of its name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from finetune_training.checkpoint.lineage import check_fence
from finetune_training.checkpoint.run_folder import Resolution, keep_resolution, read_resolution, versions
from finetune_training.contract.batch import batch_of
from finetune_training.contract.failure import FinetuneError
from finetune_training.contract.spec import Job
from finetune_training.data.prepare import prepare, prepared
from finetune_training.data.shards import DataManifest
from finetune_training.driver import watch
from finetune_training.driver.attempt import Attempt, Request
from finetune_training.driver.finish import Finish, Finished, finish
from finetune_training.driver.publish import publish, result_of
from finetune_training.driver.ray_cluster import Placement, placement_for, ray_session, run_task, staging_folder
from finetune_training.driver.repair import Repair
from finetune_training.events.progress import (
    CheckpointSaved,
    Event,
    MetricsFile,
    Prepared,
    Resumed,
    Sink,
    Stage,
    StageStarted,
    Trained,
    Warned,
)
from finetune_training.events.result import RunResult
from finetune_training.inspection.inspection import inspect, seen_in
from finetune_training.model.fetch import default_cache, fetch_tokenizer
from finetune_training.preflight.findings import heed
from finetune_training.store.located import located
from finetune_training.worker.task import Task

logger = logging.getLogger(__name__)


def execute(request: Request, attempt: Attempt, sinks: Sequence[Sink]) -> RunResult:
    """Do it. Every event goes to `sinks` and to the attempt's metrics.jsonl."""
    metrics = MetricsFile(attempt.metrics)
    try:
        return _Run(request, attempt, [metrics, *sinks]).execute()
    finally:
        metrics.close()


class _Run:
    def __init__(self, request: Request, attempt: Attempt, sinks: list[Sink]) -> None:
        self._request, self._attempt, self._sinks = request, attempt, sinks
        self._store = attempt.store
        self._started = time.time()
        self._resolution = read_resolution(self._store)
        self._resumed_from: int | None = None
        self._warned: set[str] = set()

    def execute(self) -> RunResult:
        try:
            return self._execute()
        except BaseException:
            self._tell(StageStarted(Stage.FAILED))
            raise

    def _execute(self) -> RunResult:
        watch.floor()  # a setting that is wrong is told before the data is prepared
        job, tokenizer_folder = self._pinned()
        self._tell(StageStarted(Stage.PREPARING, "starting Ray"))
        # One CPU more than the ranks take: Ray Data starves without it (ray#44687).
        with ray_session(cpus=(self._request.workers or 1) + 1), staging_folder() as staging:
            placement = placement_for(job.spec, workers=self._request.workers)
            batch_of(job.spec, ranks=placement.ranks)
            self._tell(StageStarted(Stage.PREPARING, "the data"))
            data = self._data(job, tokenizer_folder)
            self._tell(_prepared(data, packed=job.spec.dataset.packing))
            task = self._task(job, data, placement, staging)
            self._tell(StageStarted(Stage.STARTING, _describe(placement)))
            repair = Repair(task, self._attempt, placement, self._tell)
            trained = repair.train()
            task, self._attempt = repair.task, repair.attempt
            check_fence(self._store, self._attempt.turn)
            self._tell(StageStarted(Stage.EXPORTING, "answers and artifacts"))
            done = self._finish(task, trained)
            result = result_of(
                task, self._attempt, trained, done, resumed_from=self._resumed_from, seconds=time.time() - self._started
            )
        publish(result, self._request, self._attempt, data=data, outputs=job.spec.output)
        self._tell(StageStarted(Stage.SUCCEEDED))
        return result

    def _pinned(self) -> tuple[Job, Path]:
        """The job with absolute paths and a revision that does not move, and the folder of its tokenizer."""
        job = located(self._request.job)
        if self._request.workers:  # known before Ray is: say so at once
            batch_of(job.spec, ranks=self._request.workers)
        self._tell(StageStarted(Stage.PREPARING, "the tokenizer"))
        on_hub = job.spec.model.uri.startswith("hf://")
        if on_hub and self._resolution:
            job = _with_revision(job, self._resolution.model_revision)
        fetched = fetch_tokenizer(job.spec.model, cache=default_cache())
        if self._resolution is None:  # else an attempt before this one has passed
            self._look_at(job, fetched.folder)
        return (_with_revision(job, fetched.revision) if on_hub else job), fetched.folder

    def _look_at(self, job: Job, model: Path) -> None:
        """All that the first rows, the tokenizer and the config can tell is told before Ray starts."""
        self._tell(StageStarted(Stage.PREPARING, "a look at the data"))
        seen = inspect(job.spec, model)
        if seen.sources:
            self._tell(seen_in(seen))
        heed(seen.checks, self._tell)

    def _data(self, job: Job, tokenizer_folder: Path) -> DataManifest:
        """The run's data: what the first attempt prepared, whatever has become of the sources since."""
        store = self._store.child("data")
        if self._resolution and (found := prepared(store, self._resolution.data_fingerprint)):
            return found
        data = prepare(job.spec, store=store, model_folder=tokenizer_folder, report=self._tell)
        keep_resolution(self._store, Resolution(job.spec.model.revision, data.fingerprint))
        return data

    def _task(self, job: Job, data: DataManifest, placement: Placement, staging: Path) -> Task:
        return Task(
            job=job,
            base=self._request.job.spec.model,
            turn=self._attempt.turn,
            inherited=self._attempt.inherited,
            store=self._store,
            data=data,
            ranks=placement.ranks,
            on_gpu=placement.on_gpu,
            staging=staging,
            versions=versions(),
        )

    def _finish(self, task: Task, trained: Trained) -> Finished:
        given = task.job.spec.evaluation.prompts
        work = Finish(
            job=task.job,
            store=task.store,
            prompts=list(given or task.data.prompts),
            chat=bool(given) and task.data.chat,
            staging=task.staging,
            likelihoods=trained.likelihoods,
        )
        return run_task(finish, work, on_gpu=task.on_gpu)

    def _tell(self, event: Event) -> None:
        if isinstance(event, Resumed):
            self._resumed_from = event.step
        if isinstance(event, Warned):  # what the first rows showed is met again when all are prepared
            if event.message in self._warned:
                return
            self._warned.add(event.message)
        for sink in self._sinks:
            sink.show(event)
        if isinstance(event, CheckpointSaved):
            self._keep_metrics()

    def _keep_metrics(self) -> None:
        try:
            self._attempt.keep_metrics()
        except FinetuneError:  # with the next checkpoint, or at the end
            logger.warning("The metrics could not be kept", exc_info=True)


def _with_revision(job: Job, revision: str) -> Job:
    model = job.spec.model.model_copy(update={"revision": revision})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"model": model})})


def _describe(placement: Placement) -> str:
    kind = "GPU" if placement.on_gpu else "CPU"
    return f"{placement.ranks} {kind} worker{'s' if placement.ranks > 1 else ''}"


def _prepared(data: DataManifest, *, packed: bool) -> Prepared:
    return Prepared(
        rows=data.statistics.rows,
        samples=data.train_samples,
        held_out=data.validation_samples,
        max_length=data.max_length,
        packed=packed,
        useful_token_ratio=data.statistics.useful_token_ratio,
    )
