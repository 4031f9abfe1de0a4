"""`finetune`: the command line.

In: arguments. Out: exit code 0, or the code of the failure's class (failure.EXIT_CODES), and one clear message. What a command
does is in the rooms below.
"""

from __future__ import annotations

import faulthandler
import json
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from finetune_training.checkpoint.run_folder import REPORT, finished
from finetune_training.cli import checkpoint_commands
from finetune_training.cli.guarded import guarded
from finetune_training.cli.inspect import Wanted
from finetune_training.cli.inspect import inspect as look
from finetune_training.cli.validate import plan_text
from finetune_training.contract.failure import user_error
from finetune_training.contract.jobfile import json_schema, read_job
from finetune_training.driver.life import AttemptFailed, live
from finetune_training.events.result import RunResult
from finetune_training.show.terminal import console_on, summary
from finetune_training.store.storage import open_store

app = typer.Typer(
    name="finetune",
    help="Fine-tune a language model from one file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(checkpoint_commands.app, name="checkpoints")
_SHOWN = 60
"""Characters of a question that are suggested."""
JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="A FineTuneJob file (YAML).")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Ranks. Default: one for each GPU here, or one.")]


@app.command()
def run(
    job_file: JobFile,
    workers: Workers = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget this run's attempts and checkpoints first.")] = False,
) -> None:
    """Train, evaluate and export. Run it again to go on after an interruption."""
    guarded(lambda: _run(job_file, workers, fresh=fresh))


@app.command()
def validate(
    job_file: JobFile,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Ranks. Default: as spec.resources says.")
    ] = None,
    data: Annotated[
        bool, typer.Option("--data", help="Look at the data and the tokenizer too, as `finetune inspect` does.")
    ] = False,
) -> None:
    """Check the file, and print what would be done: batches, ranks, the DeepSpeed config."""
    console = console_on(sys.stdout)
    guarded(lambda: console.out(plan_text(read_job(job_file), ranks=workers), highlight=False))
    if data:
        guarded(lambda: look(read_job(job_file), Wanted(rows=0), console))


@app.command()
def inspect(
    job_file: JobFile,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows of each kind that are shown.")] = 3,
    row: Annotated[
        str,
        typer.Option("--row", help="One row alone: its place (rows.jsonl:12), its number, or its identity."),
    ] = "",
    html: Annotated[Path | None, typer.Option("--html", help="Write what is shown as a page, too.")] = None,
) -> None:
    """Show what will be trained: sources, rows as the model sees them, checks. Exit code 1: a check has found an error."""
    guarded(lambda: look(read_job(job_file), Wanted(rows, row, html), console_on(sys.stdout)))


@app.command()
def predict(
    target: Annotated[
        str, typer.Argument(metavar="JOB_OR_MODEL", help="A finished job's file, or a model's URI or folder.")
    ],
    prompt: Annotated[str, typer.Argument(help="One prompt.")] = "",
    input_uri: Annotated[
        str, typer.Option("--input", help="Prompts: JSONL, CSV, Parquet or text; a glob; any store.")
    ] = "",
    output_uri: Annotated[
        str, typer.Option("--output", help="Completions: a .jsonl or .parquet file, or a folder.")
    ] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens in an answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0: always the likeliest token.")] = 0.0,
    base: Annotated[bool, typer.Option("--base", help="Ask the base model instead.")] = False,
    chat: Annotated[
        bool | None, typer.Option(help="Prompts are messages to a chat model. Default: as the job's rows.")
    ] = None,
) -> None:
    """Answer one prompt, or files of them by Ray Data batch inference."""
    from finetune_training.cli.ask import Question, ask

    question = Question(target, prompt, input_uri, output_uri, max_new_tokens, temperature, base=base, chat=chat)
    guarded(lambda: ask(question, console_on(sys.stdout)))


@app.command()
def schema() -> None:
    """Print the JSON schema of a FineTuneJob file."""
    print(json.dumps(json_schema(), indent=2))


@app.command()
def report(job_file: JobFile) -> None:
    """Say where the report of a finished run is, and what came of it."""
    guarded(lambda: _report(job_file))


def main() -> None:
    """Entry point of the `finetune` script."""
    faulthandler.enable()
    app()


def _run(job_file: Path, workers: int | None, *, fresh: bool) -> None:
    console = console_on(sys.stdout)
    try:
        done = live(job_file, workers, fresh=fresh, console=console)
    except AttemptFailed as error:
        raise typer.Exit(error.failure.exit_code) from error
    if done.already:
        console.print(f"{done.result.job} is done already. Start it anew with --fresh.", markup=False)
    console.print(_summary(done.result, done.uri, job_file))


def _report(job_file: Path) -> None:
    job = read_job(job_file)
    store = open_store(job.spec.checkpoint.uri).child(job.path)
    result = finished(store)
    if result is None:
        raise user_error("NotFinished", f"{store.uri} has no result yet.", f"Run it: finetune run {job_file}")
    console_on(sys.stdout).print(_summary(result, store.uri, job_file))


def _summary(result: RunResult, uri: str, job_file: Path) -> RenderableType:
    command = f"finetune predict {shlex.quote(str(job_file))} {_as_argument(result.question or 'Hello')}"
    return summary(result, report=f"{uri}/{REPORT}", result_uri=f"{uri}/result", command=command)


def _as_argument(question: str) -> str:
    """A question on one line, shortened between words, quoted for a shell."""
    words = textwrap.shorten(question, _SHOWN, placeholder="") or question[:_SHOWN]
    return f"{'-- ' if words.startswith('-') else ''}{shlex.quote(words)}"
