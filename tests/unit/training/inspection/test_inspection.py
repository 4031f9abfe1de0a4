"""What is seen of a job before it runs, from the first rows alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from finetune_training.contract.spec import RunSpec
from finetune_training.inspection import inspection as inspections
from finetune_training.inspection.inspection import Inspection, first_rows, inspect, seen_in
from finetune_training.preflight.finding import Finding, Level
from finetune_training.sources.sourcefiles import open_sources
from tests.cli import write_rows
from tests.tiny import CHATML, VOCABULARY, write_tokenizer

CONFIG = {"model_type": "llama", "vocab_size": VOCABULARY, "max_position_embeddings": 2048, "eos_token_id": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tokenizer(tmp_path_factory.mktemp("model"))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def spec(*uris: str | Path, **dataset: Any) -> RunSpec:
    fields = {"train": [{"uri": str(uri)} for uri in uris], "maxLength": 64, **dataset}
    return RunSpec.model_validate({"model": {"uri": "m"}, "dataset": fields})


def looked_at(model: Path, given: RunSpec, rows: int = 3) -> Inspection:
    return inspect(given, model, rows=rows, outlined=False)


def check(seen: Inspection, name: str) -> Finding:
    return next(each for each in seen.checks if each.check == name)


def test_a_job_in_which_all_is_well_has_sources_rows_and_no_error(model: Path, tmp_path: Path) -> None:
    seen = looked_at(model, spec(write_rows(tmp_path / "rows.jsonl")))
    assert [source.source for source in seen.sources] == ["spec.dataset.train[0]"]
    assert [row.where for row in seen.rows] == [f"{tmp_path}/rows.jsonl:{line}" for line in (1, 2, 3)]
    assert not seen.failed
    assert {each.level for each in seen.checks} == {Level.OK}
    assert check(seen, "LoRA").message == "adapters on all linear layers."


def test_rows_come_by_turns_from_the_sources_of_each_kind(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl")
    write_rows(tmp_path / "b.jsonl", rows=1)
    (tmp_path / "c.txt").write_text("\none\ntwo\n")
    files = open_sources(spec(*(tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.txt"))).dataset)
    places = [row.where.rsplit("/", 1)[-1] for row in first_rows(files, 3)]
    assert places == ["a.jsonl:1", "b.jsonl:1", "a.jsonl:2", "c.txt:2", "c.txt:3"]


def test_no_more_is_read_than_is_shown(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("one\ntwo\n")
    files = open_sources(spec(tmp_path / "*.txt").dataset)
    os.remove(tmp_path / "c.txt")
    assert [row.where[-7:] for row in first_rows(files, 3)] == ["a.txt:1", "a.txt:2", "b.txt:1"]


def test_what_is_wrong_with_the_data_does_not_hide_what_is_wrong_with_the_job(model: Path, tmp_path: Path) -> None:
    seen = looked_at(model, spec(tmp_path / "none.jsonl", maxLength=9999))
    assert seen.failed
    assert (check(seen, "positions").level, check(seen, "data").level) == (Level.ERROR, Level.ERROR)
    error = check(seen, "data").error
    assert error is not None
    assert error.failure.reason == "NoFile"


def test_columns_and_keys_that_nothing_uses_are_warnings(model: Path, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "mood": "glad"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": messages, "score": 1}))
    seen = looked_at(model, spec(tmp_path / "rows.jsonl"))
    assert seen.sources[0].ignored == ("score",)
    assert (check(seen, "columns").level, check(seen, "keys").level) == (Level.WARNING, Level.WARNING)
    assert "'score'" in check(seen, "columns").message
    assert "'mood'" in check(seen, "keys").message


@pytest.mark.parametrize(
    ("fields", "name", "reason"),
    [
        ({"chatTemplate": "{% for m in messages %}{{ m.content }}{% endfor %}"}, "template", "NoEndOfTurn"),
        ({"chatTemplateArgs": {"nonsense": 1}}, "template", "ChatTemplateArgUnknown"),
        ({"chatTemplate": "{{ raise_exception('no') }}"}, "rows", "ChatTemplateFailed"),
    ],
)
def test_what_the_template_cannot_do_is_an_error_of_its_check(
    model: Path, tmp_path: Path, fields: dict[str, Any], name: str, reason: str
) -> None:
    seen = looked_at(model, spec(write_rows(tmp_path / "rows.jsonl"), **fields))
    error = check(seen, name).error
    assert error is not None
    assert error.failure.reason == reason


def test_rows_that_teach_nothing_are_a_warning(model: Path, tmp_path: Path) -> None:
    seen = looked_at(model, spec(write_rows(tmp_path / "rows.jsonl"), maxLength=16))
    assert check(seen, "rows").level is Level.WARNING
    assert "3 of the 3 rows" in check(seen, "rows").message


def test_without_rows_the_checks_are_the_same(model: Path, tmp_path: Path) -> None:
    given = spec(write_rows(tmp_path / "rows.jsonl"), chatTemplateArgs={"nonsense": 1})
    seen = looked_at(model, given, rows=0)
    assert seen.rows == ()
    assert [each.check for each in seen.checks] == [each.check for each in looked_at(model, given).checks]


def test_rows_of_the_validations_own_source_are_noted_and_kept_last(model: Path, tmp_path: Path) -> None:
    held_out = {"validation": {"uri": str(write_rows(tmp_path / "held.jsonl"))}}
    seen = looked_at(model, spec(write_rows(tmp_path / "rows.jsonl"), **held_out))
    assert [(row.where[-12:], row.notes) for row in seen.rows] == [
        ("rows.jsonl:1", ()),
        ("held.jsonl:1", ("held out",)),
        ("rows.jsonl:2", ()),
    ]
    assert [row.where[-12:] for row in seen_in(seen).rows] == ["rows.jsonl:1", "rows.jsonl:2"]


def test_a_run_keeps_two_short_rows_that_teach_something(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspections, "_LIMIT", 30)
    kept = seen_in(looked_at(model, spec(write_rows(tmp_path / "rows.jsonl"))))
    assert kept.sources == ("spec.dataset.train[0]: 1 file, 6.8 kB, JSONL; rows are Messages.",)
    assert len(kept.rows) == 2
    assert all(piece.ids == () for row in kept.rows for piece in row.pieces)
    assert any("characters …" in piece.text for piece in kept.rows[0].pieces)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [("Love? " * 100, "PromptTooLong"), ("half <|new|>", "TokensWithoutEmbeddings"), ("why?", "")],
)
def test_a_prompt_of_the_job_that_cannot_be_asked_is_told_before_anything_is_trained(
    tmp_path: Path, prompt: str, reason: str
) -> None:
    folder = write_tokenizer(tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<|new|>", special=True), AddedToken("<image>", special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({**CONFIG, "max_position_embeddings": 64}))
    given = spec(write_rows(tmp_path / "rows.jsonl"))
    given.evaluation.prompts.extend(["why?", prompt])
    finding = check(looked_at(folder, given), "prompts")
    assert (finding.error.failure.reason if finding.error else "") == reason
    assert finding.message.startswith("spec.evaluation.prompts[1]: " if reason else "2, all of which can be asked")


def test_a_prompt_on_which_the_jobs_own_template_fails_is_told(model: Path, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    template = (
        CHATML + "{% if add_generation_prompt and messages[0].content == 'x' %}{{ raise_exception('no') }}{% endif %}"
    )
    given = spec(tmp_path / "rows.jsonl", chatTemplate=template)
    given.evaluation.prompts.append("x")
    finding = check(looked_at(model, given), "prompts")
    assert finding.error is not None
    assert (finding.level, finding.error.failure.reason) == (Level.ERROR, "ChatTemplateFailed")
