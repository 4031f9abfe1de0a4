"""This process among the libraries it starts: what they read from the environment, where what they print goes.

In: this process's environment and streams. Out: Ray set up on purpose (`set_up_ray`, before anything imports Ray), and a
quiet terminal (`quiet`): the noise is in a log.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def set_up_ray() -> None:
    """Choose Ray's auth mode and keep its noise down. Ray of our own gets a token that lives as long as this process:
    its servers listen on this machine, and without one any user of it could run code. A cluster of RAY_ADDRESS decides
    for itself."""
    os.environ |= {"RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process for what launch.py sees for itself
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")  # images and autoscalers take minutes
    if "ray" in sys.modules:  # too late: Ray has read them
        return
    if not os.environ.get("RAY_ADDRESS"):
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    elif "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token" if os.environ.get("RAY_AUTH_TOKEN") else "disabled"


@contextmanager
def quiet(log: Path) -> Iterator[TextIO]:
    """Everything that this process and its libraries print goes to `log`; yields the terminal as it was."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    with (
        log.open("a", encoding="utf-8", buffering=1) as file,
        os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors="replace") as terminal,
    ):
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        logging.basicConfig(
            stream=file, level=logging.INFO, force=True, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        logging.captureWarnings(True)
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it would write a hub's signed URLs into the log
        try:
            yield terminal
        finally:
            logging.basicConfig(level=logging.WARNING, force=True)  # on standard error again: `file` is closed soon
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in zip((1, 2), saved, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
