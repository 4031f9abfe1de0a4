"""A checkpoint for another number of ranks than wrote it.

In: a complete checkpoint on this disk, as DeepSpeed and transformers wrote it. Out: the same state in a form that any
number of ranks can load: DeepSpeed's universal checkpoint, one file per parameter and Adam moment. At ZeRO stage 0 every
rank holds everything, so its files are taken as they are.

The run then goes on as if it had always had that many ranks, up to the order in which floats are summed. Only dropout
differs: rank r takes the random state of rank r mod W, W being the number of ranks that saved. Where the universal form is
kept, so that it is made once, is universal.py's.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from argparse import Namespace
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from finetune_training.checkpoint.manifest import MANIFEST, lists_universal

_LATEST = "latest"
_UNIVERSAL = "latest_universal"
_RNG = re.compile(r"rng_state(?:_(\d+))?\.pth")


def convert(folder: Path, out: Path) -> None:
    """Write to `out` what any number of ranks need of the checkpoint `folder`. Nothing is done when `out` is there: it
    appears all at once."""
    if out.exists():
        return
    part = _part(out)
    tag = (folder / _LATEST).read_text().strip()
    if any((folder / tag).glob("*_optim_states.pt")):
        _to_universal(folder / tag, part / tag)
    else:
        shutil.copytree(folder / tag, part / tag, copy_function=_link)
        _link(folder / _LATEST, part / _LATEST)
    # But for what we have put beside the files that DeepSpeed and transformers have written.
    for path in folder.iterdir():
        if path.is_file() and path.name not in (_LATEST, _UNIVERSAL, MANIFEST) and not lists_universal(path.name):
            _link(path, part / path.name)
    part.rename(out)


def arranged(folder: Path, out: Path, *, ranks: int) -> None:
    """Make `out` show what `convert` has written as `ranks` ranks look for it. Nothing is done when `out` is there."""
    if out.exists():
        return
    part = _part(out)
    shutil.copytree(
        folder, part, copy_function=_link, dirs_exist_ok=True, ignore=shutil.ignore_patterns("rng_state*.pth")
    )
    states = _random_states(folder)
    for rank in range(ranks if states else 0):
        _link(states[rank % len(states)], part / (f"rng_state_{rank}.pth" if ranks > 1 else "rng_state.pth"))
    part.rename(out)


def _part(out: Path) -> Path:
    """A folder that will become `out`."""
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def loading(folder: Path) -> dict[str, Any]:
    """What the DeepSpeed config must say so that the engine can load `folder`; nothing for an ordinary checkpoint."""
    return {"checkpoint": {"load_universal": True}} if (folder / _UNIVERSAL).exists() else {}


def settle(engine: Any) -> None:
    """Mend what DeepSpeed 0.19 leaves wrong after it has loaded a checkpoint. What the engine saves from here on is an
    ordinary one."""
    import torch
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    universal = engine.load_universal_checkpoint()
    engine._config.load_universal_checkpoint = False
    optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)  # ZeRO wraps it
    # Groups are loaded as they were: they lack the options that only this optimizer has, when that of a run without offload
    # has written them, or the other way round.
    for group in optimizer.param_groups:
        for name, value in optimizer.defaults.items():
            group.setdefault(name, value)
    on_host = isinstance(optimizer, DeepSpeedCPUAdam)
    on_device = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    for parameter, state in optimizer.state.items():
        step = state.get("step")
        if torch.is_tensor(step) and on_host:
            state["step"] = int(step)
        elif torch.is_tensor(step) and universal:
            # ZeRO-3 gives all its flat tensors one and the same counter, which each of them would then advance. It also
            # lies on the CPU, where a fused optimizer cannot use it.
            state["step"] = step.detach().clone().to(parameter.device if on_device else "cpu")


def _to_universal(source: Path, target: Path) -> None:
    """One process, one rank's file or one parameter in memory at a time."""
    from deepspeed.checkpoint import ds_to_universal

    target.mkdir()
    options = Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # progress bars
        ds_to_universal.main(options)
    _trim(target / "zero" / "optimizer_state.pt")


def _trim(file: Path) -> None:
    """At ZeRO-3 this file holds all of rank 0's optimizer state, which every rank would load to read one step number.

    And ZeRO-3 applies the first group's options to all groups. Those that differ (weight decay) must stay what the
    trainer has set them to: they are left out.
    """
    import torch

    state = torch.load(file, map_location="cpu", weights_only=False)
    inner = state.get("optimizer_state_dict")
    if inner is None:
        return
    groups = inner["param_groups"]
    same = {key: value for key, value in groups[0].items() if all(group.get(key) == value for group in groups)}
    slim = {key: value for key, value in state.items() if key != "fp32_flat_groups"}
    slim["optimizer_state_dict"] = {"state": {0: {"step": inner["state"][0]["step"]}}, "param_groups": [same]}
    torch.save(slim, file)


def _random_states(folder: Path) -> list[Path]:
    """In the order of the ranks."""
    found = [(int(match[1] or 0), path) for path in folder.iterdir() if (match := _RNG.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _link(source: str | Path, target: str | Path) -> None:
    """A checkpoint's files are never written again, so they need not be copied."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
