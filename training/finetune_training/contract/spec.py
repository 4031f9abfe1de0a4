"""The run's part of a FineTuneJob: what is trained, on what, and what comes out.

In: plain values (jobfile.py reads them from YAML). Out: a frozen `Job`, every default filled in; the data's part of it is in
dataset.py. The contract between the two packages: the operator generates the CRD from these models, so this room knows pydantic
and the standard library only. The docstring under a field is its documentation everywhere: `finetune schema`, docs/fields.md,
`kubectl explain`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from finetune_training.contract.dataset import DatasetSpec
from finetune_training.contract.names import JOB_NAME_MAX
from finetune_training.contract.record import Strict, Uri

CLUSTER_FIELDS = frozenset(
    {
        "image", "env", "envFrom", "serviceAccountName", "suspend",
        "backoffLimit", "activeDeadlineSeconds", "pendingDeadlineSeconds", "ttlSecondsAfterFinished",
    }
)  # fmt: skip
"""The cluster's half of the same file (design: "where it runs", "how it lives"): accepted and ignored on a laptop."""
CLUSTER_RESOURCE_FIELDS = frozenset({"pool", "worker", "head"})


class MethodType(StrEnum):
    FULL = "Full"
    LORA = "LoRA"


class Scheduler(StrEnum):
    COSINE = "Cosine"
    LINEAR = "Linear"
    CONSTANT = "Constant"


class Precision(StrEnum):
    BF16 = "BF16"
    FP32 = "FP32"


class Offload(StrEnum):
    NONE = "None"
    OPTIMIZER = "Optimizer"
    OPTIMIZER_AND_PARAMETERS = "OptimizerAndParameters"


class ArtifactFormat(StrEnum):
    ADAPTER = "Adapter"
    MERGED = "Merged"


class ModelSpec(Strict):
    """The base model."""

    uri: Uri
    """Where the model is: `hf://owner/name`, `s3://bucket/folder` (also `gs://`, `az://`), or a local folder."""
    revision: str = ""
    """Commit, tag or branch of an `hf://` model. Empty: the hub's default branch."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Only for models whose code you have read."""
    attention: Literal["Auto", "SDPA", "Eager", "FlashAttention2"] = "Auto"
    """Attention implementation. Auto: the one that transformers chooses."""


ALL_LINEAR: Final = "all-linear"
"""Every linear layer but the output layer."""


class LoRA(Strict):
    """Low-rank adapters (PEFT's LoraConfig)."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of the adapters."""
    alpha: Annotated[float, Field(gt=0, le=4096)] = 32
    """Scale: the adapter's output is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout before the adapter."""
    target_modules: str | list[str] = ALL_LINEAR
    """Which modules get an adapter: `all-linear`, a regular expression, or names."""


class Method(Strict):
    """How the model learns."""

    objective: Literal["SFT"] = "SFT"
    """SFT: supervised fine-tuning."""
    type: MethodType = MethodType.LORA
    """Full: every weight. LoRA: adapters."""
    lora: LoRA = LoRA()
    """For LoRA."""


class Training(Strict):
    """Steps, batches and the optimizer."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 1
    """Passes over the training rows. Ignored when `maxSteps` is set."""
    max_steps: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Optimizer steps. 0: as many as `epochs` takes."""
    global_batch_size: Annotated[int, Field(ge=1, le=1_048_576)] = 64
    """Samples in one optimizer step: the same on any number of GPUs."""
    micro_batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    """Samples in one forward pass of one GPU. Gradient accumulation follows from it."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 2e-5
    """Peak learning rate. LoRA usually wants ten times that of Full."""
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.03
    """Share of the steps in which the learning rate rises."""
    scheduler: Scheduler = Scheduler.COSINE
    """How the learning rate falls afterwards."""
    precision: Precision = Precision.BF16
    """BF16 with FP32 master weights, or FP32."""
    gradient_checkpointing: bool = True
    """Compute activations again in the backward pass: less memory, about a third more time."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 42
    """Decides the order of the samples, the adapters' first values and dropout."""
    extra: dict[str, Any] = {}
    """Other `transformers.TrainingArguments`, by their own names."""


class DeepSpeed(Strict):
    """The engine (DeepSpeed ZeRO)."""

    stage: Annotated[int, Field(ge=0, le=3)] = 3
    """0: every GPU holds everything. 1: optimizer states are sharded. 2: gradients too. 3: parameters too."""
    offload: Offload = Offload.NONE
    """Keep the optimizer (stages 1 to 3), or the optimizer and the parameters (stage 3), in host memory."""
    config: dict[str, Any] = {}
    """Merged over the generated DeepSpeed config, field by field."""

    @model_validator(mode="after")
    def _offload_needs_a_stage(self) -> DeepSpeed:
        if self.offload is Offload.OPTIMIZER_AND_PARAMETERS and self.stage != 3:
            raise ValueError(
                f"offload: OptimizerAndParameters needs stage 3, not {self.stage}; set deepspeed.stage: 3 or offload: Optimizer"
            )
        if self.offload is Offload.OPTIMIZER and self.stage == 0:
            raise ValueError("offload: Optimizer needs a stage from 1 to 3, not 0; set deepspeed.stage: 2")
        return self


class ResumeFrom(Strict):
    """Another run's checkpoint to begin with, as long as this run has none of its own. Empty: the base model."""

    uri: str = Field(default="", max_length=2048)
    """A checkpoint's or a run's folder. All goes on from it if data, seed, batch, stage are the same; else its weights do."""


class CheckpointSpec(Strict):
    """Where the run lives, and how often it is saved."""

    uri: Uri = "runs"
    """Folder for runs, in an object store (`s3://bucket/folder`) or on this machine."""
    every_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 500
    """Steps between checkpoints. 0: only when the run is interrupted, and at its end."""
    keep: Annotated[int, Field(ge=1, le=1000)] = 2
    """How many of the newest checkpoints stay. The one with the lowest held-out loss stays too."""
    resume_from: ResumeFrom = ResumeFrom()


class Evaluation(Strict):
    """Loss on the held-out rows, and samples."""

    every_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 500
    """Steps between evaluations. 0: only at the end."""
    baseline: bool = True
    """Evaluate the base model first, on the same rows."""
    max_samples: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Use at most this many packed held-out samples. 0: all."""
    prompts: Annotated[list[Annotated[str, Field(min_length=1, max_length=8192)]], Field(max_length=16)] = []
    """Prompts that the base and the tuned model both answer, for the report. Empty: the beginning of a held-out row."""


class Output(Strict):
    """What comes out besides the run's own `result/`."""

    uri: str = Field(default="", max_length=2048)
    """Folder to copy the artifact to. Empty: only in the run's `result/`."""
    format: ArtifactFormat
    """Adapter: the LoRA weights. Merged: a whole model that transformers loads."""


class Resources(Strict):
    """How many ranks. Used where `RAY_ADDRESS` names a cluster; on a laptop `--workers` counts."""

    workers: Annotated[int, Field(ge=1, le=4096)] = 1
    """Worker pods."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=64)] = 1
    """GPUs, and so ranks, in each. 0: one rank on the CPU."""

    @property
    def ranks(self) -> int:
        return self.workers * max(1, self.gpus_per_worker)


class RunSpec(Strict):
    """What is trained."""

    model: ModelSpec
    dataset: DatasetSpec
    method: Method = Method()
    training: Training = Training()
    deepspeed: DeepSpeed = DeepSpeed()
    checkpoint: CheckpointSpec = CheckpointSpec()
    evaluation: Evaluation = Evaluation()
    output: Annotated[list[Output], Field(max_length=8)] = []
    """What comes out besides the run's own `result/`."""
    resources: Resources = Resources()

    @field_validator("output")
    @classmethod
    def _formats_differ(cls, output: list[Output]) -> list[Output]:
        if len(set(output)) != len(output):
            raise ValueError("the same output is named twice")
        return output

    @model_validator(mode="after")
    def _adapter_needs_lora(self) -> RunSpec:
        for number, output in enumerate(self.output):
            if output.format is ArtifactFormat.ADAPTER and self.method.type is MethodType.FULL:
                raise ValueError(
                    f"output[{number}].format: Adapter needs method.type: LoRA; a Full run has no adapter, use Merged"
                )
        return self


class Job(Strict):
    """A FineTuneJob as a file: identity and spec."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=JOB_NAME_MAX)]
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)] = "default"
    uid: Annotated[str, Field(pattern=r"^[-a-zA-Z0-9]*$", max_length=64)] = ""
    spec: RunSpec

    @property
    def path(self) -> str:
        """The run's folder below `checkpoint.uri`: by uid on a cluster, by name on a laptop."""
        return f"{self.namespace}/{self.name}/{self.uid}" if self.uid else self.name
