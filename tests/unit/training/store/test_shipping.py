from __future__ import annotations

import threading
from pathlib import Path

import pytest

from finetune_training.contract.failure import FinetuneError, infrastructure_error
from finetune_training.store.shipping import shipped
from finetune_training.store.storage import Store


class Elsewhere(Store):
    """A store that is no local folder, for what asks."""

    folder = None


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Elsewhere(str(tmp_path / "store"))


def test_a_log_is_in_the_store_while_it_grows(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    arrived = threading.Event()
    put = store.put

    def put_and_tell(_: Store, key: str, data: bytes) -> None:
        put(key, data)
        arrived.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Elsewhere, "put", put_and_tell)
        with shipped(store, "attempts/1", [log, tmp_path / "never"], every=0.01):
            log.write_text("first\n")
            assert arrived.wait(10)
            assert store.get("attempts/1/driver.log") == b"first\n"
            log.write_text("first\nlast\n")
    assert store.get("attempts/1/driver.log") == b"first\nlast\n"
    assert store.get("attempts/1/never") is None


def test_a_store_that_takes_no_log_does_not_end_the_run(store: Store, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise infrastructure_error("StoreUnavailable", "no")

    log = tmp_path / "driver.log"
    log.write_text("text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Elsewhere, "put", refuse)
        with shipped(store, "attempts/1", [log], every=0.01):
            pass
    with pytest.raises(FinetuneError):
        refuse()


def test_logs_of_a_local_run_are_not_shipped(tmp_path: Path) -> None:
    with shipped(Store(str(tmp_path / "run")), "attempts/1", [tmp_path / "driver.log"]):
        pass
    assert not (tmp_path / "run").exists()
