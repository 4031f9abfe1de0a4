"""What the pages for users say of the operator is true."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
import yaml
from lupa.lua51 import LuaRuntime

from finetune_operator.loop.metrics import Metrics
from finetune_operator.loop.workqueue import WorkQueue
from finetune_operator.observe.store import Store
from tests.cluster.layout import ROOT

_DOCS = ROOT / "docs"
_CODE = ROOT / "operator" / "finetune_operator"
# Where the reason stands in the arguments.
_REASON_OF = {"Waits": 1, "Fact": 1, "Failure": 1, "Refused": 0, "failed": 1, "Cause": 2, "Refusal": 1}


def _reasons() -> set[str]:
    """Every reason that the code gives as a literal."""
    found = set()
    for path in _CODE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _REASON_OF:
                reason = node.args[_REASON_OF[node.func.id]] if len(node.args) > _REASON_OF[node.func.id] else None
                if isinstance(reason, ast.Constant) and isinstance(reason.value, str):
                    found.add(reason.value)
    return found


def test_every_reason_is_explained() -> None:
    reasons = _reasons()
    assert {"Unschedulable", "KubeRayMissing", "OOMKilled", "Retrying", "InvalidSpec"} <= reasons
    explained = set(re.findall(r"`([A-Za-z]+)`", (_DOCS / "conditions.md").read_text()))
    assert reasons - explained - {"Valid", "Progressing", "Succeeded", "Resumed"} == set()


def _argo_health() -> Any:
    """The page's Lua, as a function of an object."""
    block = re.findall(r"```yaml\n(.*?)```", (_DOCS / "gitops.md").read_text(), re.DOTALL)[0]
    script = yaml.safe_load(block)["data"]["resource.customizations.health.finetune.dev_FineTuneJob"]
    lua = LuaRuntime()

    def health(obj: dict[str, Any]) -> str:
        lua.globals()["obj"] = lua.table_from(obj, recursive=True)
        return str(lua.execute(script)["status"])

    return health


@pytest.mark.parametrize(
    ("conditions", "health"),
    [
        (None, "Progressing"),
        ([("Accepted", "True"), ("Reconciling", "True"), ("Training", "False")], "Progressing"),
        ([("Accepted", "True"), ("Training", "True")], "Progressing"),
        ([("Training", "False"), ("Suspended", "True")], "Suspended"),
        ([("Training", "True"), ("Suspended", "False")], "Progressing"),
        ([("Training", "False"), ("Complete", "True")], "Healthy"),
        ([("Training", "False"), ("Stalled", "True"), ("Failed", "True")], "Degraded"),
    ],
)
def test_argo_cd_sees_how_a_job_is(conditions: list[tuple[str, str]] | None, health: str) -> None:
    status = {"conditions": [{"type": kind, "status": is_so, "message": ""} for kind, is_so in conditions or ()]}
    assert _argo_health()({"status": status} if conditions else {}) == health


def test_every_metric_is_explained() -> None:
    metrics = Metrics(Store(), WorkQueue(lambda: 0.0))
    ours = [family for family in metrics.registry.collect() if not family.name.startswith("process_")]
    names = {family.name + ("_total" if family.type == "counter" else "") for family in ours}
    assert "finetune_jobs" in names
    assert names == set(re.findall(r"^\| `(\w+)", (_DOCS / "metrics.md").read_text(), re.MULTILINE))
