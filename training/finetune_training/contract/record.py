"""What every model is: frozen, and camelCase where it is written.

In: nothing. Out: two bases, a word for JSON that no model has read, and one for where something is. The docstring under a
field is its text in schemas and pages that are made from a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Json = Mapping[str, Any]
"""An object of JSON that is only read."""
Uri = Annotated[str, Field(min_length=1, max_length=2048)]
"""Where something is, as a person writes it."""


class Record(BaseModel):
    """What programs write and read again. What one version adds, another may meet."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True
    )


class Strict(Record):
    """What people write: a field that nobody knows is a mistake, and named."""

    model_config = ConfigDict(extra="forbid")
