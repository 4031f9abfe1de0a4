"""A run as it looks when it is over, made up: what report, model card and terminal are tested with.

In: what should be different. Out: a job, a result, statistics and the lines of `metrics.jsonl`, as a real run of thirty
steps would leave them.
"""

from __future__ import annotations

import math
import random
from typing import Any

from finetune_training.contract.jobfile import parse_job
from finetune_training.contract.spec import Job
from finetune_training.data.shards import Histogram, Statistics
from finetune_training.events.progress import CheckpointSaved, Evaluated, Event, Step, as_record
from finetune_training.events.result import Artifact, ArtifactFile, Evaluations, RunResult, Sample, Scores

JOB_YAML = """\
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: shakespeare}
spec:
  model: {uri: "hf://HuggingFaceTB/SmolLM2-135M-Instruct"}
  dataset:
    train: [{uri: "plays/*.txt", sampleBy: Document}]
    maxLength: 512
  method: {type: LoRA}
  output: [{format: Adapter}]
"""
STARTED = 1_764_000_000.0
STATISTICS = Statistics(
    rows=37,
    dropped={"empty": 1, "duplicate": 2},
    truncated=0,
    split=34,
    tokens=1_318_402,
    supervised_tokens=1_317_100,
    useful_token_ratio=0.9871,
    lengths=Histogram(edges=[0, 128, 256, 384, 512], counts=[11, 86, 373, 528]),
)


def job(text: str = JOB_YAML) -> Job:
    return parse_job(text, name="job.yaml")


def scores(loss: float) -> Scores:
    return Scores(loss=loss, perplexity=math.exp(loss), supervised_tokens=41_210)


def result(**different: Any) -> RunResult:
    files = [
        ArtifactFile(path="adapter_model.safetensors", bytes=19_560_000, sha256="b" * 64),
        ArtifactFile(path="adapter_config.json", bytes=1046, sha256="a" * 64),
    ]
    artifact = Artifact(uri="runs/s/result/adapter", format="Adapter", bytes=19_561_046, sha256="c" * 64, files=files)
    sample = Sample(prompt="To be, or not to be", base=", that is the question.", tuned=",\nI am not so much of a man.")
    fields = {
        "job": "shakespeare",
        "attempt": 1,
        "steps": 30,
        "resumed_from_step": None,
        "seconds": 174.2,
        "training_seconds": 101.7,
        "tokens_per_second": 1237.4,
        "useful_token_ratio": 0.9871,
        "evaluation": Evaluations(baseline=scores(4.0712), tuned=scores(3.8106)),
        "samples": [sample],
        "artifacts": [artifact],
        "base_model": "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
        "base_revision": "12fd25f77366fa6b",
        "data_fingerprint": "3a6eb0790f39ac87",
        "versions": {"torch": "2.15.0", "peft": "0.21.0"},
    }
    return RunResult(**{**fields, **different})


def step(number: int, total: int = 30, **different: Any) -> Step:
    fields = {
        "step": number,
        "total_steps": total,
        "epoch": number / total,
        "loss": 4.1 - 0.3 * number / total + random.Random(number).gauss(0, 0.05),
        "learning_rate": 2e-4 * (1 - number / total),
        "gradient_norm": 1.2,
        "tokens": 4080,
        "supervised_tokens": 4072,
        "seconds": 3.3,
        "tokens_per_second": 1236.4,
        "eta_seconds": 3.3 * (total - number),
        "time": STARTED + 3.3 * number,
    }
    return Step(**{**fields, **different})


def evaluated(number: int, loss: float, *, baseline: bool = False) -> Evaluated:
    return Evaluated(number, loss, math.exp(loss), 41_210, baseline, time=STARTED + 3.3 * number)


def saved(number: int, attempt: int = 1) -> CheckpointSaved:
    uri = f"runs/s/checkpoints/step-{number:08d}-a{attempt}"
    return CheckpointSaved(number, uri, 29_400_000, 0.1, STARTED + 3.3 * number)


def records(total: int = 30) -> list[dict[str, Any]]:
    """`metrics.jsonl` of one attempt."""
    events: list[Event] = [
        evaluated(0, 4.0712, baseline=True),
        *(step(number, total) for number in range(1, total + 1)),
    ]
    events += [saved(total), evaluated(total, 3.8106)]
    return [as_record(event) for event in events]
