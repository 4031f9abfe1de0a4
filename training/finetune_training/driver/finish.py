"""The trained weights → answers to look at, artifacts to use.

In: the run's `trained/`, as rank 0 left it, and what the ranks made of a few rows when they last evaluated. Out: what the base
and the tuned model answer to the same prompts, the merged model when it was asked for, all of it in `result/` and in the
outputs' stores, and the digest of every file. Every artifact is loaded anew and asked about those rows before the first
is published: what is not the model that was evaluated is not published at all.
Runs as one task of its own, on a machine like a worker's, because the driver's has no GPU and little memory; what needs
torch is imported there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_training.checkpoint.run_folder import TRAINED
from finetune_training.contract.failure import FinetuneError, infrastructure_error
from finetune_training.contract.spec import ArtifactFormat, Job, MethodType, Precision
from finetune_training.events.progress import Likelihoods
from finetune_training.events.result import Artifact, Sample
from finetune_training.model.fetch import default_cache, fetch_model
from finetune_training.store.storage import Store, open_store

if TYPE_CHECKING:
    from finetune_training.predict.generate import LanguageModel

NEW_TOKENS = 48
FOLDERS = {ArtifactFormat.ADAPTER: "adapter", ArtifactFormat.MERGED: "merged"}


@dataclass(frozen=True)
class Finish:
    """`prompts` are asked as they stand, or with `chat` as a user's message. `staging`: a folder for this machine. `likelihoods`:
    what the artifacts are compared with."""

    job: Job
    store: Store
    prompts: list[str]
    chat: bool
    staging: Path
    likelihoods: tuple[Likelihoods, ...] = ()


@dataclass(frozen=True)
class Finished:
    samples: list[Sample]
    artifacts: list[Artifact]
    base_license: dict[str, str]


def finish(task: Finish) -> Finished:
    """Answer the prompts; make the artifacts and compare each with what the run has evaluated; then publish them."""
    from finetune_training.model.artifact import license_of

    base = fetch_model(task.job.spec.model, cache=default_cache()).folder
    trained = ArtifactFormat.ADAPTER if task.job.spec.method.type is MethodType.LORA else ArtifactFormat.MERGED
    folders = {trained: _local(task, trained)}
    samples, said = _trained(task, base, folders[trained], trained)
    if trained is ArtifactFormat.ADAPTER and any(
        output.format is ArtifactFormat.MERGED for output in task.job.spec.output
    ):
        folders[ArtifactFormat.MERGED] = _merged(task, base, folders[trained], said)
    artifacts = [_published(task, kind, folder) for kind, folder in folders.items()]
    task.store.delete_folder(TRAINED)
    return Finished(samples, artifacts, license_of(base))


def _trained(task: Finish, base: Path, folder: Path, trained: ArtifactFormat) -> tuple[list[Sample], list[Likelihoods]]:
    """The answers of the base and of what was trained, and what it makes of the rows that it is compared by."""
    from finetune_training.predict.generate import load_language_model

    trust, adapter = task.job.spec.model.trust_remote_code, trained is ArtifactFormat.ADAPTER
    with _unloadable(trained):
        tuned = (
            load_language_model(base, adapter=folder, trust_remote_code=trust)
            if adapter
            else load_language_model(folder, trust_remote_code=trust)
        )
    said = _compared_with_evaluated(task, tuned.model, trained)
    if not task.prompts:
        return [], said
    after = _ask(tuned, task)
    if adapter:
        before = _ask(tuned, task, base=True)
    else:
        tokenizer = tuned.tokenizer  # which has the run's chat template
        del tuned  # there may be room for one model only
        before = _ask(replace(load_language_model(base, trust_remote_code=trust), tokenizer=tokenizer), task)
    asked = zip(task.prompts, before, after, strict=True)
    return [Sample(prompt=prompt, base=old, tuned=new) for prompt, old, new in asked], said


def _merged(task: Finish, base: Path, adapter: Path, said: Sequence[Likelihoods]) -> Path:
    """The folder of the merged model, which says what base and adapter say, and what was evaluated."""
    from finetune_training.model.export import merge_adapter
    from finetune_training.model.model import origin_of
    from finetune_training.model.plain import load_plain

    spec, kind, folder = task.job.spec, ArtifactFormat.MERGED, task.staging / "merged"
    merge_adapter(adapter, folder, origin_of(base, spec))
    with _unloadable(kind):
        model = load_plain(folder, trust_remote_code=spec.model.trust_remote_code)
    _compared(said, model, kind, "the base model with the adapter")
    _compared_with_evaluated(task, model, kind)
    return folder


def _compared_with_evaluated(task: Finish, model: Any, kind: ArtifactFormat) -> list[Likelihoods]:
    """The ranks computed in the run's precision, whatever that of the base is."""
    precision = task.job.spec.training.precision
    return _compared(task.likelihoods, model, kind, "the model that was evaluated", precision)


def _compared(
    said: Sequence[Likelihoods],
    model: Any,
    kind: ArtifactFormat,
    what: str,
    computed_in: Precision = Precision.FP32,
) -> list[Likelihoods]:
    from finetune_training.model.comparison import check_alike, likelihoods

    found = likelihoods(model, [row.tokens for row in said])
    check_alike(said, found, model=model, names=(what, f"The {kind.value} artifact"), computed_in=computed_in)
    return found


@contextmanager
def _unloadable(kind: ArtifactFormat) -> Iterator[None]:
    """An artifact that nobody can load is not the user's mistake: it was made here."""
    try:
        yield
    except FinetuneError as error:
        raise infrastructure_error(
            "ArtifactDiffers",
            f"The {kind.value} artifact cannot be loaded as it was written: {error.failure.message} Nothing is published.",
            "Run the same command again: it makes the artifacts anew from the last checkpoint.",
            detail=error.failure.detail,
        ) from error


def _ask(model: LanguageModel, task: Finish, *, base: bool = False) -> list[str]:
    """The run is trained: a prompt that cannot be asked with so many tokens to come must not end it."""
    from finetune_training.predict.generate import Sampling

    try:
        return model.answer(task.prompts, sampling=Sampling(max_new_tokens=NEW_TOKENS), chat=task.chat, base=base)
    except FinetuneError:
        return [_asked_alone(model, prompt, task, base=base) for prompt in task.prompts]


def _asked_alone(model: LanguageModel, prompt: str, task: Finish, *, base: bool) -> str:
    """The answer, as far as there is room for it; or why there is none."""
    from finetune_training.predict.generate import Sampling

    try:
        room = max(1, min(NEW_TOKENS, model.room(prompt, chat=task.chat)))
        return model.answer([prompt], sampling=Sampling(max_new_tokens=room), chat=task.chat, base=base)[0]
    except FinetuneError as error:
        return f"(not asked: {error.failure.message})"


def _published(task: Finish, artifact_format: ArtifactFormat, folder: Path) -> Artifact:
    """In the run's result, and where the outputs that ask for it want it."""
    from finetune_training.model.export import describe_artifact, publish

    result = task.store.child("result", FOLDERS[artifact_format])
    publish(folder, result)
    for output in task.job.spec.output:
        if output.format is artifact_format and output.uri:
            publish(folder, open_store(output.uri))
    return describe_artifact(folder, uri=result.uri, format=artifact_format.value)


def _local(task: Finish, artifact_format: ArtifactFormat) -> Path:
    """What the ranks have left, as a folder of this machine."""
    store = task.store.child(TRAINED, FOLDERS[artifact_format])
    if store.folder:
        return store.folder
    folder = task.staging / TRAINED
    for entry in store.entries():
        store.download(entry.key, folder / entry.key)
    return folder
