"""A run's life, as far as one command goes: an attempt is claimed, watched and kept, and its end is told.

In: a job's file, and how it is to be run. Out: the result, there already or of a new attempt; or the failure, raised. However it
ends, that is told once, and first to the cluster, which may have little time: then in `failure.json`, in the log and to
who looks on. Logs are kept after a failure was told, because a store that is away must not hold that up; and before a success is.
What is done between the claim and the end is run.py's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from finetune_training.checkpoint.run_folder import finished, remember, run_store
from finetune_training.contract.failure import Failure, FinetuneError, classify
from finetune_training.contract.jobfile import identity_in, parse_job, read_text
from finetune_training.driver.attempt import Attempt, Request, claim, start_anew
from finetune_training.driver.environment import quiet, set_up_ray
from finetune_training.driver.signals import end_at_sigterm
from finetune_training.events.result import RunResult
from finetune_training.preflight.scratch import check_scratch
from finetune_training.show.display import progress_on
from finetune_training.show.terminal import console_on, show_failure
from finetune_training.status.writer import StatusWriter, status_for

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Done:
    """A run that is done. `uri`: its folder. `already`: an earlier attempt has done it."""

    result: RunResult
    uri: str
    already: bool = False


class AttemptFailed(FinetuneError):
    """The failure of an attempt, of which everybody has been told: only the exit code is left to say."""


def live(job_file: Path, workers: int | None, *, fresh: bool, console: Console) -> Done:
    """Have the run done. With `fresh` its attempts and checkpoints are forgotten first. Progress is shown on `console`. Raises
    AttemptFailed for what ends an attempt, and what ends it before there is one as it is."""
    text = read_text(job_file)
    with status_for(identity_in(text)) as status:
        try:
            check_scratch()
            request = Request(parse_job(text, name=str(job_file)), text, workers)
            done = _done(request, status, console, fresh=fresh)
        except AttemptFailed:  # told at once, before its logs were kept
            raise
        except BaseException as error:
            status.end(classify(error))
            raise
        status.end(done.result)
        return done


def _done(request: Request, status: StatusWriter, console: Console, *, fresh: bool) -> Done:
    store = run_store(request.job)
    attempt = start_anew(store) if fresh else None
    remember(store, request.job, request.text)
    if attempt is None and (result := finished(store)):
        return Done(result, store.uri, already=True)
    return Done(_lived(request, attempt or claim(store), status, console), store.uri)


def _lived(request: Request, attempt: Attempt, status: StatusWriter, console: Console) -> RunResult:
    """Meanwhile what the process prints is in the attempt's log, and the log on its way to the store."""
    attempt.folder.mkdir(parents=True, exist_ok=True)
    try:
        with quiet(attempt.folder / "driver.log") as terminal, attempt.shipped():
            return _attempted(request, attempt, status, console_on(terminal))
    finally:
        _keep(attempt, console)


def _attempted(request: Request, attempt: Attempt, status: StatusWriter, console: Console) -> RunResult:
    set_up_ray()
    end_at_sigterm()
    from finetune_training.driver.run import execute

    try:
        with progress_on(console) as sink:
            return execute(request, attempt, [sink, status])
    except BaseException as error:
        failure = classify(error)
        status.end(failure)
        _tell(failure, attempt, console)
        raise AttemptFailed(failure) from error


def _tell(failure: Failure, attempt: Attempt, console: Console) -> None:
    """A disk that is full, perhaps the failure itself, does not put another one in its place."""
    try:
        (attempt.folder / "failure.json").write_text(failure.to_json(), encoding="utf-8")
    except OSError as error:
        console.print(f"failure.json could not be written: {error}", style="yellow", markup=False)
    logger.exception("The attempt failed")
    show_failure(failure, log=f"{attempt.store.uri}/{attempt.key}/driver.log", console=console)


def _keep(attempt: Attempt, console: Console) -> None:
    """Logs that cannot be kept do not change how the attempt ended."""
    try:
        attempt.keep()
    except (FinetuneError, OSError) as error:
        console.print(f"The attempt's logs stay in {attempt.folder}: {error}", style="yellow", markup=False)
