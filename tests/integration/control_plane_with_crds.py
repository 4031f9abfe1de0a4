"""An API server that knows FineTuneJobs, RayJobs and RayClusters, and nobody who acts on them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_operator.api.crd import definition
from tests.cluster import control_plane
from tests.cluster.kubectl import Kubectl, KubectlFailed
from tests.cluster.layout import Layout
from tests.cluster.programs import module_folder
from tests.cluster.steps import until

_KUBERAY = "github.com/ray-project/kuberay/ray-operator"


@contextmanager
def control_plane_with_crds(folder: Path) -> Iterator[Layout]:
    """From nothing, and to nothing."""
    layout = control_plane.alone(folder)
    layout.save()
    try:
        control_plane.start_api(layout)
        kubectl = Kubectl(layout.kubeconfig)
        crds = module_folder("kuberay", _KUBERAY) / "config" / "crd" / "bases"
        for name in ("rayjobs", "rayclusters"):
            kubectl("create", f"--filename={crds / f'ray.io_{name}.yaml'}")
        kubectl.apply(json.dumps(definition()))
        _await_served(kubectl, "finetunejobs", "rayjobs", "rayclusters")
        yield layout
    finally:
        control_plane.remove(folder)


def _await_served(kubectl: Kubectl, *resources: str) -> None:
    """`kubectl wait` stumbles over a CRD that has no conditions yet."""
    for _ in until(30):
        try:
            kubectl("get", ",".join(resources))
            return
        except KubectlFailed as error:
            last = error
    raise last


def new_namespace(layout: Layout) -> Kubectl:
    """kubectl in a namespace that nobody else uses."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    kubectl = Kubectl(layout.kubeconfig)
    kubectl("create", "namespace", name)
    return kubectl.within(name)
