"""A tokenizer is found in a model's folder, named by its content, and travels to other processes."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.model.tokenizer import digest, load_tokenizer, portable, tokenizer_files
from tests.tiny import write_tokenizer

TEXT = "Shall I compare thee? Ä 日本"

OWN_CODE = """
from transformers import PreTrainedTokenizerFast

class OwnTokenizer(PreTrainedTokenizerFast):
    own = True
"""


def _with_own_code(folder: Path) -> Path:
    write_tokenizer(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own_tokenizer.OwnTokenizer"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "own_tokenizer.py").write_text(OWN_CODE)
    return folder


def test_a_travelled_tokenizer_gives_the_same_tokens_without_torch(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "model")
    (tmp_path / "bytes").write_bytes(pickle.dumps(portable(folder, trust_remote_code=False)))
    script = (
        "import pickle, sys; "
        f"tokenizer = pickle.load(open({str(tmp_path / 'bytes')!r}, 'rb')).load(); "
        f"print(tokenizer({TEXT!r})['input_ids'], tokenizer.chat_template[:10], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    expected = load_tokenizer(folder, trust_remote_code=False)
    assert done.stdout.strip() == f"{expected(TEXT)['input_ids']} {expected.chat_template[:10]} False"


def test_a_tokenizer_with_its_own_code_travels_as_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = _with_own_code(tmp_path / "model")
    travelled = portable(folder, trust_remote_code=True)
    assert {name for name, _ in travelled.files} >= {"own_tokenizer.py", "tokenizer.json", "chat_template.jinja"}
    assert travelled.load().own
    assert travelled.load() is travelled.load()
    assert travelled.load()(TEXT) == load_tokenizer(write_tokenizer(tmp_path / "same"), trust_remote_code=False)(TEXT)


@pytest.mark.parametrize("config", [{}, {"model_type": "gpt2"}, {"model_type": "llama"}])
def test_a_folder_without_a_tokenizer_is_the_users_to_mend(tmp_path: Path, config: dict[str, str]) -> None:
    """transformers makes up an empty tokenizer for a model type that it knows."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FinetuneError) as caught:
        load_tokenizer(tmp_path, trust_remote_code=False)
    failure = caught.value.failure
    assert (failure.cls, failure.reason) == (FailureClass.USER, "TokenizerNotLoadable")
    assert str(tmp_path) in failure.message


def test_own_code_is_run_only_when_the_spec_says_so(tmp_path: Path) -> None:
    with pytest.raises(FinetuneError) as caught:
        load_tokenizer(_with_own_code(tmp_path), trust_remote_code=False)
    assert "spec.model.trustRemoteCode: true" in caught.value.failure.remedy


def test_the_digest_follows_the_tokenizer_and_not_weights_or_prose(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "one")
    same = write_tokenizer(tmp_path / "two")
    for name in ("model.safetensors", "README.md", "generation_config.json", ".cache/lock"):
        (same / name).parent.mkdir(exist_ok=True)
        (same / name).write_text("x")
    assert digest(folder) == digest(same)
    assert [path.name for path in tokenizer_files(same)] == [
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    (same / "chat_template.jinja").write_text("{{ messages }}")
    assert digest(folder) != digest(same)
