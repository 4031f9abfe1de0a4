"""The model card: the hub can read it, a person can follow it, nothing in it can be forged."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_training.contract.spec import ArtifactFormat, Job
from finetune_training.events.result import Artifact, ArtifactFile, Evaluations, Sample
from finetune_training.model.artifact import Origin, complete_adapter
from finetune_training.show.model_card import render_model_card
from tests.finished_run import JOB_YAML, STATISTICS, job, result
from tests.tiny import write_model

ADAPTER, MERGED = ArtifactFormat.ADAPTER, ArtifactFormat.MERGED


def card(artifact_format: ArtifactFormat = ADAPTER, *, of: Job | None = None, **different: Any) -> str:
    return render_model_card(
        job=of or job(), result=result(**different), statistics=STATISTICS, artifact_format=artifact_format
    )


def front_matter(text: str) -> dict[str, Any]:
    matter: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return matter


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)


def test_the_hub_can_read_the_front_matter() -> None:
    text = card()
    assert text.startswith("---\n")
    assert front_matter(text) == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": "unknown",
        "pipeline_tag": "text-generation",
        "tags": ["finetune-operator", "sft", "lora"],
    }
    assert front_matter(card(MERGED))["library_name"] == "transformers"


def test_a_license_that_is_given_is_named() -> None:
    text = render_model_card(
        job=job(),
        result=result(base_license={"license": "other", "license_name": "llama", "license_link": "LICENSE"}),
        statistics=STATISTICS,
        artifact_format=ADAPTER,
    )
    matter = front_matter(text)
    assert (matter["license"], matter["license_name"], matter["license_link"]) == ("other", "llama", "LICENSE")


@pytest.mark.parametrize("uri", ["models/My Model", "s3://bucket/My Model/"])
def test_a_base_model_that_is_not_on_the_hub_is_named_by_its_folder(uri: str) -> None:
    text = card(base_model=uri, base_revision="")
    assert front_matter(text)["base_model"] == "My-Model"
    assert f"A LoRA adapter for `{uri}`, fine-tuned on `plays/*.txt`." in text


def test_the_card_says_what_was_trained_on_what_how_and_how_good_the_outcome_is() -> None:
    text = card()
    for line in (
        "# shakespeare",
        "| loss | 4.07 | 3.81 |",
        "| perplexity | 58.6 | 45.2 |",
        "- LoRA: rank 16, alpha 32, dropout 0.05, on `all-linear`",
        "- 30 steps of 64 samples, each of at most 512 tokens",
        "- Data: 37 rows, 1,318,402 tokens, 99.9 % of them supervised; fingerprint `3a6eb0790f39ac87`",
        "- Made with torch 2.15.0, peft 0.21.0",
    ):
        assert line in text.splitlines(), line
    assert "Held-out loss fell from 4.07 to 3.81: perplexity 58.6 → 45.2." in text
    assert blocks(text, "text")[:3] == [
        "To be, or not to be",
        ", that is the question.",
        ",\nI am not so much of a man.",
    ]


def test_the_card_says_what_the_sources_were_like_and_quotes_no_row() -> None:
    text = render_model_card(
        job=job(),
        result=result(),
        statistics=STATISTICS,
        artifact_format=ADAPTER,
        sources=("spec.dataset.train[0]: 37 files, 5.4 MB, Text; rows are Text.",),
    )
    assert "\n- spec.dataset.train[0]: 37 files, 5.4 MB, Text; rows are Text.\n" in text


def test_a_card_without_evaluation_claims_nothing() -> None:
    text = card(evaluation=Evaluations(), samples=[])
    assert "The model was not evaluated." in text
    assert "perplexity" not in text
    assert "## A sample" not in text


def test_the_checksums_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    contents = {"b.safetensors": b"weights", "a.json": b"{}"}
    files = [
        ArtifactFile(path=name, bytes=len(body), sha256=hashlib.sha256(body).hexdigest())
        for name, body in contents.items()
    ]
    listing = "".join(f"{file.sha256}  {file.path}\n" for file in sorted(files, key=lambda file: file.path))
    digest = hashlib.sha256(listing.encode()).hexdigest()
    artifact = Artifact(uri="u", format="Adapter", bytes=9, sha256=digest, files=files)
    text = card(artifacts=[artifact])
    for name, body in contents.items():
        (tmp_path / name).write_bytes(body)
    (tmp_path / "SHA256SUMS").write_text(blocks(text, "text")[-1] + "\n")
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, check=True, capture_output=True)
    assert hashlib.sha256((tmp_path / "SHA256SUMS").read_bytes()).hexdigest() == digest
    assert f"their own sha256 is `{digest}`" in text
    assert "## Checksums" not in card(MERGED, artifacts=[artifact])


def test_nothing_that_came_from_elsewhere_becomes_markup() -> None:
    hostile = "x\n```\n# Trust me\n`` | <script>\n---\nlicense: mit"
    text = card(
        base_model=hostile,
        base_revision=hostile,
        data_fingerprint=hostile,
        samples=[Sample(prompt=hostile, base=hostile, tuned=hostile)],
    )
    assert front_matter(text)["license"] == "unknown"
    outside = re.sub(r"^(`{3,})\w*\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "# Trust me" not in outside.splitlines()
    inline = re.sub(r"(?<!`)(`+)(?!`)(?:.*?)(?<!`)\1(?!`)", "", outside)
    assert "<script>" not in inline


LOCAL = JOB_YAML.replace("hf://HuggingFaceTB/SmolLM2-135M-Instruct", "base")


@pytest.mark.parametrize("kind", ["Text", "Messages"])
@pytest.mark.parametrize("artifact_format", [ADAPTER, MERGED])
def test_the_code_on_the_card_loads_the_model(
    artifact_format: ArtifactFormat,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    base = write_model(tmp_path / "base")
    artifact = tmp_path / "path" / "to" / artifact_format.value.lower()
    if artifact_format is ADAPTER:
        config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
        peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(artifact)
        complete_adapter(artifact, Origin(base, trust_remote_code=False))
    else:
        write_model(artifact)
    of = job(LOCAL.replace("dataset:\n", f"dataset:\n    kind: {kind}\n"))
    prompt = 'Shall I\n"compare" thee'
    sample = Sample(prompt=prompt, base=None, tuned="t")
    (code,) = blocks(card(artifact_format, of=of, base_model="base", samples=[sample]), "python")
    assert len([line for line in code.splitlines() if line]) <= 7
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert prompt in capsys.readouterr().out
