"""The chart as Helm renders it, and what tests pick of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from finetune_operator.settings import Settings, read_settings
from tests.cluster.helm import CHART, Helm

RELEASE, NAMESPACE = "finetune-operator", "finetune-system"

Body = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """Reads 2e-05 as a number, as Helm and Kubernetes do (YAML 1.2)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def render(values: Body | None = None, *, release: str = RELEASE, chart: Path = CHART) -> list[Body]:
    """All objects, those of `helm test` too."""
    text = Helm(namespace=NAMESPACE)("template", release, str(chart), values=values or {})
    return [each for each in yaml.load_all(text, Loader=_Loader) if each]


def only(bodies: list[Body], kind: str, name: str = "") -> Body:
    [found] = [each for each in bodies if each["kind"] == kind and name in ("", each["metadata"]["name"])]
    return found


def kinds(bodies: list[Body]) -> list[str]:
    return sorted(each["kind"] for each in bodies if "helm.sh/hook" not in each["metadata"].get("annotations", {}))


def container(bodies: list[Body]) -> Body:
    [found] = only(bodies, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def settings(bodies: list[Body], tmp_path: Path) -> Settings:
    """What the operator reads of its environment and of the pools file."""
    file = tmp_path / "platform.yaml"
    file.write_text(only(bodies, "ConfigMap")["data"]["platform.yaml"])
    environment = {each["name"]: each.get("value", "finetune-operator-x") for each in container(bodies)["env"]}
    assert environment["FINETUNE_PLATFORM_FILE"] == "/etc/finetune/platform.yaml"
    return read_settings(environment | {"FINETUNE_PLATFORM_FILE": str(file)})
