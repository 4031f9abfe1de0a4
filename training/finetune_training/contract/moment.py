"""Moments: seconds since 1970 here, text in the API.

In: either. Out: the other. Anybody may write into an object, so text that is no time, or a time that has no text, is no error.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import Field

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""As Kubernetes writes it (RFC 3339). The API server checks that."""

_LAST: Final = 253_402_300_799
"""The last second of the year 9999."""


def timestamp(moment: float) -> str:
    """The time of seconds since 1970, in whole seconds."""
    within = int(min(max(moment, 0), _LAST))
    return datetime.fromtimestamp(within, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(time: str | None) -> float | None:
    """Seconds since 1970 of a time. None: there is none."""
    try:
        return datetime.fromisoformat(time).timestamp() if time else None
    except (ValueError, OverflowError, OSError):
        return None
