"""The trained weights → answers to look at, artifacts to use.

In: the run's `result/adapter` or `result/merged` as rank 0 left it. Out: what the base and the tuned model answer to
the same prompts, the merged model when it was asked for, copies in the outputs' stores, and the digest of every file.
Runs as one task of its own, on a machine like a worker's, because the driver's has no GPU and little memory; what needs
torch is imported there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_training.contract.spec import ArtifactFormat, Job, MethodType
from finetune_training.events.result import Artifact, Sample
from finetune_training.model.fetch import default_cache, fetch_model
from finetune_training.store.storage import Store, open_store

NEW_TOKENS = 48
FOLDERS = {ArtifactFormat.ADAPTER: "adapter", ArtifactFormat.MERGED: "merged"}


@dataclass(frozen=True)
class Finish:
    """`prompts` are asked as they stand, or with `chat` as a user's message. `staging`: a folder for this machine."""

    job: Job
    store: Store
    prompts: list[str]
    chat: bool
    staging: Path


@dataclass(frozen=True)
class Finished:
    samples: list[Sample]
    artifacts: list[Artifact]


def finish(task: Finish) -> Finished:
    """Answer the prompts, then make and describe the artifacts."""
    from finetune_training.model.export import merge_adapter, publish

    base = fetch_model(task.job.spec.model, cache=default_cache()).folder
    trained = ArtifactFormat.ADAPTER if task.job.spec.method.type is MethodType.LORA else ArtifactFormat.MERGED
    folder = _local(task, trained)
    samples = _answers(task, base, folder, trained) if task.prompts else []
    artifacts = [_artifact(task, trained, folder)]
    if trained is ArtifactFormat.ADAPTER and any(
        output.format is ArtifactFormat.MERGED for output in task.job.spec.output
    ):
        merged = task.staging / "merged"
        merge_adapter(base, folder, merged, trust_remote_code=task.job.spec.model.trust_remote_code)
        publish(merged, task.store.child("result", FOLDERS[ArtifactFormat.MERGED]))
        artifacts.append(_artifact(task, ArtifactFormat.MERGED, merged))
    return Finished(samples, artifacts)


def _answers(task: Finish, base: Path, folder: Path, trained: ArtifactFormat) -> list[Sample]:
    from finetune_training.predict.generate import load_language_model

    trust = task.job.spec.model.trust_remote_code
    if trained is ArtifactFormat.ADAPTER:
        model = load_language_model(base, adapter=folder, trust_remote_code=trust)
        before, after = _ask(model, task, base=True), _ask(model, task)
    else:
        tuned = load_language_model(folder, trust_remote_code=trust)
        after = _ask(tuned, task)
        # The tuned model's tokenizer has the run's chat template.
        before = _ask(replace(load_language_model(base, trust_remote_code=trust), tokenizer=tuned.tokenizer), task)
    return [
        Sample(prompt=prompt, base=old, tuned=new) for prompt, old, new in zip(task.prompts, before, after, strict=True)
    ]


def _ask(model: Any, task: Finish, *, base: bool = False) -> list[str]:
    from finetune_training.predict.generate import Sampling

    answers: list[str] = model.answer(
        task.prompts, sampling=Sampling(max_new_tokens=NEW_TOKENS), chat=task.chat, base=base
    )
    return answers


def _artifact(task: Finish, artifact_format: ArtifactFormat, folder: Path) -> Artifact:
    """Described as it is in the run's result, and copied to the outputs that ask for it."""
    from finetune_training.model.export import describe_artifact, publish

    for output in task.job.spec.output:
        if output.format is artifact_format and output.uri:
            publish(folder, open_store(output.uri))
    uri = task.store.child("result", FOLDERS[artifact_format]).uri
    return describe_artifact(folder, uri=uri, format=artifact_format.value)


def _local(task: Finish, artifact_format: ArtifactFormat) -> Path:
    """The artifact as a folder of this machine."""
    store = task.store.child("result", FOLDERS[artifact_format])
    if store.folder:
        return store.folder
    folder = task.staging / FOLDERS[artifact_format]
    for entry in store.entries():
        store.download(entry.key, folder / entry.key)
    return folder
