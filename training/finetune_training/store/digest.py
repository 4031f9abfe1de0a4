"""What proves a file to be the one that was meant.

In: a file. Out: its sha256, as the manifests of data, checkpoints and artifacts have it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
