"""The models of a FineTuneJob → docs/fields.md.

In: the pydantic models and the docstrings under their fields. Out: Markdown on standard output; a test keeps the
committed page fresh.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from finetune_training.contract.jobfile import model_in
from finetune_training.contract.spec import CLUSTER_FIELDS, CLUSTER_RESOURCE_FIELDS, RunSpec

_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "map", list: "list"}
_BOUNDS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}


def markdown() -> str:
    """The whole page."""
    lines = [
        "# Fields of a FineTuneJob",
        "",
        "Generated from the models in `finetune_training/contract/` by `make generate`. `finetune schema` prints the same as",
        "JSON schema.",
        "",
        *section(RunSpec, "spec", "What is trained."),
        "## Fields for a cluster",
        "",
        "Accepted in the same file and ignored on one machine: "
        + ", ".join(f"`{name}`" for name in sorted(CLUSTER_FIELDS))
        + "; in `resources`: "
        + ", ".join(f"`{name}`" for name in sorted(CLUSTER_RESOURCE_FIELDS))
        + ". [fields-cluster.md](fields-cluster.md) explains them, and `status`.",
    ]
    return "\n".join(lines) + "\n"


def section(model: type[BaseModel], path: str, intro: str) -> list[str]:
    """The table of a model's fields, and below it those of the models in it."""
    lines = [f"## `{path}`", "", intro, "", "| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    below: list[str] = []
    for field in model.model_fields.values():
        name = field.alias or ""
        nested = model_in(field.annotation)
        lines.append(
            f"| `{name}` | {_type(field, nested)} | {_default(field, nested)} | {_text(field.description or _doc(nested))} |"
        )
        if nested:
            suffix = "[]" if get_origin(field.annotation) is list else ""
            below += section(nested, f"{path}.{name}{suffix}", field.description or _doc(nested))
    return [*lines, "", *below]


def _doc(model: type[BaseModel] | None) -> str:
    return " ".join((model.__doc__ or "").split()) if model else ""


def _type(field: FieldInfo, nested: type[BaseModel] | None) -> str:
    if nested:
        return "list" if get_origin(field.annotation) is list else "object"
    if isinstance(field.json_schema_extra, dict) and (choices := field.json_schema_extra.get("enum")):
        return ", ".join(f"`{choice}`" for choice in cast(list[str], choices))
    return _type_name(field.annotation) + _bounds(field)


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is not None and all(isinstance(argument, str) for argument in arguments):
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin is list:
        return f"list of {_type_name(arguments[0])}s"
    if origin in _NAMES:
        return _NAMES[origin]
    if hasattr(annotation, "__metadata__"):
        return _type_name(arguments[0])
    named = [argument for argument in arguments if argument is not type(None)]
    return " or ".join(map(_type_name, named)) if named else _NAMES.get(annotation, "any")


def _bounds(field: FieldInfo) -> str:
    limits = [
        f"{_BOUNDS[type(limit)][0]} {getattr(limit, _BOUNDS[type(limit)][1]):,}"
        for limit in field.metadata
        if type(limit) in _BOUNDS
    ]
    return f", {', '.join(limits)}" if limits else ""


def _default(field: FieldInfo, nested: type[BaseModel] | None) -> str:
    if field.is_required():
        return "required"
    if nested and not isinstance(field.default, list):
        return ""
    if field.default is None:
        return ""
    value = field.default.value if isinstance(field.default, Enum) else field.default
    shown = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
    return f"`{shown!r}`" if value in ("", [], {}) else f"`{shown}`"


def _text(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(markdown(), end="")
