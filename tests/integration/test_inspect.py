"""`finetune inspect` and `finetune validate --data` as their user runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_training.store.storage import Store
from tests.cli import environment, finetune, write_job, write_rows
from tests.servers.hub import Hub
from tests.tiny import VOCABULARY, write_tokenizer

CONFIG = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
    "eos_token_id": 0,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
HEAVY = ("torch", "ray", "deepspeed", "peft", "trl", "datasets", "matplotlib")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder of which only what is small is there."""
    folder = write_tokenizer(tmp_path_factory.mktemp("model"))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def write_hostile(path: Path) -> Path:
    messages = [
        {"role": "user", "content": "<script>alert(1)</script>"},
        {"role": "assistant", "content": "<b>No.</b>"},
    ]
    path.write_text(json.dumps({"messages": messages, "score": 5}) + "\n")
    return path


def test_what_will_be_trained_is_shown_on_the_terminal_and_as_a_page(model: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path, model=model, data=write_hostile(tmp_path / "rows.jsonl"))
    ended = finetune(tmp_path, "inspect", str(job), "--html", "page.html")
    assert ended.code == 0, ended.output
    assert "columns: messages; ignored: score" in ended.output
    assert "⟦<b>No.</b><|im_end|>⟧" in ended.output
    assert "Warning  columns" in ended.output
    page = (tmp_path / "page.html").read_text()
    assert "<mark>" in page
    assert "<script" not in page
    assert not (tmp_path / "runs").exists()


def test_one_row_is_found_by_its_place_and_by_its_identity(model: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path, model=model, data=write_rows(tmp_path / "rows.jsonl"))
    by_place = finetune(tmp_path, "inspect", str(job), "--row", "rows.jsonl:42")
    assert by_place.code == 0, by_place.output
    assert "⟦It is 82.<|im_end|>⟧" in by_place.output
    assert "Checks" not in by_place.output
    wanted = by_place.output.split("row ")[1].split(" ")[0]
    assert finetune(tmp_path, "inspect", str(job), "--row", wanted).output == by_place.output


def test_validate_with_data_makes_the_same_checks_without_rows(model: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path, model=model, data=write_hostile(tmp_path / "rows.jsonl"), dataset={"maxLength": 9999})
    ended = finetune(tmp_path, "validate", str(job), "--data")
    assert ended.code == 1, ended.output
    assert "DeepSpeed config" in ended.output
    assert "Error    positions" in ended.output
    assert "ignored: score" in ended.output
    assert "alert" not in ended.output


def test_looking_at_a_job_imports_neither_torch_nor_ray(model: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path, model=model, data=write_rows(tmp_path / "rows.jsonl"))
    script = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('loaded', [name for name in {HEAVY} if sys.modules.get(name)]))\n"
        "from finetune_training.cli.main import main; main()"
    )
    words = [sys.executable, "-c", script, "inspect", str(job)]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_rows_in_s3_and_a_model_on_the_hub_are_looked_at_without_its_weights(
    model: Path, hub: Hub, s3_prefix: str, tmp_path: Path
) -> None:
    published = shutil.copytree(model, tmp_path / "published")
    (published / "model.safetensors").write_bytes(bytes(1 << 20))
    hub.publish("someone/tiny", published)
    Store(s3_prefix).put("rows.jsonl", write_hostile(tmp_path / "rows.jsonl").read_bytes())
    (tmp_path / "rows.jsonl").unlink()
    job = write_job(tmp_path, model="hf://someone/tiny", data=f"{s3_prefix}/rows.jsonl")
    ended = finetune(tmp_path, "inspect", str(job), HF_HOME=str(tmp_path / "cache"))
    assert ended.code == 0, ended.output
    assert f"{s3_prefix}/rows.jsonl" in ended.output
    assert "ignored: score" in ended.output
    assert "⟦<b>No.</b><|im_end|>⟧" in ended.output
    assert [asked for asked in hub.requests if "safetensors" in asked] == []
    by_row = finetune(tmp_path, "inspect", str(job), "--row", "rows.jsonl:1", HF_HOME=str(tmp_path / "cache"))
    assert "⟦<b>No.</b><|im_end|>⟧" in by_row.output, by_row.output


def test_what_the_first_rows_tell_is_told_before_ray_starts(model: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl")
    path.write_text(path.read_text().replace('"role": "user"', '"rolle": "user"', 1))
    job = write_job(tmp_path, model=model, data=path)
    ended = finetune(tmp_path, "run", str(job))
    assert ended.code == 3, ended.output
    assert "rows.jsonl:1" in ended.output
    attempt = tmp_path / "runs" / "tiny" / "attempts" / "1"
    notes = [json.loads(line).get("note") for line in (attempt / "metrics.jsonl").read_text().splitlines()]
    assert "a look at the data" in notes
    assert "starting Ray" not in notes
