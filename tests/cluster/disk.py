"""How much disk a cluster takes: measured on the file system, because hard links and sparse files deceive who adds up."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from types import TracebackType


class Disk:
    """Watches the free space for the length of a block. `str()` tells what was taken, at most and in the end."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._before = self._least = shutil.disk_usage(place).free
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(1):
            self._least = min(self._least, shutil.disk_usage(self._place).free)

    def __enter__(self) -> Disk:
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._watch.join()

    def __str__(self) -> str:
        free = shutil.disk_usage(self._place).free
        taken, peak = (self._before - each for each in (free, self._least))
        return f"disk: {taken / 1e9:.1f} GB taken, {peak / 1e9:.1f} GB at most, {free / 1e9:.0f} GB free"
