"""What others have written → a model, whatever it is.

In: a model and JSON. Out: an instance, always. A job's owner, an older or a newer operator, a driver, or a person with kubectl
has written it: what does not fit is as if it were not there, and what is not there and has no default is empty (zero, as Go
reads it). So no object stops the operator that serves all the others.
"""

from __future__ import annotations

import json
from copy import copy
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from finetune_training.contract.record import Json

M = TypeVar("M", bound=BaseModel)

_ROUNDS: Final = 12
"""More than a field's way from wrong to missing to null to empty, on each floor of `status`."""
_EMPTY: Final[Json] = {
    "string_type": "",
    "int_type": 0,
    "float_type": 0.0,
    "bool_type": False,
    "list_type": [],
    "model_type": {},
}
"""By pydantic's word for a null where there should be something."""


def read(model: type[M], text: bytes, *, extra: Literal["allow", "ignore"] = "allow") -> M:
    """`text` is JSON, and should be an object. `extra`: what becomes of fields that the model does not know."""
    try:
        return model.model_validate_json(text, extra=extra)
    except ValidationError:
        body = json.loads(text)
        return _as_far_as_it_fits(model, body if isinstance(body, dict) else {}, extra)


def _as_far_as_it_fits(model: type[M], body: dict[str, Any], extra: Literal["allow", "ignore"]) -> M:
    for _ in range(_ROUNDS):
        try:
            return model.model_validate(body, extra=extra)
        except ValidationError as error:
            for each in error.errors(include_url=False, include_context=False):
                _mend(body, each["loc"], each["type"], each["input"])
    return model()  # none of them has a field at its root that must be there


def _mend(body: Any, place: tuple[str | int, ...], kind: str, found: Any) -> None:
    """One step: wrong → missing, missing → null, null → empty."""
    last: Any
    *way, last = place
    try:
        for part in way:
            body = body[part]
        if kind == "missing":
            body[last] = None
        elif found is None:
            body[last] = copy(_EMPTY.get(kind))
        elif isinstance(body, list):
            body[last] = None
        else:
            del body[last]
    except (LookupError, TypeError):  # it has gone with what is around it
        return
