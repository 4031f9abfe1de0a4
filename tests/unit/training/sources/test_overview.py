"""What a person is told of a source."""

from __future__ import annotations

from pathlib import Path

from finetune_training.contract.dataset import DatasetSpec, Format, RowKind
from finetune_training.sources.overview import overviews
from finetune_training.sources.sourcefiles import open_sources


def test_a_source_is_told_by_its_files_its_kind_and_its_columns(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "q", "completion": "a", "id": 1}\n')
    (tmp_path / "b.jsonl").write_text('{"prompt": "q", "completion": "b", "id": 2}\n')
    (tmp_path / "held.txt").write_text("one\n\ntwo\n")
    dataset = DatasetSpec.model_validate(
        {
            "train": [{"uri": f"{tmp_path}/*.jsonl"}],
            "validation": {"uri": f"{tmp_path}/held.txt", "sampleBy": "Paragraph"},
        }
    )
    first, second = overviews(open_sources(dataset))
    assert (first.source, first.files, first.bytes) == ("spec.dataset.train[0]", 2, 88)
    assert (first.formats, first.kind, first.row) == ((Format.JSONL,), RowKind.PROMPT_COMPLETION, "")
    assert (first.used, first.ignored) == (("prompt", "completion"), ("id",))
    assert first.first.endswith("/a.jsonl")
    assert (second.source, second.held_out, second.kind, second.row) == (
        "spec.dataset.validation",
        True,
        RowKind.TEXT,
        "a paragraph",
    )
