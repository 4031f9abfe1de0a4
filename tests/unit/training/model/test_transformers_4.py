"""An artifact in an environment of its own, with transformers 4: the right rotary base, and an answer that ends."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_training.model.artifact import Origin
from finetune_training.model.export import write_model
from finetune_training.predict.prompts import encode
from tests.cluster.layout import ROOT
from tests.tiny import write_model as write_tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
END = 2
"""`<|im_end|>`, where the chat template ends a turn and the tokenizer ends nothing."""
_ASKED = """
import json, sys
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Love?"}], add_generation_prompt=True, return_tensors="pt")
with torch.no_grad():
    answer = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=60, do_sample=False)
    logits = model(prompt).logits.double().tolist()
print(json.dumps({
    "version": transformers.__version__, "base": model.config.rope_theta, "side": tokenizer.padding_side,
    "prompt": prompt[0].tolist(), "answer": answer[0, prompt.shape[1]:].tolist(), "logits": logits,
}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with transformers 4.57. torch, which is gigabytes, is that of these tests."""
    uv, folder = ROOT / "build" / "tools" / "uv" / "bin" / "uv", tmp_path_factory.mktemp("transformers-4")
    if not uv.exists():
        pytest.skip("make setup has not made build/tools/uv")
    python = folder / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", "3.11", folder], check=True, timeout=120)
    install: list[str | Path] = [uv, "pip", "install", "--quiet", "--python", python, "transformers==4.57.*"]
    subprocess.run(install, check=True, timeout=600, env={**os.environ, "UV_LINK_MODE": "copy"})
    packages = folder / "lib" / "python3.11" / "site-packages"
    (packages / "zz-torch.pth").write_text(sysconfig.get_path("purelib"))
    return python


def asked(python: Path, folder: Path) -> dict[str, Any]:
    done = subprocess.run([python, "-I", "-c", _ASKED, folder], capture_output=True, text=True, timeout=300, cwd="/")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("written_by", [4, 5])
def test_an_artifact_has_its_rotary_base_in_transformers_4_and_stops_at_its_end_token(
    written_by: int, python: Path, tmp_path: Path
) -> None:
    rope = {"rope_type": "default", "rope_theta": 100000.0}
    base = write_tiny(tmp_path / "base", rope_parameters=rope, initializer_range=0.4, tie_word_embeddings=False)
    config = json.loads((base / "config.json").read_text())
    if written_by == 4:
        config |= {"rope_theta": config.pop("rope_parameters")["rope_theta"]}
        (base / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_pretrained(base)
    prompt = encode(AutoTokenizer.from_pretrained(base), "Love?", chat=True)
    with torch.no_grad():  # what it would say first becomes the end
        first = int(model(torch.tensor([prompt])).logits[0, -1].argmax())
        model.lm_head.weight[[END, first]] = model.lm_head.weight[[first, END]].clone()
        logits = model(torch.tensor([prompt])).logits
    write_model(model, tmp_path / "out", Origin(base, trust_remote_code=False))
    found = asked(python, tmp_path / "out")
    assert found["version"].startswith("4.57.")
    assert (found["prompt"], found["side"]) == (prompt, "left")
    assert found["base"] == 100000.0
    assert torch.allclose(torch.tensor(found["logits"]), logits, atol=1e-4)
    assert found["answer"] == [END]
