"""What a finished run has to show: `result/metrics.json`, and all that the report and the model card are made of.

In: the driver's findings. Out: frozen values that go to JSON and back. Field names in the file are camelCase, as in `status.run`.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, ser_json_inf_nan="strings")


class Scores(_Record):
    """Loss on the held-out rows (mean over `supervised_tokens`); perplexity is exp(loss)."""

    loss: float
    perplexity: float
    supervised_tokens: int


class Evaluations(_Record):
    """The base and the tuned model on the same rows. None: not evaluated."""

    baseline: Scores | None = None
    tuned: Scores | None = None


class Sample(_Record):
    """One prompt, answered by both models (greedy decoding). `base` is None when the base model was not asked."""

    prompt: str
    base: str | None
    tuned: str


class ArtifactFile(_Record):
    """One file of an artifact; `path` is relative to the artifact's folder."""

    path: str
    bytes: int
    sha256: str


class Artifact(_Record):
    """A model that came out. `sha256` is the digest over its files' lines "<sha256>  <path>\\n", sorted by path."""

    uri: str
    format: str
    bytes: int
    sha256: str
    files: list[ArtifactFile]


class RunResult(_Record):
    """A whole run. `seconds`: of this attempt, from command to end; `training_seconds`: of all optimizer steps.
    `base_license`: what the base model's card says of it, by the names of the hub's cards. `question`: what to ask the
    model first, in a user's words."""

    job: str
    attempt: int
    steps: int
    resumed_from_step: int | None
    seconds: float
    training_seconds: float
    tokens_per_second: float
    useful_token_ratio: float
    evaluation: Evaluations
    samples: list[Sample]
    artifacts: list[Artifact]
    base_model: str
    base_revision: str
    base_license: dict[str, str] = Field(default_factory=dict)
    question: str = ""
    data_fingerprint: str
    versions: dict[str, str]

    def to_json(self) -> bytes:
        return self.model_dump_json(by_alias=True, indent=2).encode()

    @classmethod
    def from_json(cls, text: bytes) -> RunResult:
        return cls.model_validate_json(text)
