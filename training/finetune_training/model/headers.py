"""What the config and the headers of a model's weights say, without the weights.

In: a model's folder on this machine. Out: how many tokens it has embeddings for, and how many it takes at once; what is wrong
with a file of weights, as far as its size and its header tell. A safetensors file begins with the length of its header (8 bytes,
little end first) and the header, which is JSON: names, types, shapes, places.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, Final

from finetune_training.model.modelfiles import CONFIG, index_of, is_weights, loaded

_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
"""What model families call them."""
_VOCABULARY: Final = ("vocab_size", "padded_vocab_size", "n_vocab")
_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
_STRETCHED = ("linear", "dynamic", "yarn", "ntk")
"""Kinds of rotary scaling that stretch a context which the config still gives as it was before."""
_LONGEST = 100 * 2**20
"""The library's own limit."""
_POINTER: Final = b"version https://git-lfs"


class Broken(ValueError):
    """Why a file is no whole file of weights, in words that go on from its name."""


def text_config(folder: Path) -> dict[str, Any]:
    """The config of the language model, where it is part of another one too."""
    whole = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    text = whole.get("text_config")
    return {**whole, **text} if isinstance(text, dict) else whole


def embeddings_of(folder: Path) -> int | None:
    """How many tokens the model has embeddings for: what its weights say, where they are here, else its config; None where
    neither does."""
    if not (folder / CONFIG).is_file():
        return None
    config = text_config(folder)
    rows = None if "quantization_config" in config else _embedding_rows(folder)
    return rows or next((config[name] for name in _VOCABULARY if isinstance(config.get(name), int)), None)


def context_of(config: dict[str, Any]) -> int | None:
    """How many tokens the model takes, as far as its config says so, with what rotary scaling adds."""
    said: int | None = next((config[name] for name in _CONTEXT if isinstance(config.get(name), int)), None)
    if said is None:
        return None
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    return max([said, *(_stretched(each, said) for each in _scalings(scaling))])


def _scalings(scaling: Any) -> list[dict[str, Any]]:
    """Also where each kind of layer has its own."""
    if not isinstance(scaling, dict):
        return []
    nested = [each for each in scaling.values() if isinstance(each, dict)]
    return nested or [scaling]


def _stretched(scaling: dict[str, Any], said: int) -> int:
    kind = scaling.get("rope_type") or scaling.get("type")
    factor = scaling.get("factor")
    if kind not in _STRETCHED or not isinstance(factor, int | float):
        return said
    return int(factor * (scaling.get("original_max_position_embeddings") or said))


def damaged(folder: Path) -> tuple[str, str] | None:
    """The first of the files of weights that are in `folder` that cannot be whole, and why; None: as far as headers tell, all
    are."""
    for name in loaded(_names(folder)):
        try:
            _check(folder / name)
        except Broken as why:
            return name, str(why)
    return None


def incomplete(folder: Path) -> tuple[str, str] | None:
    """The index of weights in several files and what is wrong with it: a file that it names is not there."""
    names = _names(folder)
    index = index_of(names)
    if index is None:
        return None
    try:
        wanted = set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return index, "is no index of weights"
    missing = sorted(wanted - set(names))
    return (index, f"names {', '.join(missing[:4])}, which is not there") if missing else None


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file()]


def _check(path: Path) -> None:
    with path.open("rb") as file:
        beginning = file.read(len(_POINTER))
    if not beginning:
        raise Broken("is empty")
    if beginning == _POINTER:
        raise Broken("is a pointer of Git LFS and not the file itself")
    if path.suffix == ".safetensors":
        _check_size(path)
    elif path.suffix == ".bin" and beginning.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise Broken("is cut: the end of the file is not there")


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    length, header = _header(path)
    places = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
    whole = 8 + length + max(places, default=0)
    if size < whole:
        raise Broken(f"is cut: it has {size:,} of {whole:,} bytes")
    if size > whole:
        raise Broken(f"has {size:,} bytes, and its header speaks of {whole:,}")


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """The header's length and the header. Raises Broken: there is none."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST:
            raise Broken("does not begin as a safetensors file does")
        text = file.read(length)
    if len(text) < length:
        raise Broken("is cut within its header")
    try:
        header = json.loads(text)
        for name, each in header.items():
            if name != "__metadata__":
                each["shape"], each["data_offsets"][1]
    except (ValueError, AttributeError, KeyError, IndexError, TypeError):
        raise Broken("does not begin as a safetensors file does") from None
    return length, header


def _embedding_rows(folder: Path) -> int | None:
    shapes = {name: shape for path in sorted(folder.glob("*.safetensors")) for name, shape in _shapes(path).items()}
    found = [name for name in shapes if name.endswith(".weight") and name.split(".")[-2:][0] in _EMBEDDINGS]
    tables = sorted((name for name in found if len(shapes[name]) == 2), key=len)
    return shapes[tables[0]][0] if tables else None


def _shapes(path: Path) -> dict[str, list[int]]:
    """Nothing for a file that is no such thing: `damaged` says so."""
    if not is_weights(path.name):
        return {}
    try:
        header = _header(path)[1]
    except (OSError, Broken):
        return {}
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
