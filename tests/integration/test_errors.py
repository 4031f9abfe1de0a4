"""What a user reads when something is wrong: class, place, remedy, exit code; never a traceback."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli import finetune, write_job, write_rows
from tests.servers.s3 import S3Server
from tests.tiny import write_model, write_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "llama", "llama")


@pytest.fixture(scope="module")
def plain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a chat template."""
    folder = write_model(tmp_path_factory.mktemp("plain") / "llama", "llama")
    (folder / "chat_template.jinja").unlink()
    return folder


def fails(folder: Path, job: Path, *arguments: str, code: int, says: list[str], **changes: str) -> str:
    ended = finetune(folder, "run", str(job), *arguments, **changes)
    text = " ".join(ended.output.split())
    assert ended.code == code, ended.output
    assert "Traceback" not in ended.output
    for words in says:
        assert words in text, ended.output
    return ended.output


def test_a_misspelt_field_is_answered_with_the_nearest_name_and_the_line(model: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path, model=model, data=write_rows(tmp_path / "rows.jsonl"), training={"learningrate": 1})
    line = next(number for number, text in enumerate(job.read_text().splitlines(), 1) if "learningrate" in text)
    fails(
        tmp_path,
        job,
        code=2,
        says=["User · InvalidJob", f":{line}:", "spec.training.learningrate", "did you mean learningRate?"],
    )


def test_a_job_file_that_is_not_there(tmp_path: Path) -> None:
    fails(tmp_path, tmp_path / "no.yaml", code=2, says=["User · FileNotFound", "no.yaml"])


def test_a_missing_data_file(model: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl")
    job = write_job(tmp_path, model=model, data=tmp_path / "row.jsonl")
    fails(tmp_path, job, code=3, says=["Data ·", "row.jsonl", "rows.jsonl"])


@pytest.mark.slow
def test_an_empty_data_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    fails(
        tmp_path,
        write_job(tmp_path, model=model, data=tmp_path / "rows.jsonl"),
        code=3,
        says=["Data ·", "rows.jsonl", "no row"],
    )


def test_broken_json_is_named_by_its_line(model: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl")
    lines = path.read_text().splitlines()
    lines[41] = lines[41][:-5]
    path.write_text("\n".join(lines))
    job = write_job(tmp_path, model=model, data=path)
    output = fails(tmp_path, job, code=3, says=["Data · BrokenJSON", "rows.jsonl:42:", "It is 82"])
    failure = json.loads((tmp_path / "runs" / "tiny" / "attempts" / "1" / "failure.json").read_text())
    assert failure["class"] == "Data"
    assert "driver.log" in output


@pytest.mark.slow
def test_a_wrong_column_lists_the_columns_there_are(model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer\nWhy?,Because.\n")
    job = write_job(
        tmp_path,
        model=model,
        data=tmp_path / "rows.csv",
        dataset={"columns": {"prompt": "query", "completion": "answer"}},
    )
    fails(tmp_path, job, code=3, says=["query", "'question', 'answer'", "spec.dataset.columns"])


@pytest.mark.slow
def test_messages_for_a_model_without_a_template(plain_model: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path, model=plain_model, data=write_rows(tmp_path / "rows.jsonl"))
    fails(tmp_path, job, code=2, says=["User ·", "chat template", "spec.dataset.chatTemplate"])


@pytest.mark.slow
def test_a_template_that_jinja_cannot_read(model: Path, tmp_path: Path) -> None:
    job = write_job(
        tmp_path,
        model=model,
        data=write_rows(tmp_path / "rows.jsonl"),
        dataset={"chatTemplate": "{% for m in messages %}{{ m.content }}"},
    )
    fails(tmp_path, job, code=2, says=["User ·", "spec.dataset.chatTemplate"])


def test_a_model_folder_without_a_tokenizer(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((model / name).read_bytes())
    fails(
        tmp_path,
        write_job(tmp_path, model=folder, data=write_rows(tmp_path / "rows.jsonl")),
        code=2,
        says=["User ·", "tokenizer"],
    )


def test_a_folder_with_a_tokenizer_but_no_model(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "model")
    fails(
        tmp_path,
        write_job(tmp_path, model=folder, data=write_rows(tmp_path / "rows.jsonl")),
        code=2,
        says=["User ·", "config.json"],
    )


def test_samples_longer_than_the_models_context(model: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path, model=model, data=write_rows(tmp_path / "rows.jsonl"), dataset={"maxLength": 100_000})
    fails(tmp_path, job, code=2, says=["User · SamplesTooLong", "maxLength: 100000", "or less"])


def test_a_batch_that_cannot_be_divided(model: Path, tmp_path: Path) -> None:
    job = write_job(
        tmp_path,
        model=model,
        data=write_rows(tmp_path / "rows.jsonl"),
        training={"globalBatchSize": 7, "microBatchSize": 2},
    )
    fails(tmp_path, job, "--workers", "2", code=2, says=["User · BatchNotDivisible", "globalBatchSize", "4 or 8"])


def test_a_store_that_cannot_be_written(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    job = write_job(
        tmp_path,
        model=model,
        data=write_rows(tmp_path / "rows.jsonl"),
        checkpoint={"uri": str(tmp_path / "file" / "runs")},
    )
    fails(tmp_path, job, code=2, says=["User · StoreUnwritable", "checkpoint.uri"])


def test_wrong_s3_credentials(model: Path, s3: S3Server, s3_prefix: str, tmp_path: Path) -> None:
    job = write_job(
        tmp_path, model=model, data=write_rows(tmp_path / "rows.jsonl"), checkpoint={"uri": f"{s3_prefix}/runs"}
    )
    wrong = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "wrong"}
    fails(tmp_path, job, code=2, says=["User · StoreAccessDenied", s3_prefix, "AWS_ACCESS_KEY_ID"], **wrong)


@pytest.mark.slow
def test_an_unknown_training_argument(model: Path, tmp_path: Path) -> None:
    job = write_job(
        tmp_path, model=model, data=write_rows(tmp_path / "rows.jsonl"), training={"extra": {"weight_decai": 0.1}}
    )
    fails(tmp_path, job, code=2, says=["User · InvalidExtra", "weight_decai", "weight_decay"])


@pytest.mark.slow
def test_nothing_to_learn_shows_a_row(model: Path, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"Only a question, number {n}."}]} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    job = write_job(tmp_path, model=model, data=tmp_path / "rows.jsonl")
    fails(tmp_path, job, code=3, says=["Data ·", "assistant", "Only a question"])


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint(model: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    changes: dict[str, Any] = {
        "checkpoint": {"uri": str(disk), "everySteps": 1, "keep": 1000},
        "training": {"maxSteps": 40},
    }
    job = write_job(tmp_path, model=model, data=write_rows(tmp_path / "rows.jsonl"), **changes)
    run = [sys.executable, "-c", "from finetune_training.cli.main import main; main()", "run", str(job)]
    keep = f"{shlex.join(run)}; code=$?; ls {disk}/tiny/checkpoints/*/manifest.json; exit $code"
    script = f"mount -t tmpfs -o size=4m tmpfs {disk} && {{ {keep}; }}"
    ended = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=240,
        check=False,
    )
    text = ended.stdout + ended.stderr
    assert ended.returncode == 5, text
    assert "Infrastructure · DiskFull" in text
    assert "manifest.json" in text
