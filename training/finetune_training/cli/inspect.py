"""`finetune inspect` and `finetune validate --data`: a job is looked at before it runs.

In: a job's file and which rows are wanted. Out: sources, rows and checks on the terminal, perhaps a page; the exit code says
whether a check found an error. Neither Ray nor the model's weights are touched.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from finetune_training.contract.failure import user_error
from finetune_training.contract.spec import Job
from finetune_training.driver.environment import quiet
from finetune_training.store.located import located

if TYPE_CHECKING:
    from finetune_training.inspection.inspection import Inspection


@dataclass(frozen=True)
class Wanted:
    """`rows`: how many of each kind. `row`: one, by its place or its identity. `html`: a page's file."""

    rows: int
    row: str = ""
    html: Path | None = None


def inspect(job: Job, wanted: Wanted, console: Console) -> None:
    """Show it. Raises typer.Exit(1) when a check has found an error."""
    if wanted.html and wanted.html.is_dir():
        raise user_error("PageIsFolder", f"--html: {wanted.html} is a folder.", "Name a file, such as inspect.html.")
    job = located(job)
    with tempfile.TemporaryDirectory(prefix="finetune-inspect-") as folder, quiet(Path(folder) / "log") as terminal:
        console.file = terminal
        failed = _shown(job, wanted, console)
    if failed:
        raise typer.Exit(1)


def _shown(job: Job, wanted: Wanted, console: Console) -> bool:
    """Show what was found; whether something is wrong. What imports transformers is imported here, after `quiet`."""
    from finetune_training.model.fetch import default_cache, fetch_tokenizer
    from finetune_training.model.tokenizer import do_without_torch
    from finetune_training.preflight.findings import names_modules

    outlined = names_modules(job.spec) or job.spec.model.trust_remote_code
    if not outlined:
        do_without_torch()
    model = fetch_tokenizer(job.spec.model, cache=default_cache()).folder

    from finetune_training.inspection.page import render_page

    seen = (
        _one_row(job, model, wanted.row, console)
        if wanted.row
        else _all(job, model, wanted, console, outlined=outlined)
    )
    if wanted.html:
        wanted.html.write_text(render_page(seen, job=job.name), encoding="utf-8")
        console.print(f"\nPage: {wanted.html}", markup=False, soft_wrap=True)
    return seen.failed


def _all(job: Job, model: Path, wanted: Wanted, console: Console, *, outlined: bool) -> Inspection:
    from finetune_training.inspection.inspection import inspect as looked_at
    from finetune_training.inspection.terminal import show_inspection

    seen = looked_at(job.spec, model, rows=wanted.rows, outlined=outlined)
    show_inspection(seen, console)
    return seen


def _one_row(job: Job, model: Path, wanted: str, console: Console) -> Inspection:
    from finetune_training.inspection.inspection import Inspection
    from finetune_training.inspection.onerow import look_up
    from finetune_training.inspection.terminal import show_rows

    rows = tuple(look_up(job, model, wanted))
    show_rows(rows, console, whole=True)
    return Inspection((), rows, ())
