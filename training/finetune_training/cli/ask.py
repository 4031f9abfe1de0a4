"""`finetune predict`: a finished job or a model, asked one prompt or files of them.

In: the command's arguments. Out: the answer on the terminal, or a file of completions. A job's file stands for what
came out of its run.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from finetune_training.checkpoint.run_folder import finished
from finetune_training.contract.failure import user_error
from finetune_training.contract.jobfile import read_job
from finetune_training.contract.spec import ArtifactFormat, Job, ModelSpec
from finetune_training.data.shards import MANIFEST, DataManifest
from finetune_training.driver.environment import quiet, set_up_ray
from finetune_training.model.fetch import default_cache
from finetune_training.predict.predict import Answerer, BatchInference, predict_files, predict_one, target_of
from finetune_training.store.located import located
from finetune_training.store.storage import Store, open_store


@dataclass(frozen=True)
class Question:
    """`target`: a job's file or a model. `chat` of None: as the job's rows were; True for a model."""

    target: str
    prompt: str
    input: str
    output: str
    max_new_tokens: int
    temperature: float
    base: bool
    chat: bool | None


def ask(question: Question, console: Console) -> None:
    """Answer. Raises a User error when the arguments do not fit together."""
    if bool(question.prompt) == bool(question.input):
        raise user_error(
            "NothingToAsk", "Give either one prompt or --input.", 'As in: finetune predict job.yaml "Hello"'
        )
    if question.input and not question.output:
        raise user_error("OutputMissing", "--input needs --output.", "As in: --output completions.jsonl")
    target, chat = _resolve(question)
    if question.base:
        target = target.without_adapter()
    with tempfile.TemporaryDirectory(prefix="finetune-predict-") as folder, quiet(Path(folder) / "log") as terminal:
        console.file = terminal
        answer = _one(question, target, chat=chat) if question.prompt else _many(question, target, chat=chat)
        console.print(answer, markup=False, soft_wrap=True)


def _one(question: Question, target: Answerer, *, chat: bool) -> str:
    from finetune_training.predict.generate import Sampling

    sampling = Sampling(max_new_tokens=question.max_new_tokens, temperature=question.temperature)
    return predict_one(target, question.prompt, cache=default_cache(), sampling=sampling, chat=chat)


def _many(question: Question, target: Answerer, *, chat: bool) -> str:
    set_up_ray()
    from finetune_training.driver.ray_cluster import ray_session
    from finetune_training.predict.generate import Sampling

    sampling = Sampling(max_new_tokens=question.max_new_tokens, temperature=question.temperature)
    with ray_session(cpus=2):
        rows = predict_files(
            target, BatchInference(question.input, question.output, sampling, chat=chat), cache=default_cache()
        )
    return f"{rows:,} prompts answered: {question.output}"


def _resolve(question: Question) -> tuple[Answerer, bool]:
    if not question.target.endswith((".yaml", ".yml")):
        chat = True if question.chat is None else question.chat
        return target_of(question.target, cache=default_cache()), chat
    job = located(read_job(Path(question.target)))
    store = open_store(job.spec.checkpoint.uri).child(job.path)
    result = finished(store)
    if result is None:
        raise user_error(
            "NotFinished", f"{store.uri} has no result yet.", f"Run it first: finetune run {question.target}"
        )
    chat = _rows_are_messages(store, result.data_fingerprint) if question.chat is None else question.chat
    artifact = result.artifacts[0]
    trained = ModelSpec(uri=artifact.uri)
    if artifact.format == ArtifactFormat.ADAPTER.value:
        return Answerer(_pinned(job, result.base_revision), trained), chat
    return Answerer(_pinned(job, result.base_revision) if question.base else trained), chat


def _pinned(job: Job, revision: str) -> ModelSpec:
    """The base model as it was when the run began."""
    return job.spec.model.model_copy(update={"revision": revision}) if revision else job.spec.model


def _rows_are_messages(store: Store, fingerprint: str) -> bool:
    text = store.get(f"data/{fingerprint}/{MANIFEST}")
    return text is not None and DataManifest.from_json(text).chat
