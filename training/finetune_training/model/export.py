"""What training left → artifacts that people use.

In: the base model's folder and the adapter's, or a whole model's. Out: a merged model that plain transformers loads, an
adapter that says which base it belongs to, the description of every file (sha256), and their copies in a store. Nothing
here needs our package to be read again.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final

from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from finetune_training.contract.failure import user_error
from finetune_training.contract.spec import ModelSpec
from finetune_training.events.result import Artifact, ArtifactFile
from finetune_training.model.artifact import Origin, complete_model
from finetune_training.model.modelfiles import ADAPTER_CONFIG, CONFIG, TEMPLATES, is_template, is_weights
from finetune_training.store.digest import sha256_of
from finetune_training.store.storage import Store

SHARD: Final = "5GB"
"""No file of weights is larger: what hubs, stores and their mirrors take without a second thought."""
_LAST = (CONFIG, ADAPTER_CONFIG)
"""Readers look for these first, so they come last: a folder that has them is whole."""


def merge_adapter(adapter: Path, out: Path, origin: Origin) -> None:
    """Write the base model with the adapter's weights added to its own, in its own precision, to `out`. Runs on the CPU
    and needs the memory of one copy of the model."""
    model = AutoModelForCausalLM.from_pretrained(origin.base, dtype="auto", trust_remote_code=origin.trust_remote_code)
    try:
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    except ValueError as error:
        if "NaN" not in str(error):
            raise
        raise user_error(
            "AdapterHasNaN",
            f"The adapter in {adapter} cannot be merged: it has weights that are no numbers. Training has diverged.",
            "Lower spec.training.learningRate, or raise spec.training.warmupRatio.",
        ) from error
    write_model(merged, out, origin)


def write_model(model: PreTrainedModel, out: Path, origin: Origin, *, weights: dict[str, Any] | None = None) -> None:
    """Write a whole model to `out`, its own weights or `weights`: one copy of those that are tied, in files of at most SHARD."""
    copies = getattr(model, "all_tied_weights_keys", None) or {}
    state = None if weights is None else {name: each for name, each in weights.items() if name not in copies}
    model.generation_config = GenerationConfig()  # the artifact has its own; transformers would refuse many a base's
    model.save_pretrained(out, state_dict=state, max_shard_size=SHARD)
    complete_model(out, origin)


def name_base(adapter: Path, model: ModelSpec, *, revision: str) -> None:
    """Write into the adapter's config which model it belongs to: the hub's name or the URI instead of the path that it
    had on the machine that trained it."""
    path = adapter / ADAPTER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    on_hub = model.uri.startswith("hf://")
    config["base_model_name_or_path"] = model.uri.removeprefix("hf://").strip("/") if on_hub else model.uri
    config["revision"] = revision if on_hub else None
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def describe_artifact(folder: Path, *, uri: str, format: str) -> Artifact:  # noqa: A002 (the field's name)
    """Size and sha256 of every file, and one digest over all of them."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files = [
        ArtifactFile(path=name, bytes=path.stat().st_size, sha256=sha256_of(path))
        for name, path in sorted(paths.items())
    ]
    lines = "".join(f"{file.sha256}  {file.path}\n" for file in files)
    return Artifact(
        uri=uri,
        format=format,
        bytes=sum(file.bytes for file in files),
        sha256=hashlib.sha256(lines.encode()).hexdigest(),
        files=files,
    )


def publish(folder: Path, store: Store) -> None:
    """Copy all files of `folder` to `store`. While it lasts, the store has no config and so no model; weights and
    chat templates of an older model there that would be read instead of these, or together with them, are deleted."""
    if store.folder is not None and store.folder.resolve() == folder.resolve():
        return
    keys = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    there = [entry.key for entry in (*store.files(), *store.files(f"{TEMPLATES}/"))]
    read = [key for key in there if (is_weights(key) or is_template(key)) and key not in keys]
    store.delete([*(key for key in there if key in _LAST), *read])
    for key in sorted(keys, key=_turn):
        store.upload(folder / key, key)


def _turn(key: str) -> tuple[int, str]:
    """Weights first: they are what takes long and fails. Configs last."""
    if is_weights(key):
        return 0, key
    return (2, key) if key in _LAST or re.fullmatch(r"README(\.\w+)?", key) else (1, key)
