"""The hub of the tests, asked by the client that everyone uses: it must behave as the public one does."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.servers.hub import Hub

REPO = "someone/tiny"
WEIGHTS = bytes(range(256)) * 4096


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "onnx" / "int8").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "onnx" / "int8" / "model.json").write_text("{}")
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_a_snapshot_has_every_file_as_it_was_published(hub: Hub, model: Path, cache: Path) -> None:
    sha = hub.publish(REPO, model)
    folder = Path(snapshot_download(REPO, endpoint=hub.url, cache_dir=cache))
    assert folder.name == sha
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    published = {path.relative_to(model).as_posix(): path.read_bytes() for path in model.rglob("*") if path.is_file()}
    assert found == published


def test_a_branch_moves_while_a_tag_and_a_commit_stay(hub: Hub, model: Path, cache: Path, tmp_path: Path) -> None:
    old = hub.publish(REPO, model, tag="v1")
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "config.json").write_text('{"model_type": "gptj"}')
    new = hub.publish(REPO, newer)
    assert old != new
    for revision, expected in ((None, "gptj"), ("main", "gptj"), (new, "gptj"), ("v1", "llama"), (old, "llama")):
        path = hf_hub_download(REPO, "config.json", revision=revision, endpoint=hub.url, cache_dir=cache)
        assert expected in Path(path).read_text()


def test_the_api_knows_commit_tree_and_refs(hub: Hub, model: Path) -> None:
    sha = hub.publish(REPO, model, tag="v1")
    api = HfApi(endpoint=hub.url)
    info = api.model_info(REPO, revision="v1")
    assert (info.sha, info.gated) == (sha, False)
    assert [sibling.rfilename for sibling in info.siblings or []] == api.list_repo_files(REPO)
    assert {entry.path for entry in api.list_repo_tree(REPO)} == {"config.json", "model.safetensors", "onnx"}
    assert [entry.path for entry in api.list_repo_tree(REPO, "onnx")] == ["onnx/int8"]
    sizes = {entry.path: entry.size for entry in api.list_repo_tree(REPO, recursive=True) if hasattr(entry, "size")}
    assert sizes["model.safetensors"] == len(WEIGHTS)
    assert [tag.target_commit for tag in api.list_repo_refs(REPO).tags] == [sha]


def test_a_cut_off_download_goes_on_where_it_stopped(hub: Hub, model: Path) -> None:
    hub.publish(REPO, model)
    request = urllib.request.Request(f"{hub.url}/{REPO}/resolve/main/model.safetensors")
    request.add_header("Range", f"bytes={len(WEIGHTS) - 10}-")
    with urllib.request.urlopen(request) as response:
        assert response.status == 206
        assert response.headers["Content-Range"] == f"bytes {len(WEIGHTS) - 10}-{len(WEIGHTS) - 1}/{len(WEIGHTS)}"
        assert response.read() == WEIGHTS[-10:]


def test_what_is_not_there_is_told_apart(hub: Hub, model: Path, cache: Path) -> None:
    hub.publish(REPO, model)
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download("someone/else", endpoint=hub.url, cache_dir=cache)
    with pytest.raises(RevisionNotFoundError):
        snapshot_download(REPO, revision="v2", endpoint=hub.url, cache_dir=cache)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPO, "tokenizer.json", endpoint=hub.url, cache_dir=cache)


def test_a_gated_repository_opens_to_its_token_only(hub: Hub, model: Path, cache: Path) -> None:
    hub.publish(REPO, model, token="hf_right")
    assert HfApi(endpoint=hub.url).model_info(REPO).gated == "manual"
    for token, status in ((False, 401), ("hf_wrong", 403)):
        with pytest.raises(GatedRepoError) as caught:
            hf_hub_download(REPO, "config.json", token=token, endpoint=hub.url, cache_dir=cache)
        assert caught.value.response.status_code == status
    assert (Path(snapshot_download(REPO, token="hf_right", endpoint=hub.url, cache_dir=cache)) / "config.json").exists()


def test_a_new_process_finds_the_hub_by_its_environment(hub: Hub, model: Path, cache: Path) -> None:
    sha = hub.publish(REPO, model)
    script = (
        f"from huggingface_hub import snapshot_download; print(snapshot_download({REPO!r}, cache_dir={str(cache)!r}))"
    )
    environment = {**os.environ, **hub.environment()}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(sha)
    assert f"GET /{REPO}/resolve/{sha}/config.json" in hub.requests
