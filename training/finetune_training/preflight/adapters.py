"""Whether LoRA can adapt what the job names.

In: a model's outline (model/lora.py) and the spec. Out: a `Finding` about `spec.method.lora.targetModules`, which lists the
modules there are. PEFT itself puts the adapters into the outline: so what it refuses is known before Ray starts.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetune_training.contract.failure import FinetuneError, user_error
from finetune_training.contract.spec import ALL_LINEAR, MethodType, RunSpec
from finetune_training.model.lora import lora_config, targets
from finetune_training.preflight.finding import Finding, doubtful, good, wrong

CHECK = "LoRA"
_FIELD = "spec.method.lora.targetModules"
_LINEAR = (torch.nn.Linear, Conv1D)
_SHOWN = 12


def check_adapters(model: PreTrainedModel, spec: RunSpec) -> list[Finding]:
    """What LoRA adapts of the outline `model`, which has the adapters afterwards. Nothing for a Full run."""
    if spec.method.type is MethodType.FULL:
        return []
    try:
        matched = _matched(model, spec)
        with torch.device("meta"):
            adapted: Any = get_peft_model(model, lora_config(spec))
    except FinetuneError as error:
        return [wrong(CHECK, error)]
    except (ValueError, TypeError) as error:
        return [wrong(CHECK, _refused(model, f"{_FIELD} cannot be used: {str(error)[:300]}"))]
    names: list[str] = matched or adapted.targeted_module_names
    return [good(CHECK, f"adapters on {len(names)} modules: {_counted(names)}.")]


def unchecked(error: Exception) -> Finding:
    """The ranks have the model itself, and say it there."""
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return doubtful(
        CHECK, f"{_FIELD} is not checked, because the model cannot be outlined without its weights: {said}", ""
    )


def _matched(model: PreTrainedModel, spec: RunSpec) -> list[str]:
    """The paths of the modules that are named, empty where all linear ones are. Raises a User error for what they cannot be."""
    said = targets(spec)
    if isinstance(said, str) and said.lower() == ALL_LINEAR:
        return []
    modules = {path: module for path, module in model.named_modules() if path}
    matched = _found(said, modules, model)
    unfit = {path: modules[path] for path in matched if not isinstance(modules[path], (*_LINEAR, torch.nn.Embedding))}
    if unfit:
        kinds = ", ".join(
            dict.fromkeys(f"{_short(path)} is a {type(module).__name__}" for path, module in unfit.items())
        )
        raise _refused(model, f"{_FIELD} names modules that LoRA cannot adapt: {kinds}.")
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    for path in matched:
        if modules[path] is head:
            raise _refused(
                model,
                f"{_FIELD}: an adapter on the output layer ({_short(path)}) would not be trained, because the loss is "
                f"computed from that layer's weight itself.",
            )
        if modules[path] is embeddings and head is not None and head.weight is embeddings.weight:
            raise _refused(
                model,
                f"{_FIELD}: the embeddings of this model ({_short(path)}) are its output layer too, and an adapter on "
                f"them changes one of the two only: merged, it would be another model than the one that was evaluated.",
                also=" To train the embeddings take method.type: Full.",
            )
    return matched


def _found(said: str | list[str], modules: dict[str, Any], model: PreTrainedModel) -> list[str]:
    """The paths that PEFT would adapt, each name of a list having some."""
    try:
        sought = [
            LoraConfig(target_modules=each) for each in ([said] if isinstance(said, str) else [[n] for n in said])
        ]
        found = [[path for path in modules if check_target_module_exists(each, path)] for each in sought]
    except re.error as error:
        raise _refused(model, f"{_FIELD}: {said!r} is no regular expression ({error}).") from error
    names = [said] if isinstance(said, str) else said
    missing = [name for name, paths in zip(names, found, strict=True) if not paths]
    if missing or not names:
        near = _near(missing, modules)
        raise _refused(model, f"{_FIELD} names what this model does not have: {', '.join(missing) or 'nothing'}.", near)
    return list(dict.fromkeys(path for paths in found for path in paths))


def _near(missing: list[str], modules: dict[str, Any]) -> str:
    """What may be meant: names in one text, or nearly a name."""
    short = {_short(path) for path in modules}
    parts = [each for name in missing for each in re.split(r"[,|\s]+", name.strip("()[]")) if each]
    if len(parts) > len(missing) and set(parts) <= short:
        return f" Write a list: [{', '.join(parts)}]."
    found = [each for name in missing for each in difflib.get_close_matches(_short(name), short, n=1)]
    return f" Did you mean {', '.join(dict.fromkeys(found))}?" if found else ""


def _refused(model: PreTrainedModel, message: str, near: str = "", *, also: str = "") -> FinetuneError:
    head = model.get_output_embeddings()
    linear = [path for path, each in model.named_modules() if isinstance(each, _LINEAR) and each is not head]
    remedy = f"It is {ALL_LINEAR}, a regular expression of whole paths, or names out of these: {_counted(linear)}.{near}{also}"
    return user_error("InvalidTargetModules", message, remedy)


def _counted(paths: Iterable[str]) -> str:
    """The short names with how many modules have each."""
    counts = Counter(_short(path) for path in paths if not _short(path).isdigit())
    more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    return ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:_SHOWN]) + more


def _short(path: str) -> str:
    return path.rsplit(".", 1)[-1]
