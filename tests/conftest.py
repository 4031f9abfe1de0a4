"""Before anything imports Ray: it reads its auth mode then. The tests' own Ray listens on loopback only, for a minute or two.

`finetune` itself, which the tests run as a process, chooses its own (tests/cli.py takes these variables away).
"""

from __future__ import annotations

import os

import pytest

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs servers, Ray or ranks stays in one process, one after the other; the files of the rest may go anywhere."""
    for item in items:
        group = "integration" if "integration" in item.path.parts else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))
