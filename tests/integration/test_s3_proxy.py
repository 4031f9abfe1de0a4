"""The proxy in front of the S3 server: it changes nothing until it is told to fail, and then fails as it is told."""

from __future__ import annotations

import time
import urllib.error
from typing import Any

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from tests.servers.s3 import S3Proxy, S3Server

_CONTENT = bytes(range(256)) * 40_000


@pytest.fixture
def store(s3: S3Server, s3_proxy: S3Proxy) -> S3Store:
    """The bucket, through the proxy."""
    return S3Store(
        s3.bucket,
        prefix="proxied",
        endpoint=s3_proxy.endpoint,
        access_key_id=s3.access_key,
        secret_access_key=s3.secret_key,
        region="us-east-1",
        client_options={"allow_http": True, "timeout": "5s"},
        retry_config={"max_retries": 0},
    )


def test_a_proxy_without_a_fault_is_not_noticed(store: S3Store) -> None:
    obstore.put(store, "plain name/ä+b.bin", _CONTENT, chunk_size=6 * 2**20)
    assert bytes(obstore.get(store, "plain name/ä+b.bin").bytes()) == _CONTENT
    assert bytes(obstore.get_range(store, "plain name/ä+b.bin", start=100, length=10)) == _CONTENT[100:110]
    obstore.put(store, "once", b"1", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "once", b"2", mode="create")
    assert {each["path"] for each in obstore.list(store).collect()} == {"plain name/ä+b.bin", "once"}


def test_a_proxy_answers_for_the_server(store: S3Store, s3_proxy: S3Proxy) -> None:
    s3_proxy.fail(status=503, methods="PUT", times=1)
    with pytest.raises(BaseError, match=r"503.*SlowDown|SlowDown"):
        obstore.put(store, "slow", _CONTENT, use_multipart=False)
    obstore.put(store, "slow", _CONTENT, use_multipart=False)
    assert bytes(obstore.get(store, "slow").bytes()) == _CONTENT


def test_a_proxy_fails_only_where_it_is_told_to(store: S3Store, s3_proxy: S3Proxy) -> None:
    obstore.put(store, "spared", b"spared")
    s3_proxy.fail(status=500, path="/wanted")
    with pytest.raises(BaseError):
        obstore.put(store, "wanted", b"")
    assert bytes(obstore.get(store, "spared").bytes()) == b"spared"


@pytest.mark.parametrize("fault", [{"reset": True}, {"hang": True}, {"cut": 1000}], ids=str)
def test_an_answer_that_is_broken_off_is_an_error_and_comes_whole_when_the_fault_is_mended(
    store: S3Store, s3_proxy: S3Proxy, fault: dict[str, Any]
) -> None:
    obstore.put(store, "whole", _CONTENT)
    s3_proxy.fail(**fault)
    with pytest.raises(BaseError):
        obstore.get(store, "whole").bytes()
    s3_proxy.mend()
    assert bytes(obstore.get(store, "whole").bytes()) == _CONTENT


@pytest.mark.parametrize("fault", [{"delay": 1.0}, {"bytes_per_second": 5_000_000}], ids=str)
def test_a_proxy_can_be_slow(store: S3Store, s3_proxy: S3Proxy, fault: dict[str, Any]) -> None:
    obstore.put(store, "late", _CONTENT)
    s3_proxy.fail(**fault)
    began = time.monotonic()
    assert bytes(obstore.get(store, "late").bytes()) == _CONTENT
    assert time.monotonic() - began >= 1


def test_a_fault_that_does_not_exist_is_refused(s3_proxy: S3Proxy) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        s3_proxy.fail(explode=True)
    with refused.value as answer:
        assert "explode" in answer.read().decode()
