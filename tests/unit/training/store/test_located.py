"""A job's paths, made absolute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_training.contract.failure import FinetuneError
from finetune_training.contract.spec import Job
from finetune_training.store.located import located


def job(**changes: Any) -> Job:
    spec = {"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d/*.jsonl"}]}, **changes}
    return Job.model_validate({"name": "run", "spec": spec})


@pytest.mark.parametrize(("uri", "there"), [("old", "{here}/old"), ("s3://b/runs/old", "s3://b/runs/old"), ("", "")])
def test_another_runs_folder_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, there: str
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = located(job(checkpoint={"resumeFrom": {"uri": uri}, "keep": 3})).spec
    assert spec.checkpoint.resume_from.uri == there.format(here=tmp_path)
    assert spec.checkpoint.keep == 3


def test_local_paths_are_made_absolute_and_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = [{"uri": "out", "format": "Merged"}, {"uri": "s3://b/out", "format": "Adapter"}, {"format": "Adapter"}]
    spec = located(job(output=outputs)).spec
    assert spec.model.uri == str(tmp_path / "m")
    assert spec.dataset.train[0].uri == str(tmp_path / "d" / "*.jsonl")
    assert [output.uri for output in spec.output] == [str(tmp_path / "out"), "s3://b/out", ""]


@pytest.mark.parametrize(
    "outputs",
    [
        [{"uri": "./m/", "format": "Adapter"}],
        [{"uri": "out", "format": "Adapter"}, {"uri": "x/../out", "format": "Merged"}],
        [{"uri": "link", "format": "Merged"}],
    ],
)
def test_an_output_never_replaces_the_base_model_or_another_output(
    outputs: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "m")
    with pytest.raises(FinetuneError) as raised:
        located(job(output=outputs))
    assert raised.value.failure.reason == "OutputOverwrites"
