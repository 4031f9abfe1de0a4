"""A FineTuneJob file: YAML text → `Job`.

In: the file's text. Out: a `Job`, or one error that lists everything that is wrong with it: the field's path, its line,
what to do. This is what a person reads after a typing mistake, so unknown names are answered with the nearest known
one.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from finetune_training.contract.failure import FinetuneError, user_error
from finetune_training.contract.names import API_VERSION, KIND
from finetune_training.contract.spec import CLUSTER_FIELDS, CLUSTER_RESOURCE_FIELDS, Job, RunSpec

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Identity:
    """Which object of a cluster a file was made from."""

    namespace: str
    name: str
    uid: str


def read_job(path: Path) -> Job:
    """The job in the file at `path`. Raises a User error: unreadable file, broken YAML, wrong fields."""
    return parse_job(read_text(path), name=str(path))


def read_text(path: Path) -> str:
    """What the file at `path` says. Raises a User error when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise user_error("FileNotFound", f"There is no file {path}.", "Give the path of a FineTuneJob file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise user_error("FileUnreadable", f"{path} cannot be read: {error}.") from error


def identity_in(text: str) -> Identity | None:
    """The identity in a file's `text`, whatever else is wrong with it; None when it has none."""
    try:
        body = yaml.safe_load(text)
        metadata = body["metadata"]
        found = [metadata.get("namespace", "default"), metadata["name"], metadata["uid"]]
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return Identity(*found) if all(isinstance(each, str) and each for each in found) else None


def parse_job(text: str, *, name: str) -> Job:
    """The job in `text`; `name` stands for the file in messages."""
    try:
        body, root = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # PyYAML lets bad dates out as ValueErrors
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise user_error(
            "InvalidYAML", f"{where}: {getattr(error, 'problem', None) or error}", "Mend the YAML."
        ) from error
    if not isinstance(body, dict):
        raise user_error(
            "InvalidJob", f"{name} is not a {KIND}: it should be a mapping with apiVersion, kind, metadata and spec."
        )
    _check_header(body, name)
    if not isinstance(body.get("metadata"), dict):
        raise user_error(
            "InvalidJob", f"{name}: metadata should be a mapping with a name.", "Write `metadata: {name: my-run}`."
        )
    metadata, spec = body["metadata"], _without_cluster_fields(body.get("spec") or {})
    fields = {key: metadata[key] for key in ("name", "namespace", "uid") if key in metadata}
    try:
        return Job.model_validate({**fields, "spec": spec})
    except ValidationError as error:
        raise _explain(error, name, root) from None


def json_schema() -> dict[str, Any]:
    """JSON schema of a FineTuneJob file."""
    spec = RunSpec.model_json_schema(by_alias=True)
    definitions = spec.pop("$defs")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": KIND,
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": KIND},
            "metadata": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": Job.model_json_schema()["properties"]["name"]},
            },
            "spec": spec,
        },
        "$defs": definitions,
    }


def _check_header(body: dict[str, Any], name: str) -> None:
    for field, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        if body.get(field) != expected:
            raise user_error("InvalidJob", f"{name}: {field} is {body.get(field)!r}.", f"Write `{field}: {expected}`.")


def _without_cluster_fields(spec: Any) -> Any:
    """`spec` less what only the operator reads."""
    if not isinstance(spec, dict):
        return spec
    spec = {key: value for key, value in spec.items() if key not in CLUSTER_FIELDS}
    if isinstance(spec.get("resources"), dict):
        spec["resources"] = {
            key: value for key, value in spec["resources"].items() if key not in CLUSTER_RESOURCE_FIELDS
        }
    return spec


def _explain(error: ValidationError, name: str, root: yaml.Node | None) -> FinetuneError:
    lines = []
    for detail in error.errors(include_url=False):
        path = _file_path(detail["loc"])
        lines.append(f"{name}:{_line(root, path)}: {_dotted(path)}: {_say(detail, path)}")
    remedy = "`finetune schema` prints all fields; docs/fields.md explains them."
    return user_error("InvalidJob", "\n".join(lines), remedy)


def _file_path(loc: Location) -> Location:
    """Where the field is in the file: the job's identity is below `metadata` there; union branches are not there."""
    path = ("metadata", *loc) if loc and loc[0] in ("name", "namespace", "uid") else loc
    return tuple(step for step in path if isinstance(step, int) or re.fullmatch(r"[A-Za-z]\w*", step))


def _dotted(path: Location) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".") or "the file"


def _line(node: yaml.Node | None, path: Location) -> int:
    """Line of the field at `path`, or of its nearest parent that is in the file."""
    line = node.start_mark.line if node else 0
    for step in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == step), None)
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line
        else:
            break
    return line + 1


def _say(detail: ErrorDetails, path: Location) -> str:
    if detail["type"] == "extra_forbidden":
        known = _fields_beside(path)
        near = difflib.get_close_matches(str(path[-1]).lower(), [field.lower() for field in known], n=1, cutoff=0.5)
        nearest = next((field for field in known if near and field.lower() == near[0]), None)
        return "unknown field" + (f"; did you mean {nearest}?" if nearest else f"; known here: {', '.join(known)}")
    if detail["type"] == "missing":
        return "is required"
    if detail["type"] == "string_pattern_mismatch" and path[-1:] == ("name",):
        return "must be lower-case letters, digits and '-', as for every Kubernetes object"
    message = detail["msg"].removeprefix("Value error, ")
    shown = repr(detail["input"])
    given = f" (not {shown})" if len(shown) <= 60 and detail["type"] != "value_error" else ""
    return message[:1].lower() + message[1:] + given


def _fields_beside(path: Location) -> list[str]:
    """Names of the fields that the model around `path` has."""
    model: type[BaseModel] = Job
    for step in path[:-1]:
        if isinstance(step, str):
            field = next((field for name, field in model.model_fields.items() if step in (field.alias, name)), None)
            nested = model_in(field.annotation) if field else None
            if nested is None:
                return []
            model = nested
    return [field.alias or name for name, field in model.model_fields.items()]


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in a field's type, if there is one: itself, or of a list's items."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := model_in(inner))), None)
