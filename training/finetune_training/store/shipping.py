"""Logs on their way to the store while they are written.

In: local files that grow. Out: the same in the run's folder, a few seconds old: whoever writes them may be killed at any
moment, and its machine with it. A run whose store is a local folder writes them there in the first place.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from finetune_training.contract.failure import FinetuneError
from finetune_training.store.storage import Store

_EVERY_SECONDS = 15.0
_BYTES_PER_SECOND = 1_000_000
"""An object is written whole each time, so a long log must be written less often."""

logger = logging.getLogger(__name__)


@contextmanager
def shipped(store: Store, key: str, paths: Sequence[Path], *, every: float = _EVERY_SECONDS) -> Iterator[None]:
    """Bring `paths` below `key` every few seconds if they have changed, large ones less often, and at the end. A store that does
    not take them neither delays nor ends anything."""
    if store.folder is not None:
        yield
        return
    over, sent = threading.Event(), dict.fromkeys(paths, 0)

    def ship() -> int:
        before = sum(sent.values())
        for path in paths:
            try:
                size = path.stat().st_size if path.exists() else 0
                if size != sent[path]:
                    store.put(f"{key}/{path.name}", path.read_bytes())
                    sent[path] = size
            except (FinetuneError, OSError):
                logger.warning("%s could not be brought to the store", path, exc_info=True)
        return sum(sent.values()) if sum(sent.values()) != before else 0

    def ship_until_over() -> None:
        shipped_bytes = 0
        while not over.wait(max(every, shipped_bytes / _BYTES_PER_SECOND)):
            shipped_bytes = ship()
        ship()

    shipper = threading.Thread(target=ship_until_over, name="shipping", daemon=True)
    shipper.start()
    try:
        yield
    finally:
        over.set()
        shipper.join(timeout=2 * every)
