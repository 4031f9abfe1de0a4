"""The model folder's tokenizer → any process of any node.

In: the base model's folder. Out: `Portable`: the tokenizer as bytes, which a task turns back into the tokenizer once per
process. Pickled, because then a task needs no torch (AutoTokenizer imports it, 4 s) and gets exactly the class that was
chosen here; a tokenizer whose class comes with the model goes as the folder's files instead.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from finetune_training.contract.failure import FailureClass, FinetuneError, classify, user_error
from finetune_training.model.modelfiles import CONFIG
from finetune_training.model.refusals import UNLOADABLE
from finetune_training.store.digest import sha256_of

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json", ".ot")
"""What a model folder holds besides its tokenizer."""
_PROSE = (".md", ".txt.gz", ".png", ".jpg", ".pdf", "LICENSE", "NOTICE", "generation_config.json")
_LARGEST = 50 * 2**20
_REMOTE_CODE = "transformers_modules"


@dataclass(frozen=True)
class Portable:
    """A tokenizer as bytes: pickled, or the files that it is loaded from."""

    pickled: bytes
    files: tuple[tuple[str, bytes], ...] = ()

    def load(self) -> Any:
        """The tokenizer; each process makes it once."""
        return _load(self)


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that may decide what the tokenizer does: all but weights, prose and what is hidden."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not path.name.endswith((*_WEIGHTS, *_PROSE))
        and path.stat().st_size < _LARGEST
    ]


def digest(folder: Path) -> str:
    """sha256 over those files' names and bytes."""
    whole = hashlib.sha256()
    for path in tokenizer_files(folder):
        whole.update(f"{path.relative_to(folder)}\0{sha256_of(path)}\0".encode())
    return whole.hexdigest()


def load_tokenizer(folder: Path, *, trust_remote_code: bool) -> Any:
    """The tokenizer in `folder`. Raises a User error: there is none, or it wants its own code to be run."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        if not tokenizer("a")["input_ids"]:  # transformers makes up an empty one where the vocabulary is missing
            raise ValueError(f"{type(tokenizer).__name__} found no vocabulary")
    except UNLOADABLE as error:
        if classify(error).cls is not FailureClass.UNKNOWN:  # a full disk
            raise
        raise _not_loadable(folder, error, trust_remote_code=trust_remote_code) from error
    return tokenizer


def _not_loadable(folder: Path, error: Exception, *, trust_remote_code: bool) -> FinetuneError:
    """Because of the config, which transformers reads first, or of the tokenizer's own files."""
    from transformers import AutoConfig

    if "trust_remote_code" in str(error):
        remedy = "The tokenizer brings its own code: read it, then set spec.model.trustRemoteCode: true."
    else:
        remedy = "Check spec.model.uri: the folder needs tokenizer.json or the files that its tokenizer class wants."
    try:
        if (folder / CONFIG).is_file():
            AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except UNLOADABLE as why:
        if type(why) is type(error) and str(why) == str(error):
            message = f"transformers cannot read {folder / CONFIG}: {' '.join(str(why).split())[:300]}"
            return user_error("ModelNotLoadable", message, "Mend it, or take another model.", detail=str(why)[:600])
    message = f"{folder} has no tokenizer that transformers can load."
    return user_error("TokenizerNotLoadable", message, remedy, detail=str(error)[:600])


def do_without_torch() -> None:
    """From now on this process has no torch: transformers imports it with the first tokenizer (4 s), and none of its
    tokenizers needs it. For a process that loads no model and runs no code that came with one."""
    if "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own way to say that there is none


def portable(folder: Path, *, trust_remote_code: bool) -> Portable:
    """The tokenizer in `folder`, ready to travel."""
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    if type(tokenizer).__module__.startswith(_REMOTE_CODE):
        files = tuple((str(path.relative_to(folder)), path.read_bytes()) for path in tokenizer_files(folder))
        return Portable(b"", files)
    return Portable(pickle.dumps(tokenizer))


@lru_cache(maxsize=1)
def _load(portable: Portable) -> Any:
    if portable.pickled:
        return pickle.loads(portable.pickled)
    with tempfile.TemporaryDirectory(prefix="finetune-tokenizer-") as name:
        for path, content in portable.files:
            target = Path(name) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return load_tokenizer(Path(name), trust_remote_code=True)
