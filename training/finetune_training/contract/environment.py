"""The environment variables that a run reads.

In: nothing. Out: their names. Those of the first kind the operator sets for the driver of an attempt; the others are for people.
"""

from __future__ import annotations

from typing import Final

ATTEMPT: Final = "FINETUNE_ATTEMPT"
"""The number of the attempt. Missing: the next free one."""
OUT_OF_MEMORY: Final = "FINETUNE_OUT_OF_MEMORY"
"""How many containers of the run were killed whole for want of memory, which only the platform sees."""
STATUS: Final = "FINETUNE_STATUS"
"""`true`: the attempt is an operator's, and its progress is written to `status.run`."""

CACHE: Final = "FINETUNE_CACHE"
"""The folder for models of other machines."""
HANG_SECONDS: Final = "FINETUNE_HANG_SECONDS"
"""Seconds without a step that are never a hang."""
STORE_PATIENCE_SECONDS: Final = "FINETUNE_STORE_PATIENCE_SECONDS"
"""Seconds for which a store that does not answer is tried again."""
