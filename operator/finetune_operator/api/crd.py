"""The models of job.py → the CustomResourceDefinition.

In: pydantic models. Out: a structural schema with defaults, descriptions and CEL rules, as one object. The chart has it
as a file, and a test keeps that file fresh.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_operator import names
from finetune_operator.api.job import FineTuneJobSpec
from finetune_operator.api.status import FineTuneJobStatus
from finetune_training.contract.record import Json

MUTABLE = frozenset(
    {"suspend", "backoffLimit", "activeDeadlineSeconds", "pendingDeadlineSeconds", "ttlSecondsAfterFinished"}
)
"""The fields of spec that may change while the job lives. All others are the run, and a new run is a new object."""

_KEPT = (
    "type",
    "description",
    "enum",
    "default",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
)
_UNBOUNDED_STRING = 65_536
"""A string that says nothing of its length makes every rule about it too expensive for the API server."""

_RULES = (
    (
        "self.deepspeed.offload != 'OptimizerAndParameters' || self.deepspeed.stage == 3",
        "deepspeed.offload: OptimizerAndParameters needs deepspeed.stage: 3; set it, or offload: Optimizer",
    ),
    (
        "self.deepspeed.offload != 'Optimizer' || self.deepspeed.stage > 0",
        "deepspeed.offload: Optimizer needs a deepspeed.stage from 1 to 3; set deepspeed.stage: 2",
    ),
    (
        "self.method.type != 'Full' || !has(self.output) || self.output.all(o, o.format != 'Adapter')",
        "output format Adapter needs method.type: LoRA; a Full run has no adapter, use Merged",
    ),
)
"""What belongs together: (condition, message). The models say the same to `finetune validate`."""

_COLUMNS = (
    # name, type, path, priority: 1 is `-o wide`
    ("Phase", "string", ".status.phase", 0),
    ("Step", "string", ".status.run.progress", 0),
    ("Loss", "number", ".status.run.loss", 0),
    ("ETA", "string", ".status.run.eta", 0),
    ("Attempt", "integer", ".status.attempt", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Tok/s", "number", ".status.run.tokensPerSecond", 1),
    ("Checkpoint", "integer", ".status.run.checkpoint.step", 1),
    ("Goodput", "number", ".status.usage.goodput", 1),
    ("Reason", "string", '.status.conditions[?(@.type=="Training")].reason', 1),
)


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition."""
    columns = [
        {"name": name, "type": kind, "jsonPath": path, "priority": priority} for name, kind, path, priority in _COLUMNS
    ]
    identity = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    longest = names.JOB_NAME_MAX
    name_rule = {
        "rule": f"size(self.metadata.name) <= {longest} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "message": f"metadata.name must begin with a letter, have only lower-case letters, digits and '-', and at most "
        f"{longest} characters: the names of pods are made of it",
    }
    schema = {
        "type": "object",
        "description": "One fine-tuning of a language model: prepared, trained, evaluated, exported.",
        "required": ["spec"],
        "properties": identity | {"spec": spec_schema(), "status": status_schema()},
        "x-kubernetes-validations": [name_rule],
    }
    version = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
    }
    called = {"kind": names.KIND, "plural": names.PLURAL, "singular": names.KIND.lower(), "shortNames": [names.SHORT]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": called | {"listKind": f"{names.KIND}List", "categories": ["all", "finetune"]},
            "versions": [version],
        },
    }


def status_schema() -> dict[str, Any]:
    """The structural schema of `status`. Conditions are a map by type: two writers do not overwrite each other's."""
    schema = FineTuneJobStatus.model_json_schema(by_alias=True)
    status = _structural(schema, schema["$defs"])
    status["properties"]["conditions"] |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    return status


def spec_schema() -> dict[str, Any]:
    """The structural schema of `spec`."""
    schema = FineTuneJobSpec.model_json_schema(by_alias=True)
    spec = _structural(schema, schema["$defs"])
    frozen = (
        _unchanged(name, "default" in field or name in spec["required"]) for name, field in spec["properties"].items()
    )
    rules = [*(rule for rule in frozen if rule), *_RULES]
    spec["x-kubernetes-validations"] = [{"rule": rule, "message": message} for rule, message in rules]
    return spec


def _unchanged(name: str, always_there: bool) -> tuple[str, str] | None:
    if name in MUTABLE:
        return None
    message = f"{name} cannot be changed: a new run is a new {names.KIND}, under another name"
    if always_there:
        return f"self.{name} == oldSelf.{name}", message
    both = f"has(self.{name}) && has(oldSelf.{name}) && self.{name} == oldSelf.{name}"
    return f"({both}) || (!has(self.{name}) && !has(oldSelf.{name}))", message


def _structural(node: Json, definitions: Json) -> dict[str, Any]:
    """A JSON schema as pydantic writes it, in the form that a CRD may have: no references, no unions, no titles."""
    if "$ref" in node:
        return _structural({**definitions[node["$ref"].rpartition("/")[2]], **_without(node, "$ref")}, definitions)
    if "anyOf" in node:
        return _union(node, definitions)
    kept = {key: node[key] for key in _KEPT if key in node}
    for bound, side in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in node:
            kept |= {side: node[bound], bound: True}
    if "default" in kept:
        kept["default"] = _no_nulls(kept["default"])
    if "const" in node:
        kept["enum"] = [node["const"]]
    if kept.get("type") == "string" and "enum" not in kept:
        kept.setdefault("maxLength", _UNBOUNDED_STRING)
    if "items" in node:
        kept["items"] = _structural(node["items"], definitions)
    if "properties" in node:
        kept["properties"] = {name: _structural(each, definitions) for name, each in node["properties"].items()}
        kept |= {"required": node["required"]} if "required" in node else {}
    elif node.get("type") == "object":
        # Of an object whose fields are unknown, CEL does not see that one has another name; of a map it does.
        kept["additionalProperties"] = {"x-kubernetes-preserve-unknown-fields": True, "nullable": True}
    return kept


def _union(node: Json, definitions: Json) -> dict[str, Any]:
    """`X | None` is an X that may be missing; any other union is not checked by the schema."""
    choices = [each for each in node["anyOf"] if each.get("type") != "null"]
    if len(choices) == 1:
        return _structural({**choices[0], **_without(node, "anyOf", "default")}, definitions)
    return {key: node[key] for key in ("description", "default") if key in node} | {
        "x-kubernetes-preserve-unknown-fields": True
    }


def _no_nulls(value: Any) -> Any:
    """A default may have no null: what is not there is not there."""
    if isinstance(value, Mapping):
        return {key: _no_nulls(each) for key, each in value.items() if each is not None}
    return value


def _without(node: Json, *keys: str) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key not in keys}
