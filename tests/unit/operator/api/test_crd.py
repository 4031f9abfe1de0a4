"""The models → the CustomResourceDefinition. What the API server makes of it is tested in tests/integration/test_crd.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_operator import names
from finetune_operator.api.crd import MUTABLE, definition, spec_schema, status_schema
from finetune_operator.api.job import FineTuneJobSpec
from finetune_operator.api.status import FineTuneJobStatus

Node = dict[str, Any]
SCHEMAS = {"spec": spec_schema(), "status": status_schema()}


def nodes(node: Node, path: str) -> Iterator[tuple[str, Node]]:
    yield path, node
    for name, each in node.get("properties", {}).items():
        yield from nodes(each, f"{path}.{name}")
    if "items" in node:
        yield from nodes(node["items"], f"{path}[]")


NODES = dict(pair for name, schema in SCHEMAS.items() for pair in nodes(schema, name))


@pytest.mark.parametrize("word", ["$ref", "$defs", "title", "anyOf", "oneOf", "allOf", "const"])
def test_the_crd_has_nothing_that_a_structural_schema_may_not_have(word: str) -> None:
    assert [path for path, node in NODES.items() if word in node] == []


def test_every_node_has_a_type_or_takes_anything() -> None:
    open_ended = "x-kubernetes-preserve-unknown-fields"
    assert [path for path, node in NODES.items() if "type" not in node and not node.get(open_ended)] == []


def test_what_takes_anything_is_known() -> None:
    assert {path for path, node in NODES.items() if node.get("x-kubernetes-preserve-unknown-fields")} == {
        "spec.method.lora.targetModules"
    }
    assert {path for path, node in NODES.items() if "additionalProperties" in node} == {
        "spec.dataset.chatTemplateArgs",
        "spec.training.extra",
        "spec.deepspeed.config",
        "spec.env[].valueFrom",
    }


def test_every_string_is_bounded() -> None:
    """The API server reckons what a rule may cost by the longest string."""
    free = [
        path
        for path, node in NODES.items()
        if node.get("type") == "string" and not node.keys() & {"maxLength", "enum", "format"}
    ]
    assert free == []


@pytest.mark.parametrize("path", [path for path in NODES if not path.endswith("[]")])
def test_every_field_is_explained(path: str) -> None:
    assert NODES[path].get("description")


def test_no_default_is_null() -> None:
    def nulls(value: Any) -> bool:
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return value is None or any(nulls(each) for each in values)

    assert [path for path, node in NODES.items() if "default" in node and nulls(node["default"])] == []


def test_the_fields_are_those_of_the_models() -> None:
    for model, name in ((FineTuneJobSpec, "spec"), (FineTuneJobStatus, "status")):
        aliases = {field.alias or key for key, field in model.model_fields.items()}
        assert SCHEMAS[name]["properties"].keys() == aliases


def test_the_crd_is_small_enough_for_an_annotation_and_for_every_watch() -> None:
    assert len(json.dumps(definition())) < 60_000


def test_every_field_of_the_spec_but_five_has_a_rule_that_keeps_its_value() -> None:
    rules = [each["message"] for each in SCHEMAS["spec"]["x-kubernetes-validations"]]
    for field in SCHEMAS["spec"]["properties"]:
        kept = any(each.startswith(f"{field} cannot be changed: ") for each in rules)
        assert kept is (field not in MUTABLE), field
    assert {
        "suspend", "backoffLimit", "activeDeadlineSeconds", "pendingDeadlineSeconds", "ttlSecondsAfterFinished",
    } == MUTABLE  # fmt: skip


def test_every_rule_says_what_to_do() -> None:
    schema = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for each in (*schema["x-kubernetes-validations"], *SCHEMAS["spec"]["x-kubernetes-validations"]):
        assert each["rule"]
        assert len(each["message"]) > 40


def test_conditions_are_a_map_so_that_others_may_add_theirs() -> None:
    conditions = NODES["status.conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert "type" in conditions["items"]["required"]


def test_the_columns_show_what_there_is() -> None:
    (version,) = definition()["spec"]["versions"]
    for column in version["additionalPrinterColumns"]:
        path = column["jsonPath"].removeprefix(".")
        if not path.startswith("metadata.") and "[?" not in path:
            kind = {"number": ("number",), "integer": ("integer",), "string": ("string",)}[column["type"]]
            assert NODES[path]["type"] in kind, column
    shown = [each["name"] for each in version["additionalPrinterColumns"] if not each["priority"]]
    assert shown == ["Phase", "Step", "Loss", "ETA", "Attempt", "Age"]


def test_the_crd_has_the_names_of_the_api() -> None:
    body = definition()
    assert body["metadata"]["name"] == f"{names.PLURAL}.{names.GROUP}"
    assert body["spec"]["names"]["shortNames"] == ["ftj"]
    assert body["spec"]["versions"][0]["subresources"] == {"status": {}}
