"""Before anything imports Ray: it reads its auth mode then. The tests' own Ray listens on loopback only, for a minute or two.

`finetune` itself, which the tests run as a process, chooses its own (tests/cli.py takes these variables away).
"""

from __future__ import annotations

import os

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
