"""The temporary folder: what is wrong with it is told by its variable, and a long path is shortened for Ray."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune_training.contract.failure import Failure, FailureClass, FinetuneError, Reason
from finetune_training.preflight import scratch
from finetune_training.preflight.scratch import check_scratch, ray_folder

SESSION = "session_2026-11-29_08-41-01_123456_4194304"


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in scratch.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def long_folder(root: Path) -> Path:
    folder = root / ("a" * 60) / ("b" * 60)
    folder.mkdir(parents=True)
    return folder


def test_without_a_variable_it_is_where_everybody_goes() -> None:
    with ray_folder() as folder:
        assert folder == "/tmp/ray"


@pytest.mark.parametrize("name", scratch.VARIABLES)
def test_a_long_path_gets_a_short_one_and_the_bytes_stay_where_they_should(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = long_folder(tmp_path)
    monkeypatch.setenv(name, str(chosen))
    with ray_folder() as folder:
        sockets = Path(folder, SESSION, "sockets")
        sockets.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(sockets / "plasma_store.00"))
        assert (chosen / "ray" / SESSION / "sockets" / "plasma_store.00").exists()
        link = Path(folder).parents[1]
    assert not link.exists()
    assert (chosen / "ray" / SESSION).is_dir()


def test_a_path_that_just_fits_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = scratch._SOCKET - scratch._BELOW
    folder = Path(tempfile.mkdtemp(prefix="ft-", dir="/tmp"))
    try:
        fits = folder / ("x" * (room - len(str(folder)) - 1))
        fits.mkdir()
        monkeypatch.setenv("TMPDIR", str(fits))
        with ray_folder() as chosen:
            assert chosen == f"{fits}/ray"
            assert len(f"{chosen}/{SESSION}/sockets/plasma_store.00") == scratch._SOCKET
    finally:
        shutil.rmtree(folder)


def test_a_long_path_without_a_place_for_the_link_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(long_folder(tmp_path)))
    monkeypatch.setattr(scratch, "SYSTEM", tmp_path / "nothing")
    failure = refused(lambda: ray_folder().__enter__())
    assert "TMPDIR: " in failure.message
    assert "too long for Ray" in failure.message
    assert f"at most {scratch._SOCKET - scratch._BELOW} bytes" in failure.remedy


@pytest.mark.parametrize("name", scratch.VARIABLES)
@pytest.mark.parametrize(
    ("folder", "why"),
    [("/no/such/folder", "does not exist"), ("tmp", "is no absolute path"), (__file__, "is no folder"), ("/proc", "")],
)
def test_a_folder_that_cannot_be_used_is_told_by_its_variable(
    name: str, folder: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, folder)
    if folder == "/proc":
        monkeypatch.setattr(tempfile, "TemporaryFile", forbidden)
        why = "cannot be written"
    failure = refused(check_scratch)
    assert failure.message.startswith(f"{name}: {folder} {why}")
    assert failure.remedy.startswith(f"Set {name} to")


def test_a_disk_without_space_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(FinetuneError) as raised:
        check_scratch()
    failure = raised.value.failure
    assert (failure.cls, failure.reason) == (FailureClass.INFRASTRUCTURE, Reason.DISK_FULL)
    assert f"TMPDIR: {tmp_path} has 1 MiB left" in failure.message


def forbidden(**_: object) -> None:
    raise PermissionError(13, os.strerror(13))


def refused(action: Callable[[], object]) -> Failure:
    with pytest.raises(FinetuneError) as raised:
        action()
    failure = raised.value.failure
    assert (failure.cls, failure.reason) == (FailureClass.USER, "TemporaryFolderUnusable")
    return failure
