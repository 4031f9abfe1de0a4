"""An artifact's chat templates are the run's, wherever a loader looks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from finetune_training.contract.spec import ModelSpec
from finetune_training.model.artifact import Origin, complete_adapter
from finetune_training.model.export import publish
from finetune_training.model.fetch import fetch_tokenizer
from finetune_training.model.modelfiles import TEMPLATE, TEMPLATES, is_template
from finetune_training.store.storage import open_store
from tests.tiny import CHATML, write_tokenizer

TOOL_USE = "{{ tools | tojson }}" + CHATML
OWN = CHATML.replace("<|im_end|>' + '\n'", "<|im_end|>\n'")
LIST = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": TOOL_USE}]
TOOLS = [{"type": "function", "function": {"name": "weather"}}]


@pytest.fixture(params=["files", "settings", "both"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model with a template for tools, as transformers 5 saves it, as it was saved before, and both."""
    folder = write_tokenizer(tmp_path / "base", chat_template=None if request.param == "settings" else CHATML)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    if request.param != "settings":
        (folder / TEMPLATES).mkdir()
        (folder / TEMPLATES / "tool_use.jinja").write_text(TOOL_USE)
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHATML}))
    if request.param != "files":
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": LIST}))
    return folder


def completed(base: Path, out: Path, template: str = "", **arguments: Any) -> Any:
    out.mkdir()
    complete_adapter(out, Origin(base, False, template, arguments))
    return AutoTokenizer.from_pretrained(out)


def templates(folder: Path) -> dict[str, bytes]:
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return {name: (folder / name).read_bytes() for name in names if is_template(name)}


def test_the_bases_are_there_byte_for_byte_where_the_run_has_none(base: Path, tmp_path: Path) -> None:
    tokenizer = completed(base, tmp_path / "out")
    assert tokenizer.get_chat_template(tools=TOOLS) == TOOL_USE
    assert tokenizer.get_chat_template() == CHATML
    assert templates(tmp_path / "out") == templates(base)


def test_the_runs_own_is_the_only_one(base: Path, tmp_path: Path) -> None:
    tokenizer = completed(base, tmp_path / "out", OWN)
    assert (
        tokenizer.get_chat_template(tools=TOOLS) == tokenizer.get_chat_template() == OWN
    )  # as rows with tools were learnt
    assert set(templates(tmp_path / "out")) == {TEMPLATE}
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings.get("chat_template", OWN) == OWN


def test_the_runs_arguments_are_in_all_of_them(base: Path, tmp_path: Path) -> None:
    tokenizer = completed(base, tmp_path / "out", tone="dry")
    for tools, text in ((TOOLS, TOOL_USE), (None, CHATML)):
        found = tokenizer.get_chat_template(tools=tools)
        assert found.endswith(text)
        assert "set tone = 'dry'" in found
    assert set(templates(tmp_path / "out")) in ({TEMPLATE, f"{TEMPLATES}/tool_use.jinja"}, set())
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert all("set tone" in each["template"] for each in settings.get("chat_template", []))


def test_a_folder_that_had_another_model_has_none_of_its_templates(base: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    completed(base, tmp_path / "old")
    publish(tmp_path / "old", store)
    completed(base, tmp_path / "new", OWN)
    publish(tmp_path / "new", store)
    assert templates(tmp_path / "store") == templates(tmp_path / "new")


def test_templates_with_names_are_fetched_from_a_store(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from s3://: a folder of this machine is used in place."""
    monkeypatch.setattr("finetune_training.model.fetch.local_path", lambda uri: None)
    fetched = fetch_tokenizer(ModelSpec(uri=f"file://{base}"), cache=tmp_path / "cache").folder
    assert fetched != base
    assert templates(fetched) == templates(base)
