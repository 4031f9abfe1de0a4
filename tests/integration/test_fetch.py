"""A model comes from a hub, a store or a folder, and is the same model: asked of real servers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_training.contract.failure import Failure, FailureClass, FinetuneError
from finetune_training.contract.spec import ModelSpec
from finetune_training.model.fetch import FetchedModel, default_cache, fetch_model, fetch_tokenizer
from finetune_training.model.modelfiles import Parts
from finetune_training.store.storage import open_store
from tests.servers.hub import Hub
from tests.servers.s3 import READER, S3Server, free_ports
from tests.tiny import write_model

REPO = "someone/tiny"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def spec(uri: str, *, revision: str = "", trust_remote_code: bool = False) -> ModelSpec:
    return ModelSpec(uri=uri, revision=revision, trust_remote_code=trust_remote_code)


def upload(folder: Path, uri: str) -> None:
    store = open_store(uri)
    for path in folder.iterdir():
        store.upload(path, path.name)


def failure_of(call: Callable[[], FetchedModel], cls: FailureClass) -> Failure:
    with pytest.raises(FinetuneError) as caught:
        call()
    failure = caught.value.failure
    assert failure.cls is cls
    assert failure.remedy
    return failure


def test_a_model_of_a_hub_loads_and_names_its_commit(hub: Hub, model: Path, cache: Path) -> None:
    sha = hub.publish(REPO, model)
    fetched = fetch_model(spec(f"hf://{REPO}"), cache=cache)
    assert fetched.revision == sha
    assert AutoModelForCausalLM.from_pretrained(fetched.folder).num_parameters() > 0
    assert AutoTokenizer.from_pretrained(fetched.folder)("love")["input_ids"]


def test_branch_tag_and_commit_lead_to_their_commit(hub: Hub, model: Path, cache: Path) -> None:
    old = hub.publish(REPO, model, tag="v1")
    newer = write_model(model.with_name("newer"), seed=1)
    new = hub.publish(REPO, newer)
    assert old != new
    for revision, expected, source in (("", new, newer), ("main", new, newer), ("v1", old, model), (old, old, model)):
        fetched = fetch_model(spec(f"hf://{REPO}", revision=revision), cache=cache)
        assert fetched.revision == expected
        weights = fetched.folder / "model.safetensors"
        assert weights.read_bytes() == (source / "model.safetensors").read_bytes()


def test_only_what_is_needed_is_asked_of_the_hub(hub: Hub, model: Path, cache: Path) -> None:
    for name in ("pytorch_model.bin", "consolidated.safetensors", "loss.png", "modeling_tiny.py"):
        (model / name).write_bytes(b"not needed")
    hub.publish(REPO, model)
    fetch_tokenizer(spec(f"hf://{REPO}"), cache=cache)
    assert not [request for request in hub.requests if "safetensors" in request]
    fetched = fetch_model(spec(f"hf://{REPO}"), cache=cache)
    assert {path.name for path in fetched.folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    trusting = fetch_model(spec(f"hf://{REPO}", trust_remote_code=True), cache=cache)
    assert (trusting.folder / "modeling_tiny.py").exists()


def test_a_commit_that_is_here_needs_no_hub(hub: Hub, model: Path, cache: Path) -> None:
    sha = hub.publish(REPO, model)
    first = fetch_model(spec(f"hf://{REPO}"), cache=cache)
    asked = len(hub.requests)
    again = fetch_model(spec(f"hf://{REPO}", revision=sha), cache=cache)
    assert again == first
    assert len(hub.requests) == asked
    # The tokenizer alone was never fetched: a note for the whole model must not stand for other parts.
    assert fetch_model(spec(f"hf://{REPO}", revision=sha), cache=cache, parts=Parts.TOKENIZER).revision == sha
    assert len(hub.requests) > asked


def test_what_a_hub_does_not_have_is_named(hub: Hub, model: Path, cache: Path) -> None:
    hub.publish(REPO, model)
    absent = failure_of(lambda: fetch_model(spec("hf://someone/else"), cache=cache), FailureClass.USER)
    assert (absent.reason, "hf://someone/else" in absent.message) == ("ModelNotFound", True)
    revision = failure_of(lambda: fetch_model(spec(f"hf://{REPO}", revision="v9"), cache=cache), FailureClass.USER)
    assert revision.reason == "RevisionNotFound"
    assert "'v9'" in revision.message
    for uri in (f"hf://{REPO}/subfolder", f"hf://{REPO}@main", "hf://"):
        failure = failure_of(lambda uri=uri: fetch_model(spec(uri), cache=cache), FailureClass.USER)  # type: ignore[misc]
        assert failure.reason == "InvalidModelURI"


def test_a_gated_model_says_what_to_do_and_opens_to_the_token(
    hub: Hub, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(REPO, model, token="hf_right")
    for token in ("", "hf_wrong"):
        monkeypatch.setenv("HF_TOKEN", token)
        failure = failure_of(lambda: fetch_model(spec(f"hf://{REPO}"), cache=cache), FailureClass.USER)
        assert failure.reason == "ModelAccessDenied"
        assert "HF_TOKEN" in failure.remedy
        assert "licence" in failure.remedy
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert (fetch_model(spec(f"hf://{REPO}"), cache=cache).folder / "model.safetensors").exists()


def test_a_hub_that_does_not_answer_is_infrastructure(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_ports(1)[0]}")
    failure = failure_of(lambda: fetch_model(spec(f"hf://{REPO}"), cache=cache), FailureClass.INFRASTRUCTURE)
    assert failure.reason == "HubUnreachable"
    assert "HF_ENDPOINT" in failure.message


def test_a_model_in_a_store_is_downloaded_once(s3_prefix: str, model: Path, cache: Path) -> None:
    upload(model, s3_prefix)
    first = fetch_model(spec(s3_prefix), cache=cache)
    assert AutoModelForCausalLM.from_pretrained(first.folder).num_parameters() > 0
    before = (first.folder / "model.safetensors").stat().st_mtime_ns
    assert fetch_model(spec(f"{s3_prefix}/"), cache=cache) == first
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == before


def test_new_weights_of_the_same_size_in_a_store_are_another_model(s3_prefix: str, model: Path, cache: Path) -> None:
    upload(model, s3_prefix)
    old = fetch_model(spec(s3_prefix), cache=cache)
    newer = write_model(model.with_name("newer"), seed=1)
    upload(newer, s3_prefix)
    new = fetch_model(spec(s3_prefix), cache=cache)
    assert new.revision != old.revision
    assert (new.folder / "model.safetensors").read_bytes() == (newer / "model.safetensors").read_bytes()


def test_processes_that_fetch_at_once_end_with_one_whole_model(s3_prefix: str, model: Path, cache: Path) -> None:
    upload(model, s3_prefix)
    script = (
        "import json, sys; from pathlib import Path; from finetune_training.model.fetch import fetch_model;"
        "from finetune_training.contract.spec import ModelSpec;"
        "fetched = fetch_model(ModelSpec(uri=sys.argv[1]), cache=Path(sys.argv[2]));"
        "print(json.dumps([str(fetched.folder), sorted(path.name for path in fetched.folder.iterdir())]))"
    )
    command = [sys.executable, "-c", script, s3_prefix, str(cache)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(set(answers)) == 1
    folder, names = json.loads(answers[0])
    assert "model.safetensors" in names
    assert [path for path in (cache / "stores").iterdir() if path.is_dir()] == [Path(folder)]


def test_a_download_that_was_killed_is_begun_anew(s3_prefix: str, model: Path, cache: Path) -> None:
    upload(model, s3_prefix)
    whole = fetch_model(spec(s3_prefix), cache=cache).folder
    partial = whole.with_suffix(".partial")
    shutil.move(whole, partial)
    (partial / "model.safetensors").write_bytes(b"half")
    fetched = fetch_model(spec(s3_prefix), cache=cache)
    assert (fetched.folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert not partial.exists()


def test_what_a_store_does_not_have_is_named(
    s3: S3Server, s3_prefix: str, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = failure_of(lambda: fetch_model(spec(s3_prefix), cache=cache), FailureClass.USER)
    assert (nothing.reason, s3_prefix in nothing.message) == ("ModelNotFound", True)
    (model / "tokenizer.json").unlink()
    upload(model, s3_prefix)
    assert failure_of(lambda: fetch_model(spec(s3_prefix), cache=cache), FailureClass.USER).reason == (
        "ModelWithoutTokenizer"
    )
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER.secret_key)
    assert failure_of(lambda: fetch_model(spec(s3_prefix), cache=cache), FailureClass.USER).reason == (
        "StoreAccessDenied"
    )
    assert not list(cache.rglob("*.safetensors"))


def test_a_local_folder_is_used_where_it_is(model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    for uri in (str(model), f"file://{model}", "model", "./model/"):
        assert fetch_model(spec(uri), cache=cache) == FetchedModel(model, "")
    assert not cache.exists()


def test_a_local_folder_that_is_no_model_is_refused(model: Path, cache: Path) -> None:
    def reason(uri: str, revision: str = "") -> str:
        return failure_of(lambda: fetch_model(spec(uri, revision=revision), cache=cache), FailureClass.USER).reason

    assert reason(str(model.with_name("absent"))) == "ModelNotFound"
    assert reason(str(model.parent)) == "ModelWithoutConfig"
    assert reason(str(model), "main") == "RevisionNotUsed"
    assert reason("ftp://host/model") == "UnknownScheme"
    (model / "tokenizer.json").unlink()
    assert reason(str(model)) == "ModelWithoutTokenizer"


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("FINETUNE_CACHE")
    assert default_cache() == Path.home() / ".cache" / "finetune" / "models"
