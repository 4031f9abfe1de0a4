"""The paths of a job, made to mean the same from any folder.

In: a job as the user wrote it, with paths that are relative to where the command was run. Out: the job with absolute ones. URIs
of stores stay as they are. What would be overwritten by an output is said here, where a folder has one name only.
"""

from __future__ import annotations

from finetune_training.contract.failure import user_error
from finetune_training.contract.spec import CheckpointSpec, Job, Output, ResumeFrom
from finetune_training.store.storage import local_path


def located(job: Job) -> Job:
    """The job with its local paths made absolute: ranks and tasks run in other folders."""
    spec = job.spec
    validation = spec.dataset.validation
    dataset = spec.dataset.model_copy(
        update={
            "train": [source.model_copy(update={"uri": _absolute(source.uri)}) for source in spec.dataset.train],
            "validation": validation.model_copy(update={"uri": _absolute(validation.uri)})
            if validation.uri
            else validation,
        }
    )
    model = spec.model.model_copy(update={"uri": _absolute(spec.model.uri)})
    outputs = [item.model_copy(update={"uri": _absolute(item.uri)}) if item.uri else item for item in spec.output]
    _check_outputs(model.uri, outputs)
    changes = {"dataset": dataset, "model": model, "output": outputs, "checkpoint": _located(spec.checkpoint)}
    return job.model_copy(update={"spec": spec.model_copy(update=changes)})


def _located(checkpoint: CheckpointSpec) -> CheckpointSpec:
    """`uri` is made absolute by who opens it."""
    other = checkpoint.resume_from.uri
    return checkpoint.model_copy(update={"resume_from": ResumeFrom(uri=_absolute(other))}) if other else checkpoint


def _check_outputs(model_uri: str, outputs: list[Output]) -> None:
    """An artifact replaces what lies in its folder: it must not be the base model's, or another output's."""
    taken = {canonical(model_uri)}
    for number, output in enumerate(outputs):
        if output.uri and canonical(output.uri) in taken:
            raise user_error(
                "OutputOverwrites",
                f"spec.output[{number}].uri: {output.uri} is the base model's folder or another output's.",
                "Give each output a folder of its own.",
            )
        taken.add(canonical(output.uri))


def canonical(uri: str) -> str:
    """The same text for the same folder."""
    path = local_path(uri) if uri else None
    return str(path.resolve()) if path else uri.rstrip("/")


def _absolute(uri: str) -> str:
    path = local_path(uri)
    return str(path) if path is not None else uri
