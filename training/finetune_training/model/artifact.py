"""Trained weights and the base model's folder → a folder that is used as the run has used the model.

In: what transformers or PEFT has written of the trained weights, and the base. Out: beside them what of the base's folder loaders
read and people must know (modelfiles.py), byte for byte where training has changed nothing; and what only our own code would know
otherwise: the tokens that end an answer, the padding, the run's chat template. Where a file was written for transformers 5 alone,
the keys that transformers 4 reads stand beside its own (bothversions.py).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml

from finetune_training.chat.forms import chosen
from finetune_training.chat.habits import ends_of_turns
from finetune_training.model.bothversions import config_for_both, tokenizer_for_both
from finetune_training.model.modelfiles import ADAPTER_CONFIG, CONFIG, README, TEMPLATES, is_template, taken_over
from finetune_training.model.templatefiles import in_settings, write_templates
from finetune_training.model.tokenizer import load_tokenizer

GENERATION, TOKENIZER = "generation_config.json", "tokenizer_config.json"
BASE_README: Final = "README-base.md"
_DTYPES: Final = ("dtype", "torch_dtype")
"""As transformers 5 and 4 name it."""
_UNTIED: Final = "tie_word_embeddings"
Settings = dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """Where a model comes from. `chat_template`: the run's own, empty where it is the base's; and its arguments."""

    base: Path
    trust_remote_code: bool
    chat_template: str = ""
    chat_template_args: Mapping[str, Any] = field(default_factory=dict)


def complete_model(folder: Path, origin: Origin) -> None:
    """Beside a whole model as `save_pretrained` left it in `folder`."""
    base = origin.base
    _complete(folder, origin, adapter=False)
    _write(folder, base, CONFIG, lambda before: config_for_both(_config(before, _read(folder / CONFIG))))


def complete_adapter(folder: Path, origin: Origin) -> None:
    """Beside an adapter as PEFT left it in `folder`. A config would make a model of it, so it gets none."""
    (folder / README).unlink(missing_ok=True)  # PEFT's own, with nothing in it
    _complete(folder, origin, adapter=True)


def license_of(base: Path) -> dict[str, str]:
    """What the base model's card says of its licence, by the names of the hub's cards; nothing where it says nothing."""
    text = (base / README).read_text(encoding="utf-8", errors="replace") if (base / README).is_file() else ""
    matter = re.match(r"\s*---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    try:
        said = yaml.safe_load(matter[1]) if matter else None
    except yaml.YAMLError:
        return {}
    return {name: str(said[name]) for name in _LICENSE if said.get(name)} if isinstance(said, dict) else {}


_LICENSE: Final = ("license", "license_name", "license_link")


def _complete(folder: Path, origin: Origin, *, adapter: bool) -> None:
    base = origin.base
    tokenizer = load_tokenizer(base, trust_remote_code=origin.trust_remote_code)
    bases = tokenizer.chat_template
    tokenizer.chat_template = chosen(bases, origin.chat_template, origin.chat_template_args)
    template = tokenizer.chat_template if tokenizer.chat_template != bases else None
    names = _names(base)
    vocabulary = set(getattr(tokenizer, "vocab_files_names", {}).values())
    for name in taken_over(names, vocabulary=vocabulary, remote_code=origin.trust_remote_code):
        if name not in _LOOKED_AT and not (template and is_template(name)):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(base / name, folder / name)
    if README in names:
        shutil.copyfile(base / README, folder / BASE_README)
    write_templates(folder, template, names)
    settings = partial(_tokenizer, tokenizer=tokenizer, adapter=adapter)
    _write(folder, base, TOKENIZER, lambda before: in_settings(settings(before), template, names))
    config = _read(base / CONFIG)
    _write(folder, base, GENERATION, lambda before: _generation(before, config, tokenizer))


_LOOKED_AT: Final = (CONFIG, ADAPTER_CONFIG, TOKENIZER, GENERATION)


def _names(base: Path) -> list[str]:
    """Of the base's files, and of those in the folder of templates."""
    paths = [*base.iterdir(), *base.glob(f"{TEMPLATES}/*")]
    return sorted(path.relative_to(base).as_posix() for path in paths if path.is_file())


def _write(folder: Path, base: Path, name: str, change: Callable[[Settings], Settings]) -> None:
    """The base's file, its own bytes unless `change` makes it say something else."""
    before = _read(base / name)
    after = change(dict(before))
    if after == before and before:
        shutil.copyfile(base / name, folder / name)
    else:
        (folder / name).write_text(json.dumps(after, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(path: Path) -> Settings:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _config(before: Settings, written: Settings) -> Settings:
    """The base's config with what is new of the weights; or the one that transformers has written where it makes another
    architecture of the base, as of one that can see, whose text alone is trained."""
    if before.get("architectures") not in (None, written["architectures"]):
        return written
    after = {"architectures": written["architectures"], **before}
    dtype = written.get("dtype")
    if dtype and next((before[name] for name in _DTYPES if before.get(name)), None) != dtype:
        after |= dict.fromkeys([name for name in _DTYPES if name in before] or _DTYPES, dtype)
    if written.get(_UNTIED, before.get(_UNTIED)) is False and before.get(_UNTIED):
        after[_UNTIED] = False
    return after


def _tokenizer(before: Settings, tokenizer: Any, *, adapter: bool) -> Settings:
    """Answers are generated in batches that are padded on the left."""
    after = tokenizer_for_both(before)
    if after.get("padding_side") != "left":
        after["padding_side"] = "left"
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        after["pad_token"] = str(tokenizer.eos_token)
    if adapter and "tokenizer_class" not in after:  # where no config says which model it is for
        after |= tokenizer_for_both({"tokenizer_class": type(tokenizer).__name__})
    return after


def _generation(before: Settings, config: Settings, tokenizer: Any) -> Settings:
    """All tokens at which `finetune predict` ends an answer, and one to pad with; else what the base says."""
    after = dict(before) or {name: config[name] for name in _TOKENS if config.get(name) is not None}
    said = after.get("eos_token_id")
    own = said if isinstance(said, list) else [said]
    ends = sorted({token for token in (*own, tokenizer.eos_token_id, *ends_of_turns(tokenizer)) if token is not None})
    if ends != sorted(token for token in own if token is not None):
        after["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    if after.get("pad_token_id") is None:
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        after |= {} if pad is None else {"pad_token_id": pad}
    if after != before:
        after.pop("_from_model_config", None)  # with it transformers 4 may prefer the config's tokens
    return after


_TOKENS: Final = ("bos_token_id", "eos_token_id", "pad_token_id")
