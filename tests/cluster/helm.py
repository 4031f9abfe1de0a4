"""Helm, for Python: the tests install the chart by it, as people do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.cluster.layout import BIN, ROOT
from tests.cluster.steps import Problem

CHART = ROOT / "charts" / "finetune-operator"


class HelmFailed(Problem):
    """Helm ended with an error. The message has its arguments and what it said."""


@dataclass(frozen=True)
class Helm:
    """Helm in one namespace of one cluster, or of none: `template` and `lint` need no cluster."""

    kubeconfig: Path | None = None
    namespace: str = "finetune-system"

    def __call__(self, *arguments: str, values: Mapping[str, object] | None = None, timeout: float = 300) -> str:
        """Run `helm <arguments>`, with these values, and return what it printed. Raises HelmFailed."""
        given = ["--values=-"] if values is not None else []
        command = [str(BIN / "helm"), f"--namespace={self.namespace}", *arguments, *given]
        # Without a cluster it must not find one by chance, and in no case a person's own settings.
        place = str(self.kubeconfig or "/dev/null")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HELM_")}
        done = subprocess.run(
            command,
            input=yaml.safe_dump(values) if values is not None else None,
            env=environment | {"KUBECONFIG": place},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0:
            raise HelmFailed(f"helm {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout
