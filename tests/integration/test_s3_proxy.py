"""The proxy in front of the S3 server: it changes nothing until it is told to fail, and then fails as it is told."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from tests.servers.s3 import S3Server, free_ports

_CONTENT = bytes(range(256)) * 40_000
Fail = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def ports(s3: S3Server) -> Iterator[tuple[int, int]]:
    """A proxy's port, and the port by which it is told to fail."""
    listen, control = free_ports(2)
    script = Path(__file__).parents[1] / "servers" / "s3_proxy.py"
    places = [f"--listen=127.0.0.1:{listen}", f"--control=127.0.0.1:{control}", f"--server={s3.endpoint}"]
    with Popen([sys.executable, script, *places], stdout=PIPE, text=True) as proxy:
        assert proxy.stdout
        assert proxy.stdout.readline() == "s3-proxy: ready\n"
        yield listen, control
        proxy.kill()


@pytest.fixture
def store(s3: S3Server, ports: tuple[int, int]) -> S3Store:
    """The bucket, through the proxy."""
    return S3Store(
        s3.bucket,
        prefix="proxied",
        endpoint=f"http://127.0.0.1:{ports[0]}",
        access_key_id=s3.access_key,
        secret_access_key=s3.secret_key,
        region="us-east-1",
        client_options={"allow_http": True, "timeout": "5s"},
        retry_config={"max_retries": 0},
    )


@pytest.fixture
def fail(ports: tuple[int, int]) -> Iterator[Fail]:
    """Tell the proxy how to fail: a function of the fields of a Fault. The fault ends with the test."""

    def tell(**fault: float | str | bool) -> dict[str, Any]:
        content = json.dumps(fault).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}/", data=content, timeout=5) as answer:
            told = json.loads(answer.read())
        assert isinstance(told, dict)
        return told

    yield tell
    tell()


def test_it_is_not_noticed(store: S3Store) -> None:
    obstore.put(store, "plain name/ä+b.bin", _CONTENT, chunk_size=6 * 2**20)
    assert bytes(obstore.get(store, "plain name/ä+b.bin").bytes()) == _CONTENT
    assert bytes(obstore.get_range(store, "plain name/ä+b.bin", start=100, length=10)) == _CONTENT[100:110]
    obstore.put(store, "once", b"1", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "once", b"2", mode="create")
    assert {each["path"] for each in obstore.list(store).collect()} == {"plain name/ä+b.bin", "once"}


def test_it_answers_for_the_server(store: S3Store, fail: Fail) -> None:
    fail(status=503, methods="PUT", times=1)
    with pytest.raises(BaseError, match=r"503.*SlowDown|SlowDown"):
        obstore.put(store, "slow", _CONTENT, use_multipart=False)
    obstore.put(store, "slow", _CONTENT, use_multipart=False)
    assert bytes(obstore.get(store, "slow").bytes()) == _CONTENT


def test_it_fails_only_where_it_is_told_to(store: S3Store, fail: Fail) -> None:
    obstore.put(store, "spared", b"spared")
    fail(status=500, path="/wanted")
    with pytest.raises(BaseError):
        obstore.put(store, "wanted", b"")
    assert bytes(obstore.get(store, "spared").bytes()) == b"spared"


@pytest.mark.parametrize("fault", [{"reset": True}, {"hang": True}, {"cut": 1000}], ids=str)
def test_no_answer_comes_whole(store: S3Store, fail: Fail, fault: dict[str, Any]) -> None:
    obstore.put(store, "whole", _CONTENT)
    fail(**fault)
    with pytest.raises(BaseError):
        obstore.get(store, "whole").bytes()
    fail()
    assert bytes(obstore.get(store, "whole").bytes()) == _CONTENT


@pytest.mark.parametrize("fault", [{"delay": 1.0}, {"bytes_per_second": 5_000_000}], ids=str)
def test_it_is_slow(store: S3Store, fail: Fail, fault: dict[str, Any]) -> None:
    obstore.put(store, "late", _CONTENT)
    fail(**fault)
    began = time.monotonic()
    assert bytes(obstore.get(store, "late").bytes()) == _CONTENT
    assert time.monotonic() - began >= 1


def test_a_fault_that_does_not_exist_is_refused(fail: Fail) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        fail(explode=True)
    with refused.value as answer:
        assert "explode" in answer.read().decode()
