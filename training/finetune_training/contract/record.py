"""What every model is: frozen, and camelCase where it is written.

In: nothing. Out: two bases, and a word for JSON that no model has read. The docstring under a field is its text in schemas and
pages that are made from a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

Json = Mapping[str, Any]
"""An object of JSON that is only read."""


class Record(BaseModel):
    """What programs write and read again. What one version adds, another may meet."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True
    )


class Strict(Record):
    """What people write: a field that nobody knows is a mistake, and named."""

    model_config = ConfigDict(extra="forbid")
