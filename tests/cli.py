"""`finetune` as its user runs it: a process of its own, in a folder of its own.

In: arguments. Out: exit code and what the terminal showed. `write_job` writes the file that most tests start from.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_DEADLINE = 240


@dataclass(frozen=True)
class Ended:
    code: int
    output: str


def command(*arguments: str, before: str = "") -> list[str]:
    return [sys.executable, "-c", f"{before}from finetune_training.cli.main import main; main()", *arguments]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment less what would choose another Ray; the virtual environment's programs first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120", **changes}


def finetune(folder: Path, *arguments: str, **changes: str) -> Ended:
    """Run it to its end."""
    return _to_the_end(folder, command(*arguments), changes)


def finetune_in_pod(folder: Path, account: Path, *arguments: str, **changes: str) -> Ended:
    """The same with the folder that Kubernetes mounts into a pod for its service account."""
    mounted = (
        f"from finetune_training.status import apiserver as a; "
        f"from pathlib import Path; a.ACCOUNT = Path({str(account)!r}); "
    )
    return _to_the_end(folder, command(*arguments, before=mounted), changes)


def _to_the_end(folder: Path, words: list[str], changes: dict[str, str]) -> Ended:
    ended = subprocess.run(
        words,
        cwd=folder,
        env=environment(**changes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_DEADLINE,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout)


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What the process prints, up to the line that has `text`."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"the process ended before it printed {text!r}:\n{seen}")


def write_rows(path: Path, *, rows: int = 60) -> Path:
    """Short conversations, all different."""
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"What is {n} and {n}?"},
                    {"role": "assistant", "content": f"It is {2 * n}."},
                ]
            }
        )
        for n in range(rows)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def write_job(folder: Path, *, model: str | Path, data: str | Path, name: str = "tiny", **changes: Any) -> Path:
    """A FineTuneJob of a few fast steps. `changes` are merged into the spec, field by field."""
    spec: dict[str, Any] = {
        "model": {"uri": str(model)},
        "dataset": {"train": [{"uri": str(data)}], "validation": {"fraction": 0.1}, "maxLength": 64},
        "method": {"lora": {"rank": 4}},
        "training": {"maxSteps": 6, "globalBatchSize": 4, "learningRate": 1e-3, "gradientCheckpointing": False},
        "deepspeed": {"stage": 2},
        "checkpoint": {"everySteps": 3},
        "output": [{"format": "Adapter"}],
    }
    _merge(spec, changes)
    body = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": name}, "spec": spec}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(body, sort_keys=False))
    return path


def _merge(into: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
