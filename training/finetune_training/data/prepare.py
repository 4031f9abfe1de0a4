"""Sources and a tokenizer → packed shards, their manifest and statistics; made once.

In: the spec, the run's `data` folder, the base model's folder. Out: a `DataManifest`. The folder below `data` is named by
a fingerprint of everything that decides what is in it: a second attempt, or a second run with the same data, finds it and
starts at once, without Ray and without torch. The manifest is written last.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_training.contract.dataset import DatasetSpec, Format, LossOn
from finetune_training.contract.failure import FailureClass, FinetuneError, classify, data_error
from finetune_training.contract.spec import RunSpec
from finetune_training.data.shards import MANIFEST, DataManifest, Histogram, Shard, Statistics
from finetune_training.events.progress import Event, Stage, StageStarted, Warned
from finetune_training.model.tokenizer import digest
from finetune_training.sources.sourcefiles import SourceFile, open_sources
from finetune_training.store.storage import Store

if TYPE_CHECKING:
    from finetune_training.data.documents import Preparation, Summary
    from finetune_training.data.samples import Bucket

DATA_FORMAT = 4
"""Raised when the same rows would give other shards than before."""
_BUCKET_BYTES = 64 * 2**20
_COMPRESSION = 4
"""Compressed files hold about so many times their size."""

Report = Callable[[Event], None]


def prepare(spec: RunSpec, *, store: Store, model_folder: Path, report: Report) -> DataManifest:
    """The run's data: found where an earlier attempt left it, or made now. Ray is up already, in the second case."""
    files = open_sources(spec.dataset)
    name = fingerprint(spec, files, tokenizer_digest=digest(model_folder))
    folder = store.child(name)
    surveys = dict.fromkeys(file.survey for file in files)
    for warning in (warning for survey in surveys for warning in survey.warnings):
        report(Warned(warning))
    if found := prepared(store, name):
        return found
    size = sum(file.file.size for file in files)
    report(StageStarted(Stage.PREPARING, f"{len(files)} files, {size / 2**20:,.1f} MiB"))
    try:
        manifest = _make(spec, files, folder, name, model_folder, report)
    except Exception as error:
        failure = classify(error)
        if type(error) is FinetuneError or failure.cls is FailureClass.UNKNOWN:
            raise
        raise FinetuneError(failure) from error  # Ray wraps what its tasks raise
    if not folder.create(MANIFEST, manifest.to_json()):
        return DataManifest.from_json(folder.get(MANIFEST) or manifest.to_json())  # another attempt was quicker
    return manifest


def prepared(store: Store, name: str) -> DataManifest | None:
    """The data of that fingerprint, when it is there whole."""
    text = store.child(name).get(MANIFEST)
    return None if text is None else DataManifest.from_json(text)


def fingerprint(spec: RunSpec, files: Sequence[SourceFile], *, tokenizer_digest: str) -> str:
    """A name for what the preparation gives: equal when the files, the spec's dataset and the tokenizer are."""
    decides = {
        "format": DATA_FORMAT,
        "files": [(file.file.uri, file.file.size, file.file.e_tag) for file in files],
        "dataset": spec.dataset.model_dump(mode="json"),
        "tokenizer": tokenizer_digest,
        "trustRemoteCode": spec.model.trust_remote_code,
        "trl": version("trl"),  # its training templates decide too
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _make(
    spec: RunSpec, files: Sequence[SourceFile], folder: Store, name: str, model_folder: Path, report: Report
) -> DataManifest:
    from finetune_training.data import pipeline
    from finetune_training.data.documents import Preparation
    from finetune_training.data.render import Options
    from finetune_training.data.samples import Packing
    from finetune_training.model.headers import embeddings_of
    from finetune_training.model.tokenizer import portable

    dataset = spec.dataset
    context = Preparation(
        files=tuple(files),
        tokenizer=portable(model_folder, trust_remote_code=spec.model.trust_remote_code),
        options=Options(dataset.max_length, dataset.loss_on, dataset.chat_template, dataset.chat_template_args),
        buckets=buckets_for(files),
        embeddings=embeddings_of(model_folder),
    )
    for notice in (*_try_first_rows(context), *_unused_keys(context)):
        report(Warned(notice))
    with pipeline.settings():
        documents = pipeline.tokenized(context)
        summary = pipeline.summarize(documents)
        for what, (count, where) in summary.lost.items():
            report(Warned(f"The chat template leaves out {what} in {count:,} rows ({where})."))
        border = _border(summary, dataset, report)
        uri = str(folder.folder or folder.uri)  # a relative path would mean another folder in another process
        buckets = pipeline.write(documents, context, Packing(uri, dataset.max_length, dataset.packing, border))
    manifest = _manifest(name, dataset, summary, buckets)
    return replace(manifest, question=_question(manifest, context))


def _try_first_rows(context: Preparation) -> list[str]:
    """A template that fails, or a tokenizer without an end, is found before Ray Data starts its processes. Returns what is to
    be said of the rows' templates."""
    from finetune_training.data.embeddings import refuse_unembedded
    from finetune_training.data.notices import notices
    from finetune_training.data.render import render

    firsts = []
    for shape in dict.fromkeys(file.shape for file in context.files):
        files = (file for file in context.files if file.shape == shape)
        rows = (file.convert(number, text) for file in files for number, text in file.rows())
        firsts += list(islice((row for row in rows if row is not None), 1))
    tokenizer = context.tokenizer.load()
    said = notices(firsts, tokenizer, context.options)
    refuse_unembedded(firsts, render(firsts, tokenizer, context.options), tokenizer, context.embeddings)
    return said


def _unused_keys(context: Preparation) -> list[str]:
    """What of the messages is not rendered is not learnt."""
    from finetune_training.chat.template import template_of

    surveys = [survey for survey in dict.fromkeys(file.survey for file in context.files) if survey.keys]
    if not surveys:
        return []
    template = template_of(context.tokenizer.load(), context.options.chat_template)
    return [warning for survey in surveys for warning in survey.key_warnings(template.text)]


def _border(summary: Summary, dataset: DatasetSpec, report: Report) -> int:
    """Rows with a hash below this are held out."""
    from finetune_training.data.samples import border_of

    if not summary.supervised_tokens or summary.lowest is None or summary.highest is None:
        raise _nothing_to_learn(summary, dataset)
    if dataset.validation.uri:
        return 0
    border = border_of(dataset.validation.fraction, lowest=summary.lowest, highest=summary.highest)
    if dataset.validation.fraction and border <= summary.lowest:
        report(Warned("All rows are the same: nothing is held out, and nothing will be evaluated."))
    return border


def buckets_for(files: Sequence[SourceFile]) -> int:
    """How many shards: decided by the sources' size alone, so that the same sources give the same shards."""
    size = sum(file.file.size * (_COMPRESSION if _is_compressed(file) else 1) for file in files)
    return max(1, -(-size // _BUCKET_BYTES))


def _is_compressed(file: SourceFile) -> bool:
    return file.format is Format.PARQUET or file.file.key.endswith(".gz")


def _manifest(name: str, dataset: DatasetSpec, summary: Summary, buckets: Sequence[Bucket]) -> DataManifest:
    train = [bucket.train for bucket in buckets if bucket.train]
    validation = [bucket.validation for bucket in buckets if bucket.validation]
    if not any(shard.supervised_tokens for shard in train):
        raise _nothing_to_learn(summary, dataset)
    lengths: dict[int, int] = {}
    for bucket in buckets:
        for length, count in bucket.lengths.items():
            lengths[length] = lengths.get(length, 0) + count
    statistics = Statistics(
        rows=summary.rows,
        dropped=summary.dropped,
        truncated=summary.truncated,
        split=summary.split,
        tokens=_sum(train + validation, "tokens"),
        supervised_tokens=_sum(train + validation, "supervised_tokens"),
        useful_token_ratio=_sum(train, "tokens") / (_sum(train, "samples") * dataset.max_length),
        lengths=histogram(lengths, dataset.max_length),
    )
    prompts = [prompt for bucket in buckets for prompt in bucket.prompts][:2]
    return DataManifest(name, dataset.max_length, train, validation, statistics, prompts, summary.conversations > 0)


def _question(data: DataManifest, context: Preparation) -> str:
    """What the user says in the first prompt, without what a chat template writes around it."""
    from finetune_training.chat.habits import asked_in
    from finetune_training.chat.template import template_of

    if not (data.chat and data.prompts):
        return next(iter(data.prompts), "")
    template = template_of(context.tokenizer.load(), context.options.chat_template, context.options.chat_template_args)
    return asked_in(data.prompts[0], template)


def _sum(shards: Sequence[Shard], field: str) -> int:
    return sum(getattr(shard, field) for shard in shards)


def histogram(lengths: dict[int, int], max_length: int) -> Histogram:
    """Bins that grow with the length: 1, 2, 3, 4, 6, 8, 12, … up to maxLength; in powers of two when that were too many."""
    powers = [2**power for power in range(max_length.bit_length())]
    halves = [] if max_length > 2**11 else [3 * power // 2 for power in powers[1:]]
    edges = [*sorted(edge for edge in powers + halves if edge <= max_length), max_length + 1]
    counts = [0] * (len(edges) - 1)
    for length, count in lengths.items():
        counts[bisect_right(edges, length) - 1] += count
    return Histogram(edges, counts)


def _nothing_to_learn(summary: Summary, dataset: DatasetSpec) -> FinetuneError:
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.dropped.items()) or "none"
    message = (
        f"Nothing can be learnt: of {summary.rows} rows none that trains has a supervised token (dropped: {reasons})."
    )
    if summary.cut_away:
        why = f"What is learnt lies past spec.dataset.maxLength ({dataset.max_length}) in {summary.cut_away} rows: raise it."
    elif dataset.loss_on is LossOn.ALL:
        why = "Check the sources: their rows are empty."
    else:
        why = f"spec.dataset.lossOn is {dataset.loss_on}, and no row has an assistant's turn or a completion: set lossOn: All."
    where, text = summary.example or ("", "")
    return data_error("NothingToLearn", message, why, detail=f"{where}:\n{text[:600]}" if text else "")
