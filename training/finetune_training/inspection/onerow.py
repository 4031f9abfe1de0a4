"""One row that a person asks for → how it is trained, and where the prepared data has it.

In: the job's sources and its run's folder, and a row's place or identity. Out: `Specimen`s. What the sources no longer have is
shown as it was prepared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_training.checkpoint.run_folder import read_resolution
from finetune_training.contract.failure import FinetuneError, user_error
from finetune_training.contract.spec import Job, RunSpec
from finetune_training.data.prepare import fingerprint, prepared
from finetune_training.data.shards import DataManifest
from finetune_training.data.specimens import specimen_of, specimens
from finetune_training.data.whereabouts import Whereabouts, whereabouts
from finetune_training.events.specimen import Specimen
from finetune_training.inspection.inspection import Subject
from finetune_training.model.tokenizer import digest, load_tokenizer
from finetune_training.sources.lookup import Found, find_rows, is_identity
from finetune_training.sources.sourcefiles import open_sources
from finetune_training.store.storage import Store, open_store

_PREPARED = "as it was prepared"


@dataclass(frozen=True)
class Shards:
    """A run's prepared data. `folder`: where shards of another machine are put."""

    store: Store
    data: DataManifest
    folder: Path

    def of(self, row: int) -> list[Whereabouts]:
        return whereabouts(self.store, self.data, row, cache=self.folder)


def look_up(job: Job, model: Path, wanted: str) -> list[Specimen]:
    """The rows that `wanted` names, as they are trained. `job` has absolute paths; `model`: its folder, perhaps without
    weights. Raises a User error when neither the sources nor the prepared data have such a row."""
    subject = _subject(job.spec, model, even_without_sources=is_identity(wanted))
    found = find_rows(subject.files, wanted)
    with tempfile.TemporaryDirectory(prefix="finetune-inspect-") as folder:
        shards = _shards(subject, job, Path(folder))
        if found:
            return [_shown(row, subject, shards) for row in found]
        if shards and (there := shards.of(int(wanted, 16))):
            return [_as_prepared(each, int(wanted, 16), subject) for each in there]
    where = "neither in the sources nor in the prepared data" if shards else "not in the sources"
    raise user_error(
        "NoSuchRow",
        f"A row with the identity {wanted} is {where}.",
        "It is a hash of the row's content: a row that was changed has another one. Name its place: FILE:LINE.",
    )


def _subject(spec: RunSpec, model: Path, *, even_without_sources: bool) -> Subject:
    tokenizer = load_tokenizer(model, trust_remote_code=spec.model.trust_remote_code)
    try:
        return Subject(spec, model, tokenizer, tuple(open_sources(spec.dataset)))
    except FinetuneError:
        if not even_without_sources:
            raise
        return Subject(spec, model, tokenizer, ())


def _shards(subject: Subject, job: Job, folder: Path) -> Shards | None:
    """The data that the run has prepared or found, if it has come so far."""
    run = open_store(job.spec.checkpoint.uri).child(job.path)
    resolution = read_resolution(run)
    name = (
        resolution.data_fingerprint
        if resolution
        else fingerprint(subject.spec, subject.files, tokenizer_digest=digest(subject.folder))
    )
    data = prepared(run.child("data"), name)
    return Shards(run.child("data", name), data, folder) if data else None


def _shown(found: Found, subject: Subject, shards: Shards | None) -> Specimen:
    kind = found.file.shape.kind.value
    if found.row is None:
        return Specimen(found.where, "", kind, 0, 0, (), ("dropped: it holds nothing",), dropped=True)
    (seen,) = specimens([found.row], subject.tokenizer, subject.options)
    there = shards.of(int(seen.identity, 16)) if shards else []
    return replace(seen, notes=(*seen.notes, *_places(seen, there, is_prepared=shards is not None)))


def _places(seen: Specimen, there: Sequence[Whereabouts], *, is_prepared: bool) -> tuple[str, ...]:
    """Where it was put, and whether it was put there as it is rendered now."""
    if not there:
        return ("not in the prepared data",) if is_prepared and not seen.dropped else ()
    ids = [token for piece in seen.pieces for token in piece.ids]
    differs = all(each.document.input_ids != ids for each in there)
    return (f"prepared: {there[0]}", *(["prepared with other tokens than it has now"] if differs else []))


def _as_prepared(place: Whereabouts, row: int, subject: Subject) -> Specimen:
    seen = specimen_of(place.document, subject.tokenizer, where=str(place), row=row, kind=_PREPARED)
    return replace(seen, notes=("no longer in the sources",))
