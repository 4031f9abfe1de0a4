"""The real model of the examples and rows of real text, as a job's source: what users train, small enough for two CPU cores.

In: a folder. Out: SmolLM2-135M-Instruct as `make assets` makes it, and lines of Shakespeare.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from tests.cluster.layout import ROOT

_ASSETS = ROOT / "build" / "assets"
METHOD: dict[str, Any] = {"type": "LoRA", "lora": {"rank": 16, "alpha": 32, "dropout": 0.1}}


@cache
def assets() -> Path:
    """The folder of the examples' model and texts, made if it is not there."""
    subprocess.run([sys.executable, "examples/assets.py"], cwd=ROOT, check=True, capture_output=True)
    return _ASSETS


def real_model() -> Path:
    return assets() / "smollm2-135m-instruct"


def write_lines(path: Path, count: int) -> Path:
    """So many lines of the training texts, each a row: mostly some ten tokens."""
    texts = sorted((assets() / "shakespeare" / "train").glob("*.txt"))
    lines = (line.strip() for text in texts for line in text.read_text().splitlines())
    rows = [f"{number}. {line}" for number, line in zip(range(count), filter(None, lines), strict=False)]
    path.write_text("\n".join(rows) + "\n")
    return path
