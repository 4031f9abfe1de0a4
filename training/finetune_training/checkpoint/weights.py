"""The weights in a checkpoint, without the engine that wrote them.

In: a checkpoint's files, as DeepSpeed writes them, and a model that trains the same parameters. Out: whole tensors by the
parameters' names, in one process, from any number of ranks. What is missing, empty or of another shape is found before a
model is written or trained: an adapter that ZeRO-3 has emptied looks like an adapter.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import deepspeed
import torch

from finetune_training.checkpoint.manifest import CheckpointFile, CheckpointManifest
from finetune_training.contract.failure import data_error, user_error

Shapes = dict[str, tuple[int, ...]]
_WHOLE = re.compile(r"[^/]+/mp_rank_00_model_states\.pt")
"""Below stage 3 every rank has all of them, and rank 0 writes them as the run would publish them."""
_PARTS = re.compile(r"[^/]+/\w*zero_pp_rank_\d+_mp_rank_\d+_\w+\.pt")


def weight_files(manifest: CheckpointManifest) -> list[CheckpointFile]:
    """The files that weights are read from. Raises a Data error when there are none."""
    wanted = _PARTS if manifest.facts.zero_stage == 3 else _WHOLE
    found = [file for file in manifest.files if wanted.fullmatch(file.name)]
    if not found:
        raise data_error(
            "CheckpointDamaged",
            f"The checkpoint of step {manifest.step} has no file of weights that is named as DeepSpeed names them.",
            "Use another one: finetune checkpoints list",
        )
    return found


def read_weights(folder: Path, manifest: CheckpointManifest) -> dict[str, torch.Tensor]:
    """Every trained parameter, on the CPU. At stage 3 in FP32, put together of all ranks' parts."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    if manifest.facts.zero_stage == 3:
        tag = Path(weight_files(manifest)[0].name).parent.name
        return dict(get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=tag))
    return dict(_model_states(folder, manifest)["module"])


def read_shapes(folder: Path, manifest: CheckpointManifest) -> Shapes:
    """The shape of every trained parameter, from rank 0's files alone."""
    states = _model_states(folder, manifest)
    if manifest.facts.zero_stage < 3:
        return _shapes(states["module"])
    shapes = {name: tuple(shape) for group in states["param_shapes"] for name, shape in group.items()}
    return shapes | {alias: shapes[name] for alias, name in states["shared_params"].items() if name in shapes}


def check_fit(model: Any, found: Shapes, *, name: str) -> None:
    """Raises a User error unless `found` has exactly what `model` trains."""
    wanted = {name: _shape(parameter) for name, parameter in _trained(model).items()}
    lacking = [each for each in wanted if 0 in found.get(each, (0,))]
    unknown = sorted(found.keys() - model.state_dict().keys())
    other = [each for each in wanted if each not in lacking and found[each] != wanted[each]]
    for names, problem in (
        (lacking, "lacks"),
        (unknown, "has what this model does not have"),
        (other, "has in another shape"),
    ):
        if names:
            first = names[0]
            shapes = f" ({_text(found[first])}, here {_text(wanted[first])})" if names is other else ""
            raise user_error(
                "CheckpointDoesNotFit",
                f"The weights in checkpoint {name} are those of another model: it {problem} {len(names)} of"
                f" {len(wanted)} parameters, such as {first}{shapes}.",
                "Use the base model and the spec.method of the run that wrote it.",
            )


@torch.no_grad()
def load_into(model: Any, weights: dict[str, torch.Tensor], *, name: str) -> None:
    """Copy them into what `model` trains. Collective where ZeRO-3 has cut the model into parts."""
    check_fit(model, _shapes(weights), name=name)
    for each, parameter in _trained(model).items():
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(weights[each])


def trained_only(model: Any, weights: dict[str, torch.Tensor], *, name: str) -> dict[str, torch.Tensor]:
    """Of `weights` what `model` trains."""
    check_fit(model, _shapes(weights), name=name)
    return {each: weights[each] for each in _trained(model)}


def _model_states(folder: Path, manifest: CheckpointManifest) -> dict[str, Any]:
    """What rank 0 wrote of the model. Read without running anything: it may be another's."""
    names = sorted(
        file.name for file in weight_files(manifest) if file.name.endswith("model_states.pt") and not file.rank
    )
    states: dict[str, Any] = torch.load(folder / names[0], map_location="cpu", mmap=True, weights_only=True)
    return states


def _trained(model: Any) -> dict[str, Any]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _shapes(tensors: dict[str, torch.Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _shape(parameter: Any) -> tuple[int, ...]:
    """Of the whole parameter, also where ZeRO-3 holds a part of it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _text(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
