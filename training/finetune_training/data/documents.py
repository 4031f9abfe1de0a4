"""Rows → documents: the tokens of a block of rows as an Arrow table, and a summary of what became of them.

In: rows as JSON with their place (a block that Ray Data has read). Out: one table row per document with the identity of
the row it comes from, so that everything after this depends on content alone and not on the order of the blocks; and one
last table row that holds the block's `Summary`, so that a block that Ray computes again is not counted twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, pairwise

import numpy as np
import pyarrow as pa

from finetune_training.data.embeddings import refuse_unembedded
from finetune_training.data.render import Options, Outcome, render
from finetune_training.data.shards import IGNORE
from finetune_training.model.tokenizer import Portable
from finetune_training.sources.rows import EMPTY, Messages, Row, identity
from finetune_training.sources.sourcefiles import SourceFile

ROWS = pa.schema([("file", pa.int32()), ("number", pa.int64()), ("row", pa.large_string())])
"""A row of a file: its index in the list of files, its number there, its JSON."""
DOCUMENTS = pa.schema(
    [
        ("row_id", pa.uint64()),
        ("piece", pa.int32()),
        ("bucket", pa.int32()),
        ("held_out", pa.bool_()),
        ("prompt", pa.int32()),
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("summary", pa.string()),
    ]
)
"""`row_id`: 64 bits of a hash of the row's content. `piece`: of a row that was split. `prompt`: how many tokens ask."""
ROW_ID_BITS = 64
_AT_ONCE = 2**20
"""Python's lists are ten times as large as Arrow's: so much text, in characters, is in lists at a time."""


@dataclass(frozen=True)
class Preparation:
    """All that a task of data preparation needs to know. `embeddings`: for how many tokens the model has some, None where nobody
    says."""

    files: tuple[SourceFile, ...]
    tokenizer: Portable
    options: Options
    buckets: int
    embeddings: int | None = None


@dataclass(frozen=True)
class Summary:
    """What became of some rows. `lowest`, `highest`: identities of those that may train. `cut_away`: how many were
    dropped because what is learnt lay past maxLength. `example`: where such a row is, and its text. `lost`: what chat
    templates left out, in how many rows and where first."""

    rows: int = 0
    conversations: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    truncated: int = 0
    split: int = 0
    supervised_tokens: int = 0
    cut_away: int = 0
    lowest: int | None = None
    highest: int | None = None
    example: tuple[str, str] | None = None
    lost: dict[str, tuple[int, str]] = field(default_factory=dict)

    def __add__(self, other: Summary) -> Summary:
        reasons = {*self.dropped, *other.dropped}
        return Summary(
            rows=self.rows + other.rows,
            conversations=self.conversations + other.conversations,
            dropped={reason: self.dropped.get(reason, 0) + other.dropped.get(reason, 0) for reason in sorted(reasons)},
            truncated=self.truncated + other.truncated,
            split=self.split + other.split,
            supervised_tokens=self.supervised_tokens + other.supervised_tokens,
            cut_away=self.cut_away + other.cut_away,
            lowest=min((each for each in (self.lowest, other.lowest) if each is not None), default=None),
            highest=max((each for each in (self.highest, other.highest) if each is not None), default=None),
            example=min((each for each in (self.example, other.example) if each), default=None),
            lost=_lost([*self.lost.items(), *other.lost.items()]),
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Summary:
        body = json.loads(text)
        lost = {what: tuple(found) for what, found in body["lost"].items()}
        return cls(**{**body, "example": tuple(body["example"]) if body["example"] else None, "lost": lost})


def tokenize(table: pa.Table, context: Preparation) -> pa.Table:
    """The documents of a block (ROWS → DOCUMENTS). The last row is the summary."""
    pieces, whole = [], Summary()
    for part in _parts(table):
        documents, summary = _tokenize(part, context)
        pieces.append(documents)
        whole += summary
    last = {"row_id": [0], "piece": [0], "bucket": [0], "held_out": [False], "prompt": [0], "input_ids": [[]]}
    last |= {"labels": [[]], "summary": [whole.to_json()]}
    return pa.concat_tables([*pieces, pa.table(last, DOCUMENTS)])


def summary_of(table: pa.Table) -> Summary:
    """The sum of the summaries in a table of documents."""
    return sum(map(Summary.from_json, table.column("summary").drop_null().to_pylist()), Summary())


def _parts(table: pa.Table) -> Iterator[pa.Table]:
    sizes = np.fromiter((len(row.as_py() or "") for row in table.column("row")), np.int64, table.num_rows)
    group = np.cumsum(sizes) // _AT_ONCE
    borders = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), table.num_rows]
    for start, stop in pairwise(borders):
        yield table.slice(start, stop - start)


def _tokenize(table: pa.Table, context: Preparation) -> tuple[pa.Table, Summary]:
    tokenizer = context.tokenizer.load()
    places = zip(*(table.column(name).to_pylist() for name in ROWS.names), strict=True)
    converted = [(context.files[file], context.files[file].convert(number, row)) for file, number, row in places]
    kept = [(file, row) for file, row in converted if row is not None]
    rows = [row for _, row in kept]
    identities = [
        identity(row) for row in rows
    ]  # first: what is no text is told by it, and the tokenizer would stumble
    outcomes = render(rows, tokenizer, context.options)
    refuse_unembedded(rows, outcomes, tokenizer, context.embeddings)
    held_out = [file.held_out for file, _ in kept]
    documents = _table(outcomes, identities, held_out, context.buckets)
    empty = {EMPTY: len(converted) - len(rows)} if len(rows) < len(converted) else {}
    labels = documents.column("labels").combine_chunks().flatten().to_numpy()
    read = Summary(rows=len(converted), dropped=empty, supervised_tokens=int((labels != IGNORE).sum()))
    return documents, read + _summary(rows, outcomes, identities, held_out)


def _table(outcomes: list[Outcome], identities: list[int], held_out: list[bool], buckets: int) -> pa.Table:
    found = [
        (identity, piece, identity * buckets >> ROW_ID_BITS, held, document.prompt, document)
        for outcome, identity, held in zip(outcomes, identities, held_out, strict=True)
        for piece, document in enumerate(outcome.documents)
    ]
    columns = list(zip(*found, strict=True)) or [()] * 6
    arrays = [pa.array(column, DOCUMENTS.field(place).type) for place, column in enumerate(columns[:5])]
    tokens = [
        _lists([document.input_ids for document in columns[5]]),
        _lists([document.labels for document in columns[5]]),
    ]
    return pa.table([*arrays, *tokens, pa.nulls(len(found), pa.string())], schema=DOCUMENTS)


def _lists(lists: Sequence[list[int]]) -> pa.Array:
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int32)
    values = np.fromiter(chain.from_iterable(lists), np.int32, int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _summary(rows: list[Row], outcomes: list[Outcome], identities: list[int], held_out: list[bool]) -> Summary:
    dropped: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.dropped:
            dropped[outcome.dropped] = dropped.get(outcome.dropped, 0) + 1
    may_train = [
        each
        for each, held, outcome in zip(identities, held_out, outcomes, strict=True)
        if outcome.documents and not held
    ]
    lost = [(row.where, outcome.shown) for row, outcome in zip(rows, outcomes, strict=True) if outcome.dropped]
    return Summary(
        conversations=sum(isinstance(row, Messages) for row in rows),
        dropped=dropped,
        truncated=sum(outcome.truncated for outcome in outcomes if outcome.documents),
        split=sum(len(outcome.documents) > 1 for outcome in outcomes),
        cut_away=sum(outcome.truncated for outcome in outcomes if outcome.dropped),
        lowest=min(may_train, default=None),
        highest=max(may_train, default=None),
        example=min(lost, default=None),
        lost=_lost(
            [(what, (1, row.where)) for row, outcome in zip(rows, outcomes, strict=True) for what in outcome.lost]
        ),
    )


def _lost(found: Iterable[tuple[str, tuple[int, str]]]) -> dict[str, tuple[int, str]]:
    """Counts of the same, added up, each with the first of its places."""
    whole: dict[str, tuple[int, str]] = {}
    for what, (count, where) in found:
        before, first = whole.get(what, (0, where))
        whole[what] = (before + count, min(first, where))
    return dict(sorted(whole.items()))
