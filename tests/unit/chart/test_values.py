"""What may be said to the chart: every value is explained, and wrong ones are named."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from finetune_operator.api.chart import Values
from tests import chart_values
from tests.cluster.helm import CHART, Helm, HelmFailed
from tests.cluster.layout import ROOT
from tests.unit.chart.rendered import RELEASE, Body, kinds, only, render


def test_values_yaml_has_every_key_with_the_default_of_its_model() -> None:
    assert yaml.safe_load((CHART / "values.yaml").read_text()) == Values().model_dump(by_alias=True)


def test_every_value_is_explained() -> None:
    """By a comment above it or above those that stand together. What `enabled` means is its group's comment."""
    unexplained, explained = [], set[int]()
    lines = (CHART / "values.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if not (key := re.match(r"( *)([a-zA-Z]+):", line)):
            continue
        above = lines[number - 1].strip()
        if above.startswith("#") or number - 1 in explained:
            explained.add(number)
        elif key[2] != "enabled":
            unexplained.append(line)
    assert len(explained) > 60
    assert unexplained == []


def test_the_pool_in_the_comments_is_a_pool_with_every_field() -> None:
    text = (CHART / "values.yaml").read_text()
    example = re.search(r"^# gpuPools:\n(?:# .*\n)+", text, re.MULTILINE)
    assert example
    shown = yaml.safe_load(re.sub("^# ", "", example[0], flags=re.MULTILINE))
    [pool] = Values.model_validate(shown).gpu_pools.values()
    assert shown["gpuPools"]["a100"].keys() == pool.model_dump(by_alias=True).keys()


def test_the_pools_in_the_documents_are_accepted() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    examples = [yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    examples = [each for each in examples if "apiVersion" not in each]
    assert sum("gpuPools" in each for each in examples) >= 4
    for each in examples:
        assert kinds(render(each))


def models(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    for field in model.model_fields.values():
        value = field.get_default(call_default_factory=True)
        yield f"{path}{field.alias}", value
        if isinstance(value, BaseModel):
            yield from models(type(value), f"{path}{field.alias}.")


@pytest.mark.parametrize("path", [path for path, _ in models(Values)])
def test_a_value_of_the_wrong_type_is_named(path: str) -> None:
    with pytest.raises(HelmFailed, match=re.escape(f"at '/{path.replace('.', '/')}") + "(/0)?': got"):
        Helm()("template", RELEASE, str(CHART), "--show-only=templates/platform.yaml", f"--set-json={path}=[[]]")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gpuPool": {}}, "additional properties 'gpuPool' not allowed"),
        ({"gpuPools": {"a100": {"gpuPerNode": 8}}}, r"'/gpuPools/a100'.*'gpuPerNode' not allowed"),
        ({"gpuPools": {"A100": {}}}, r"'/gpuPools'.*'A100' not allowed"),
        ({"gpuPools": {"a100": {"gpusPerNode": 0.5}}}, "'/gpuPools/a100/gpusPerNode': got number, want integer"),
        ({"gpuPools": {"a100": {"worker": {"cpu": "8"}}}}, r"'/gpuPools/a100/worker'.*missing property 'memory'"),
        ({"gpuPools": {"a100": {"shmSize": "8 GB"}}}, "'/gpuPools/a100/shmSize'.*'8 GB' does not match pattern"),
        ({"image": {"digest": "1234"}}, "'/image/digest'.*'1234' does not match pattern"),
        ({"log": {"level": "loud"}}, "'/log/level'.*must be one of 'debug', 'info', 'warning', 'error'"),
        ({"watch": {"namespaces": ["a", "a"]}}, "'/watch/namespaces'.*items at 0 and 1 are equal"),
        ({"podDisruptionBudget": {"maxUnavailable": 0}}, "'/podDisruptionBudget/maxUnavailable'.*got 0, want 1"),
        ({"replicas": 2}, "replicas: 2 operators would work on the same jobs; set leaderElection.enabled: true"),
        ({"podLabels": {"app.kubernetes.io/name": "x"}}, "podLabels: app.kubernetes.io/name is set by the chart"),
    ],
)
def test_a_value_that_cannot_be_is_named(values: Body, said: str) -> None:
    with pytest.raises(HelmFailed, match=said):
        render(values)


@pytest.mark.parametrize(
    "values",
    [{}, chart_values.POOLS, chart_values.NAMESPACED, chart_values.EVERYTHING],
    ids=["defaults", "pools", "namespaced", "everything"],
)
def test_lint_finds_nothing(values: Body) -> None:
    assert "0 chart(s) failed" in Helm()("lint", "--strict", str(CHART), values=values)


def test_a_chart_that_contains_this_one_gives_it_values(tmp_path: Path) -> None:
    parent = tmp_path / "platform"
    (parent / "charts").mkdir(parents=True)
    (parent / "charts" / RELEASE).symlink_to(CHART)
    dependency = {"name": RELEASE, "version": "0.1.0"}
    about = {"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": [dependency]}
    (parent / "Chart.yaml").write_text(yaml.safe_dump(about))
    bodies = render({"global": {"domain": "example"}, RELEASE: chart_values.POOLS}, release="platform", chart=parent)
    assert only(bodies, "Deployment")["metadata"]["name"] == "platform-finetune-operator"


def test_the_schema_says_what_each_value_is() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"].keys() == yaml.safe_load((CHART / "values.yaml").read_text()).keys()
    assert schema["$defs"]["Pool"]["properties"]["nodeSelector"]["description"] == "Labels of the nodes."
