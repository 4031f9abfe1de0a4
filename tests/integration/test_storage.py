"""Stores as they are: one suite for a folder and for a real S3 server, then what goes wrong with each."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from finetune_training.contract.failure import Failure, FailureClass, FinetuneError
from finetune_training.store.storage import Store, open_store
from tests.servers.s3 import OWNER, READER, Credentials, S3Proxy, S3Server, free_ports

MIB = 2**20


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty place in either kind of store."""
    return open_store(str(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("s3_prefix"))


def sizes(store: Store, prefix: str = "") -> dict[str, int]:
    return {entry.key: entry.size for entry in store.entries(prefix)}


def test_what_is_put_is_listed_and_read_back(store: Store) -> None:
    store.put("a.txt", b"one")
    store.put("deep/er/b.txt", b"three")
    assert sizes(store) == {"a.txt": 3, "deep/er/b.txt": 5}
    assert sizes(store, "deep") == {"deep/er/b.txt": 5}
    assert store.get("deep/er/b.txt") == b"three"
    assert store.child("deep", "er").get("b.txt") == b"three"


def test_a_prefix_names_a_folder_and_not_the_beginning_of_a_name(store: Store) -> None:
    store.put("step-1/x", b"")
    store.put("step-10/x", b"")
    assert [entry.key for entry in store.entries("step-1")] == ["step-1/x"]
    assert [entry.key for entry in store.child("step-1").entries()] == ["x"]


def test_folders_are_those_directly_below(store: Store) -> None:
    for key in ("checkpoints/step-2/a", "checkpoints/step-1/b/c", "checkpoints/file", "other/a"):
        store.put(key, b"")
    assert store.folders("checkpoints") == ["step-1", "step-2"]
    assert store.folders() == ["checkpoints", "other"]


def test_files_are_those_directly_below(store: Store) -> None:
    for key in ("plays/b.txt", "plays/a.txt", "plays/old/c.txt", "d.txt"):
        store.put(key, b"")
    assert [entry.key for entry in store.files("plays/")] == ["plays/a.txt", "plays/b.txt"]
    assert [entry.key for entry in store.files()] == ["d.txt"]


def test_a_head_tells_size_and_changes_with_the_content(store: Store) -> None:
    store.put("key", b"one")
    first = store.head("key")
    assert first in store.entries()
    assert first is not None
    assert first.size == 3
    store.put("key", b"another")
    second = store.head("key")
    assert second is not None
    assert second.e_tag != first.e_tag
    assert store.head("missing") is None


def test_a_part_of_an_object_can_be_read(store: Store) -> None:
    store.put("key", b"0123456789")
    assert store.get_range("key", start=3, length=4) == b"3456"
    with pytest.raises(FileNotFoundError):
        store.get_range("missing", start=0, length=1)


def test_an_object_that_is_not_there_is_an_answer_and_no_error(store: Store, tmp_path: Path) -> None:
    assert store.entries() == []
    assert store.folders() == []
    assert store.get("missing") is None
    store.delete(["missing"])
    with pytest.raises(FileNotFoundError):
        store.download("missing", tmp_path / "missing")
    assert list(tmp_path.glob("*missing*")) == []


def test_only_the_first_create_wins(store: Store) -> None:
    assert store.create("claim", b"first")
    assert not store.create("claim", b"second")
    assert store.get("claim") == b"first"


def test_put_replaces_and_delete_removes(store: Store) -> None:
    store.put("key", b"old")
    store.put("key", b"new")
    assert store.get("key") == b"new"
    store.put("other", b"")
    store.delete(["key", "gone-already"])
    assert [entry.key for entry in store.entries()] == ["other"]


def test_keys_are_taken_as_they_are(store: Store) -> None:
    for key in ("spaced name.txt", "plus+and%41.txt", "größe/日本.txt"):
        store.put(key, key.encode())
        assert store.get(key) == key.encode()
    assert {entry.key for entry in store.entries()} == {"spaced name.txt", "plus+and%41.txt", "größe/日本.txt"}


@pytest.mark.parametrize("size", [0, 5 * MIB, 21 * MIB + 7])
def test_a_file_survives_the_way_there_and_back(store: Store, tmp_path: Path, size: int) -> None:
    source, copy = tmp_path / "source.bin", tmp_path / "new" / "copy.bin"
    source.write_bytes(os.urandom(size))
    store.upload(source, "weights/model.bin")
    assert sizes(store) == {"weights/model.bin": size}
    store.download("weights/model.bin", copy)
    assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
    assert list(copy.parent.iterdir()) == [copy]


def test_a_probe_leaves_nothing_behind(store: Store) -> None:
    store.probe()
    assert store.entries() == []


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────────

OPERATIONS: dict[str, Callable[[Store], object]] = {
    "entries": lambda store: store.entries(),
    "files": lambda store: store.files(),
    "folders": lambda store: store.folders(),
    "get": lambda store: store.get("key"),
    "put": lambda store: store.put("key", b"value"),
    "create": lambda store: store.create("key", b"value"),
    "upload": lambda store: store.upload(Path(__file__), "key"),
    "probe": lambda store: store.probe(),
}
WRITES = ("put", "create", "upload", "probe")


def failure_of(operation: Callable[[Store], object], store: Store) -> Failure:
    with pytest.raises(FinetuneError) as caught:
        operation(store)
    return caught.value.failure


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "credentials",
    [Credentials("nobody", OWNER.secret_key), Credentials(OWNER.access_key, "wrong")],
    ids=["unknown key", "wrong secret"],
)
def test_wrong_credentials_are_the_users(
    operation: str, credentials: Credentials, s3: S3Server, s3_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment(credentials).items():
        monkeypatch.setenv(name, value)
    failure = failure_of(OPERATIONS[operation], open_store(s3_prefix))
    assert (failure.cls, failure.reason) == (FailureClass.USER, "StoreAccessDenied")
    assert s3_prefix in failure.message
    assert "AWS_SECRET_ACCESS_KEY" in failure.remedy


@pytest.mark.parametrize("operation", WRITES)
def test_a_reader_may_not_write(operation: str, s3: S3Server, s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(s3_prefix).put("there", b"")
    for name, value in s3.environment(READER).items():
        monkeypatch.setenv(name, value)
    store = open_store(s3_prefix)
    assert store.get("there") == b""
    failure = failure_of(OPERATIONS[operation], store)
    assert (failure.cls, failure.reason) == (FailureClass.USER, "StoreAccessDenied")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_missing_bucket_is_the_users(operation: str, s3_prefix: str) -> None:
    failure = failure_of(OPERATIONS[operation], open_store("s3://no-such-bucket/runs"))
    assert (failure.cls, failure.reason) == (FailureClass.USER, "NoSuchBucket")
    assert "s3://no-such-bucket/runs" in failure.message


def test_nobody_listening_is_infrastructure_and_said_soon(s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    began = time.monotonic()
    failure = failure_of(OPERATIONS["probe"], open_store(s3_prefix))
    assert time.monotonic() - began < 15
    assert (failure.cls, failure.reason) == (FailureClass.INFRASTRUCTURE, "StoreUnavailable")
    assert s3_prefix in failure.message
    assert endpoint in failure.remedy


def test_an_endpoint_that_is_no_url_is_the_users(s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    failure = failure_of(OPERATIONS["probe"], open_store(s3_prefix))
    assert failure.cls is FailureClass.USER
    assert "AWS_ENDPOINT_URL" in failure.message + failure.remedy


@pytest.mark.parametrize("operation", WRITES)
def test_a_folder_below_a_file_cannot_be_written(operation: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = open_store(str(tmp_path / "file" / "runs"))
    failure = failure_of(OPERATIONS[operation], store)
    assert (failure.cls, failure.reason) == (FailureClass.USER, "StoreUnwritable")
    assert str(tmp_path / "file" / "runs") in failure.message


def failure_on_tmpfs(options: str, folder: Path, call: str) -> dict[str, str]:
    """The failure of `call` with `store` on a small file system that only a new process sees."""
    script = f"""
from pathlib import Path
from finetune_training.contract.failure import classify
from finetune_training.store.storage import open_store
store = open_store({str(folder)!r})
try:
    {call}
except Exception as error:
    print(classify(error).to_json())
"""
    mount = f'mount -t tmpfs -o {options} none {shlex.quote(str(folder))} && exec "$@"'
    namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    command = [*namespace, "sh", "-c", mount, "sh", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    failure: dict[str, str] = json.loads(done.stdout)
    return failure


@pytest.mark.parametrize("call", ["store.put('key', b'x')", "store.child('runs').create('key', b'x')", "store.probe()"])
def test_a_read_only_file_system_cannot_be_written(call: str, tmp_path: Path) -> None:
    # Permission bits do not stop root, and tests often run as root: a read-only mount stops everybody.
    failure = failure_on_tmpfs("ro", tmp_path, call)
    assert (failure["class"], failure["reason"]) == ("User", "StoreUnwritable")
    assert str(tmp_path) in failure["message"]


@pytest.mark.parametrize(
    "call",
    [
        "store.put('key', bytes(2**21))",
        "store.upload(store.folder.with_name('big'), 'key')",
        "open_store(str(store.folder.parent)).download('big', store.folder / 'key')",
    ],
    ids=["put", "upload", "download"],
)
def test_a_full_disk_is_infrastructure(call: str, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "big").write_bytes(bytes(2 * MIB))
    failure = failure_on_tmpfs("size=1m", tmp_path / "disk", call)
    assert (failure["class"], failure["reason"]) == ("Infrastructure", "DiskFull")


def test_reading_does_not_make_the_folder(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "runs"))
    assert (store.entries(), store.files(), store.folders()) == ([], [], [])
    assert (store.get("key"), store.head("key")) == (None, None)
    store.delete(["key"])
    with pytest.raises(FileNotFoundError):
        store.get_range("key", start=0, length=1)
    with pytest.raises(FileNotFoundError):
        store.download("key", tmp_path / "key")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_scheme_is_the_users() -> None:
    with pytest.raises(FinetuneError) as caught:
        open_store("ftp://host/folder")
    assert (caught.value.failure.cls, caught.value.failure.reason) == (FailureClass.USER, "UnknownScheme")
    assert "s3://" in caught.value.failure.remedy


def test_a_store_that_is_away_for_some_seconds_is_waited_for(proxied_prefix: str, s3_proxy: S3Proxy) -> None:
    """Connections that are refused at once: time bounds the tries, not their number."""
    store = open_store(proxied_prefix)
    store.put("key", b"content")
    s3_proxy.fail(reset=True)
    timer = threading.Timer(6, s3_proxy.mend)
    timer.start()
    assert store.get("key") == b"content"
    timer.join()


def test_a_quick_store_gives_up_before_an_ordinary_one(
    proxied_prefix: str, s3_proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_training.store.storage._QUICK", timedelta(seconds=2))
    s3_proxy.fail(reset=True)
    failure = failure_of(lambda store: store.put("log", b"content"), open_store(proxied_prefix).quick)
    assert (failure.cls, failure.reason) == (FailureClass.INFRASTRUCTURE, "StoreUnavailable")
    assert "retry_timeout: 2s" in failure.message
