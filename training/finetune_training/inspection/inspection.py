"""A job → what there is to see of it before it runs.

In: a job, and which rows are wanted. Out: an `Inspection`: its sources, some rows as they are trained, and what the checks have
found, all from the first rows, the tokenizer and the config. A check that fails does not hide the others. Knows neither Ray
nor a model's weights: `finetune inspect`, `finetune validate --data` and every run before it starts Ray ask here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from finetune_training.contract.dataset import DatasetSpec, RowKind
from finetune_training.contract.failure import FinetuneError
from finetune_training.contract.spec import RunSpec
from finetune_training.data.render import Options
from finetune_training.data.specimens import specimens
from finetune_training.events.progress import Inspected
from finetune_training.events.specimen import Specimen
from finetune_training.inspection.promptchecks import check_prompts
from finetune_training.inspection.rowchecks import check_rows, check_sources, check_templates
from finetune_training.inspection.sentences import sentence_of
from finetune_training.model.tokenizer import load_tokenizer
from finetune_training.preflight.finding import Finding, Level, wrong
from finetune_training.preflight.findings import findings
from finetune_training.sources.overview import Overview, overviews
from finetune_training.sources.rows import Row
from finetune_training.sources.sourcefiles import SourceFile, open_sources, sample

ROWS: Final = 3
"""So many rows of each kind are shown unless another number is asked for."""
_KEPT: Final = 2
"""So many rows are kept with a run,"""
_LIMIT: Final = 1_500
"""and of each so many characters."""
_HELD_OUT: Final = "held out"
"""Of rows of the validation's own source. Which other rows are held out is known when all are prepared."""


@dataclass(frozen=True)
class Inspection:
    """`rows`: as they are trained, first those of the first kind."""

    sources: tuple[Overview, ...]
    rows: tuple[Specimen, ...]
    checks: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        return any(check.level is Level.ERROR for check in self.checks)


@dataclass(frozen=True)
class Subject:
    """What is looked at: the model's folder (its weights need not be there), its tokenizer, the files of the sources."""

    spec: RunSpec
    folder: Path
    tokenizer: Any
    files: tuple[SourceFile, ...]

    @property
    def options(self) -> Options:
        return options_of(self.spec.dataset)


def options_of(dataset: DatasetSpec) -> Options:
    """How the job's rows become tokens."""
    return Options(dataset.max_length, dataset.loss_on, dataset.chat_template, dataset.chat_template_args)


def inspect(spec: RunSpec, folder: Path, *, rows: int = ROWS, outlined: bool = True) -> Inspection:
    """Look at a job whose paths are absolute, and whose tokenizer and config are in `folder`. `rows`: how many of each kind.
    Raises a User error for a tokenizer or a config that cannot be read."""
    tokenizer = load_tokenizer(folder, trust_remote_code=spec.model.trust_remote_code)
    checks = findings(folder, spec, tokenizer=tokenizer, outlined=outlined)
    try:
        files = open_sources(spec.dataset)
    except FinetuneError as error:
        return Inspection((), (), (*checks, wrong("data", error)))
    subject = Subject(spec, folder, tokenizer, tuple(files))
    shown, found = _looked_at(subject, rows)
    chat = any(file.shape.kind is RowKind.MESSAGES for file in files)
    asked = check_prompts(spec, folder, tokenizer, chat=chat)
    return Inspection(tuple(overviews(files)), shown, (*checks, *check_sources(files), *found, *asked))


def _looked_at(subject: Subject, count: int) -> tuple[tuple[Specimen, ...], list[Finding]]:
    """The first rows as they are trained, and what they show. One row of each kind is looked at even where none is shown."""
    try:
        rows = first_rows(subject.files, max(1, count))
        found = check_templates(sample(subject.files), subject.files, subject.tokenizer, subject.options)
        if any(check.error for check in found):
            return (), found
        seen = specimens(rows, subject.tokenizer, subject.options)
    except FinetuneError as error:
        return (), [wrong("rows", error)]
    noted = _noted(seen, subject.files)
    return tuple(noted if count else ()), [*found, *check_rows(seen)]


def _noted(rows: Sequence[Specimen], files: Sequence[SourceFile]) -> list[Specimen]:
    """The rows, those of the validation's own source noted as such."""
    held_out = tuple(f"{file.file.uri}{then}" for file in files if file.held_out for then in (":", ", row "))
    return [replace(row, notes=(*row.notes, _HELD_OUT)) if row.where.startswith(held_out) else row for row in rows]


def seen_in(inspection: Inspection) -> Inspected:
    """What a run tells and keeps of it: its report shows these rows, those that train first."""
    teaching = sorted((row for row in inspection.rows if not row.dropped), key=lambda row: _HELD_OUT in row.notes)
    rows = tuple(row.shortened(_LIMIT) for row in (teaching or inspection.rows)[:_KEPT])
    return Inspected(tuple(map(sentence_of, inspection.sources)), rows)


def first_rows(files: Sequence[SourceFile], count: int) -> list[Row]:
    """The first `count` rows of each kind that are not empty, by turns from the sources that have the kind."""
    kinds = dict.fromkeys(file.shape.kind for file in files)
    return [row for kind in kinds for row in _of_kind([file for file in files if file.shape.kind is kind], count)]


def _of_kind(files: Sequence[SourceFile], count: int) -> list[Row]:
    sources = dict.fromkeys(file.survey.source for file in files)
    turns = [_rows([file for file in files if file.survey.source == source], count) for source in sources]
    return list(islice(_by_turns(turns), count))


def _rows(files: Sequence[SourceFile], count: int) -> Iterator[Row]:
    """Not more than `count`, so that nothing is read that is not shown."""
    for file in files:
        with closing(file.rows()) as texts:
            found = (file.convert(number, text) for number, text in texts)
            for row in islice((row for row in found if row is not None), count):
                yield row
                count -= 1
        if count <= 0:
            return


def _by_turns(sources: Sequence[Iterator[Row]]) -> Iterator[Row]:
    waiting = list(sources)
    while waiting:
        for source in list(waiting):
            if (row := next(source, None)) is None:
                waiting.remove(source)
            else:
                yield row
