"""`finetune checkpoints`: list, verify, export and delete what a run has saved.

In: arguments. Out: tables and lines for people; the work is in shelf.py and extract.py. What is found to be
damaged is class Data (exit code 3): no other attempt mends it. Infrastructure stays what it is: the store does not answer,
so nothing is known.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from finetune_training.checkpoint import shelf
from finetune_training.checkpoint.shelf import StoredCheckpoint
from finetune_training.cli.guarded import guarded
from finetune_training.contract.failure import data_error
from finetune_training.driver.environment import quiet
from finetune_training.events import wording
from finetune_training.show.terminal import console_on
from finetune_training.store.storage import Store

app = typer.Typer(
    help="List, verify, export or delete a run's checkpoints.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
Run = Annotated[str, typer.Argument(metavar="JOB_OR_URI", help="A job's file, or the URI or folder of its run.")]
_NAME = "A checkpoint: step-00000500-a2, or 500 if no other has that step, or latest, or best."
Problems = dict[str, list[str]]


@app.command("list")
def list_checkpoints(
    run: Run, verify: Annotated[bool, typer.Option("--verify", help="Read every byte of them.")] = False
) -> None:
    """Say which checkpoints there are, newest first."""
    guarded(lambda: _list(run, console_on(sys.stdout), verify=verify))


@app.command()
def verify(
    run: Run,
    name: Annotated[str, typer.Argument(metavar="NAME", help=_NAME + " Default: all.", show_default=False)] = "",
) -> None:
    """Read every byte and compare it with the manifest. Exit code 3: a checkpoint is damaged."""
    guarded(lambda: _verify(run, name, console_on(sys.stdout)))


@app.command()
def export(
    run: Run,
    name: Annotated[str, typer.Argument(metavar="NAME", help=_NAME)],
    out: Annotated[str, typer.Argument(metavar="OUT_URI", help="The folder for the model, here or in a store.")],
    merged: Annotated[
        bool, typer.Option("--merged", help="Of a LoRA run the whole model instead of the adapter.")
    ] = False,
) -> None:
    """Make a model of a checkpoint: an adapter, or a whole model that transformers loads."""
    guarded(lambda: _export(run, name, out, console_on(sys.stdout), merged=merged))


@app.command()
def delete(
    run: Run,
    names: Annotated[list[str], typer.Argument(metavar="NAME", help=_NAME)],
    force: Annotated[bool, typer.Option("--force", help="Even if none is left then.")] = False,
) -> None:
    """Delete checkpoints, without asking. Not while an attempt of the run is under way."""
    guarded(lambda: _delete(run, names, console_on(sys.stdout), force=force))


def _list(run: str, console: Console, *, verify: bool) -> None:
    store = shelf.run_at(run)
    found = shelf.checkpoints(store)
    if not found:
        _say(console, f"{store.uri} has no checkpoints.")
        _say(console, "One is saved every spec.checkpoint.everySteps steps, at the end, and when a run is interrupted.")
        return
    problems = _problems(store, found, console) if verify else None
    console.print(_table(found, problems, console))
    for name, lines in (problems or {}).items():
        for line in lines:
            _say(console, f"{name}: {line}", "red")


def _verify(run: str, name: str, console: Console) -> None:
    store = shelf.run_at(run)
    found = shelf.checkpoints(store)
    if name or not found:
        found = [shelf.chosen(found, name or "latest", uri=store.uri)]
    problems = _problems(store, found, console)
    for each in found:
        if not problems[each.name]:
            _say(console, f"{each.name}: ok, {_contents(each)}")
    bad = [f"{each}: {line}" for each, lines in problems.items() for line in lines]
    if bad:
        raise data_error(
            "CheckpointDamaged",
            "\n".join(bad),
            "A run that resumes passes over it. Delete it (finetune checkpoints delete), or restore the file from a copy.",
        )


def _export(run: str, name: str, out: str, console: Console, *, merged: bool) -> None:
    store = shelf.run_at(run)
    checkpoint = shelf.chosen(shelf.checkpoints(store), name, uri=store.uri)
    with tempfile.TemporaryDirectory(prefix="finetune-export-") as folder, quiet(Path(folder) / "log") as terminal:
        console.file = terminal
        with console.status(Text(f"Exporting {checkpoint.name}"), spinner="line"):
            from finetune_training.checkpoint.extract import export as export_checkpoint

            artifact = export_checkpoint(store, checkpoint, out, merged=merged, staging=Path(folder))
        kind = "adapter" if artifact.format == "Adapter" else "whole model"
        files = wording.times(len(artifact.files), "file")
        _say(console, f"{checkpoint.name}: {kind}, {files}, {wording.size(artifact.bytes)}: {artifact.uri}")
        _say(console, f'Try it: finetune predict {artifact.uri} "Hello"', "cyan")


def _delete(run: str, names: list[str], console: Console, *, force: bool) -> None:
    gone, left = shelf.delete(shelf.run_at(run), names, force=force)
    for each in gone:
        _say(console, f"Deleted {each.name}, {wording.size(each.bytes)}.")
    _say(console, f"Left: {', '.join(each.name for each in left) or 'none'}.")


def _problems(store: Store, found: list[StoredCheckpoint], console: Console) -> Problems:
    problems: Problems = {}
    for each in found:
        with console.status(Text(f"Reading {each.name}, {wording.size(each.bytes)}"), spinner="line"):
            problems[each.name] = shelf.problems(store, each)
    return problems


def _table(found: list[StoredCheckpoint], problems: Problems | None, console: Console) -> Table:
    table = Table.grid(padding=(0, 3, 0, 0))
    heads = ("step", "attempt", "size", "age", "held-out loss", "verified")
    for head in heads:
        table.add_column(justify="left" if head == "verified" else "right", overflow="fold")
    table.add_row(*(Text(head, "dim") for head in heads))
    for each in found:
        table.add_row(str(each.step), str(each.turn), *_facts(each, console), _verdict(each, problems))
    return table


def _facts(checkpoint: StoredCheckpoint, console: Console) -> list[Text]:
    """Size, age, held-out loss: what only a manifest knows."""
    manifest = checkpoint.manifest
    unknown = Text(wording.printable("–", console.encoding), "dim")
    if isinstance(manifest, str):
        return [unknown] * 3
    loss = unknown
    if manifest.reached.score is not None:
        text = wording.printable(wording.loss(manifest.reached.score), console.encoding)
        loss = Text(f"best {text}", "green") if checkpoint.is_best else Text(text)
    return [Text(wording.size(manifest.bytes)), Text(wording.brief(time.time() - manifest.created)), loss]


def _verdict(checkpoint: StoredCheckpoint, problems: Problems | None) -> Text:
    if isinstance(checkpoint.manifest, str):
        return Text("damaged manifest", "red")
    if problems is None:
        return Text("not checked", "dim")
    bad = len(problems[checkpoint.name])
    return Text(f"{wording.times(bad, 'file')} damaged", "red") if bad else Text("ok", "green")


def _contents(checkpoint: StoredCheckpoint) -> str:
    files = 0 if isinstance(checkpoint.manifest, str) else len(checkpoint.manifest.files)
    return f"{wording.times(files, 'file')}, {wording.size(checkpoint.bytes)}"


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(wording.printable(text, console.encoding), style), soft_wrap=True)
