"""`finetune`: the command line.

In: arguments. Out: exit code 0, or the code of the failure's class (failure.EXIT_CODES), and one clear message. All
that is not meant for the user, of this process and of the libraries below it, goes to `attempts/<n>/driver.log`.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console

from finetune_training.display import progress_on
from finetune_training.failure import FinetuneError, classify
from finetune_training.terminal import show_failure, summary

app = typer.Typer(
    name="finetune",
    help="Fine-tune a language model from one file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="A FineTuneJob file (YAML).")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Ranks. Default: one for each GPU here, or one.")]


@app.command()
def run(
    job_file: JobFile,
    workers: Workers = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget this run's attempts and checkpoints first.")] = False,
) -> None:
    """Train, evaluate and export. Run it again to go on after an interruption."""
    _guarded(lambda: _run(job_file, workers, fresh=fresh))


@app.command()
def validate(job_file: JobFile, workers: Workers = None) -> None:
    """Check the file, and print what would be done: batches, ranks, the DeepSpeed config."""
    from finetune_training.jobfile import read_job
    from finetune_training.validate import plan_text

    _guarded(lambda: print(plan_text(read_job(job_file), ranks=workers)))


@app.command()
def schema() -> None:
    """Print the JSON schema of a FineTuneJob file."""
    from finetune_training.jobfile import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command()
def report(job_file: JobFile) -> None:
    """Say where the report of a finished run is, and what came of it."""
    _guarded(lambda: _report(job_file))


def main() -> None:
    """Entry point of the `finetune` script."""
    faulthandler.enable()
    app()


def _run(job_file: Path, workers: int | None, *, fresh: bool) -> None:
    from finetune_training import attempt as attempts
    from finetune_training.jobfile import read_job

    job = read_job(job_file)
    store = attempts.run_store(job)
    if fresh:
        attempts.start_anew(store)
    text = job_file.read_text(encoding="utf-8")
    attempts.remember(store, job, text)
    console = _console(sys.stdout)
    if result := attempts.finished(store):
        console.print(f"{job.name} is done already. Start it anew with --fresh.", markup=False)
        console.print(summary(result, report=f"{store.uri}/{attempts.REPORT}", result_uri=f"{store.uri}/result"))
        return
    attempt = attempts.claim(store)
    attempt.folder.mkdir(parents=True, exist_ok=True)
    try:
        with _quiet(attempt.folder / "driver.log") as terminal:
            _attempt(job, text, workers, attempt, _console(terminal))
    finally:
        attempt.keep()


def _attempt(job: Any, text: str, workers: int | None, attempt: Any, console: Console) -> None:
    from finetune_training.attempt import REPORT
    from finetune_training.environment import set_up_ray

    set_up_ray()
    from finetune_training.run import Request, execute

    try:
        with progress_on(console) as sink:
            result = execute(Request(job, text, workers), attempt, sink)
    except BaseException as error:
        failure = classify(error)
        (attempt.folder / "failure.json").write_text(failure.to_json(), encoding="utf-8")
        logging.getLogger(__name__).exception("The attempt failed")
        show_failure(failure, log=_log_uri(attempt), console=console)
        raise typer.Exit(failure.exit_code) from error
    uri = attempt.store.uri
    console.print(summary(result, report=f"{uri}/{REPORT}", result_uri=f"{uri}/result"))


def _report(job_file: Path) -> None:
    from finetune_training import attempt as attempts
    from finetune_training.failure import user_error
    from finetune_training.jobfile import read_job
    from finetune_training.storage import open_store

    job = read_job(job_file)
    store = open_store(job.spec.checkpoint.uri).child(job.path)
    result = attempts.finished(store)
    if result is None:
        raise user_error("NotFinished", f"{store.uri} has no result yet.", f"Run it: finetune run {job_file}")
    _console(sys.stdout).print(
        summary(result, report=f"{store.uri}/{attempts.REPORT}", result_uri=f"{store.uri}/result")
    )


def _guarded(command: Callable[[], None]) -> None:
    """Any failure becomes one clear message and its exit code."""
    try:
        command()
    except typer.Exit:
        raise
    except (Exception, KeyboardInterrupt) as error:
        failure = classify(error)
        show_failure(failure, log=None)
        if not isinstance(error, FinetuneError | KeyboardInterrupt):
            traceback.print_exc()
        raise typer.Exit(failure.exit_code) from error


@contextmanager
def _quiet(log: Path) -> Iterator[TextIO]:
    """Everything that this process and its libraries print goes to `log`; yields the terminal as it was."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    with (
        log.open("a", encoding="utf-8", buffering=1) as file,
        os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding) as terminal,
    ):
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        logging.basicConfig(
            stream=file, level=logging.INFO, force=True, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        logging.captureWarnings(True)
        try:
            yield terminal
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in zip((1, 2), saved, strict=True):
                os.dup2(original, descriptor)
                os.close(original)


def _console(stream: TextIO) -> Console:
    """A console on `stream`. What its encoding cannot show becomes `?`, never an error."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
    return Console(file=stream, highlight=False)


def _log_uri(attempt: Any) -> str:
    return f"{attempt.store.uri}/{attempt.key}/driver.log"
