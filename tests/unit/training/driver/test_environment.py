"""What Ray is told before it is imported. In a process of its own: this one has imported it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

SHOW = """
import json, os
from finetune_training.driver.environment import set_up_ray
before = dict(os.environ)
set_up_ray()
print(json.dumps({name: value for name, value in os.environ.items() if before.get(name) != value}))
"""


def changes(**environment: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found: dict[str, str] = json.loads(shown.stdout)
    return found


def test_ray_of_our_own_has_a_new_token_each_time() -> None:
    first, second = changes(), changes()
    assert first["RAY_AUTH_MODE"] == second["RAY_AUTH_MODE"] == "token"
    assert len(first["RAY_AUTH_TOKEN"]) == 64
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]


def test_a_cluster_that_is_there_decides_for_itself() -> None:
    assert changes(RAY_ADDRESS="host:1")["RAY_AUTH_MODE"] == "disabled"
    assert changes(RAY_ADDRESS="host:1", RAY_AUTH_TOKEN="t")["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_MODE" not in changes(RAY_ADDRESS="host:1", RAY_AUTH_MODE="token")
