"""What the headers of a model's weights say, without the weights.

In: a model's folder on this machine. Out: how many rows its token embeddings have. A safetensors file begins with the length of
its header (8 bytes, little end first) and the header, which is JSON: names, types, shapes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune_training.model.modelfiles import is_weights

_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
"""What model families call them."""
_LONGEST = 100 * 2**20
"""The library's own limit."""


def embedding_rows(folder: Path) -> int | None:
    """The number of token embeddings, None where the weights are not here or call them otherwise."""
    shapes = {name: shape for path in sorted(folder.glob("*.safetensors")) for name, shape in _shapes(path).items()}
    found = [name for name in shapes if name.endswith(".weight") and name.split(".")[-2:][0] in _EMBEDDINGS]
    tables = sorted((name for name in found if len(shapes[name]) == 2), key=len)
    return shapes[tables[0]][0] if tables else None


def _shapes(path: Path) -> dict[str, list[int]]:
    """Nothing for a file that is no such thing: what loads it will say so."""
    if not is_weights(path.name):
        return {}
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: Any = json.loads(file.read(length)) if length < _LONGEST else {}
        return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}
