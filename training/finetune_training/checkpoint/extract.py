"""A checkpoint → a model, as the run itself would have published it at that step.

In: a checkpoint of a run, and the base model that the run's spec names. Out: an adapter, or a whole model that plain
transformers loads, in a folder or a store. One process on the CPU, without ranks and without Ray; every byte that is read
of the checkpoint is verified before.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from finetune_training.checkpoint.manifest import FOLDER, CheckpointManifest
from finetune_training.checkpoint.run_folder import asked, read_resolution
from finetune_training.checkpoint.shelf import StoredCheckpoint
from finetune_training.checkpoint.verified import fetch, folder_for
from finetune_training.contract.failure import data_error, user_error
from finetune_training.contract.spec import ArtifactFormat, MethodType, ModelSpec, RunSpec
from finetune_training.events.progress import Likelihoods
from finetune_training.events.result import Artifact
from finetune_training.model.fetch import default_cache, fetch_model
from finetune_training.model.modelfiles import Parts
from finetune_training.store.located import canonical
from finetune_training.store.storage import Store, open_store

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed reads it when it is imported


def export(store: Store, checkpoint: StoredCheckpoint, out: str, *, merged: bool, staging: Path) -> Artifact:
    """Write the model to `out`. Raises a Data error for a damaged checkpoint, a User error where it cannot go to `out` or
    the base model is another one."""
    spec = _spec(store)
    target = open_store(out)
    _check_target(target, store, spec.model)
    outline = spec.method.type is MethodType.LORA and not merged
    base = fetch_model(spec.model, cache=default_cache(), parts=Parts.TOKENIZER if outline else Parts.MODEL).folder
    manifest, folder = _verified(store, checkpoint, staging / "checkpoint")
    from finetune_training.checkpoint.weights import read_weights
    from finetune_training.model.export import describe_artifact, merge_adapter, publish
    from finetune_training.model.model import origin_of

    weights, kind = read_weights(folder, manifest), ArtifactFormat.MERGED
    if spec.method.type is MethodType.FULL:
        model = _write_model(spec, base, weights, checkpoint.name, staging / "model")
    else:
        model, kind = _write_adapter(spec, base, weights, checkpoint.name, staging / "adapter"), ArtifactFormat.ADAPTER
        if merged:
            adapter, model, kind = model, staging / "model", ArtifactFormat.MERGED
            merge_adapter(adapter, model, origin_of(base, spec))
            _compare(_said(base, adapter, spec), model, spec, "the base model with the adapter")
    publish(model, target)
    return describe_artifact(model, uri=target.uri, format=kind.value)


def _spec(store: Store) -> RunSpec:
    """What was trained, with the revision that the run has found."""
    spec = asked(store)
    if spec is None:
        raise user_error(
            "RunNotFound",
            f"{store.uri} has no spec.json, which names the base model.",
            "Name the run's own folder: a checkpoint alone is not enough.",
        )
    found = read_resolution(store)
    if found and spec.model.uri.startswith("hf://"):
        spec = spec.model_copy(update={"model": spec.model.model_copy(update={"revision": found.model_revision})})
    return spec


def _check_target(target: Store, run: Store, model: ModelSpec) -> None:
    """What is exported replaces what lies there."""
    out, own = canonical(target.uri), canonical(run.uri)
    if out == canonical(model.uri) or out == own or out.startswith(f"{own}/"):
        raise user_error(
            "OutputOverwrites",
            f"{target.uri} is the base model's folder, or the run's own.",
            "Give the model a folder of its own.",
        )


def _verified(store: Store, checkpoint: StoredCheckpoint, cache: Path) -> tuple[CheckpointManifest, Path]:
    """The files with the weights, on this machine."""
    from finetune_training.checkpoint.weights import weight_files

    manifest, prefix = checkpoint.manifest, f"{FOLDER}/{checkpoint.name}"
    folder = folder_for(store, prefix, cache)
    problem = manifest if isinstance(manifest, str) else fetch(store, prefix, weight_files(manifest), folder)
    if isinstance(manifest, str) or problem:
        raise data_error(
            "CheckpointDamaged",
            f"{checkpoint.name}: {problem}",
            "Export another one: finetune checkpoints list --verify.",
        )
    return manifest, folder


def _write_model(spec: RunSpec, base: Path, weights: dict[str, Any], name: str, out: Path) -> Path:
    from finetune_training.checkpoint.weights import load_into
    from finetune_training.model.comparison import likelihoods, rows_of_text
    from finetune_training.model.export import write_model
    from finetune_training.model.model import load_model, load_tokenizer, origin_of

    anywhere = spec.model.model_copy(update={"attention": "Auto"})  # the run's may need a GPU
    model = load_model(base, spec.model_copy(update={"model": anywhere}))
    load_into(model, weights, name=name)
    model.config.use_cache = True  # off for training only
    said = likelihoods(model, rows_of_text(load_tokenizer(base, spec)))
    write_model(model, out, origin_of(base, spec))
    del model
    _compare(said, out, spec, "the weights in the checkpoint")
    return out


def _compare(said: list[Likelihoods], model: Path, spec: RunSpec, what: str) -> None:
    """Nothing is published that does not say what it was made from."""
    from finetune_training.model.comparison import check_alike, likelihoods
    from finetune_training.model.plain import load_plain

    loaded = load_plain(model, trust_remote_code=spec.model.trust_remote_code)
    found = likelihoods(loaded, [row.tokens for row in said])
    check_alike(said, found, model=loaded, names=(what, "The model that would be published"))


def _said(base: Path, adapter: Path, spec: RunSpec) -> list[Likelihoods]:
    from finetune_training.model.comparison import likelihoods, rows_of_text
    from finetune_training.model.model import load_tokenizer
    from finetune_training.model.plain import load_plain

    model = load_plain(base, adapter=adapter, trust_remote_code=spec.model.trust_remote_code)
    return likelihoods(model, rows_of_text(load_tokenizer(base, spec)))


def _write_adapter(spec: RunSpec, base: Path, weights: dict[str, Any], name: str, out: Path) -> Path:
    """Needs the base model's shape, not its weights."""
    from finetune_training.checkpoint.weights import trained_only
    from finetune_training.model.artifact import complete_adapter
    from finetune_training.model.export import name_base
    from finetune_training.model.lora import empty_adapter
    from finetune_training.model.model import DTYPES, origin_of

    model, dtype = empty_adapter(base, spec), DTYPES[spec.training.precision]
    trained = {each: tensor.to(dtype) for each, tensor in trained_only(model, weights, name=name).items()}
    model.save_pretrained(out, state_dict=trained, save_embedding_layers=False)
    complete_adapter(out, origin_of(base, spec))
    name_base(out, spec.model, revision=spec.model.revision)
    return out
