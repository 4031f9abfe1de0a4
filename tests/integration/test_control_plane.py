"""A control plane without nodes: the API server of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.cluster import control_plane, processes
from tests.cluster.kubectl import Kubectl, KubectlFailed
from tests.cluster.layout import Layout, load


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[Layout]]:
    """Two control planes side by side."""
    with ExitStack() as undo:
        layouts = []
        for name in ("one", "other"):
            layouts.append(control_plane.alone(tmp_path / name))
            layouts[-1].save()
            undo.callback(control_plane.remove, layouts[-1].folder)
            control_plane.start_api(layouts[-1])
        yield layouts


def test_two_control_planes_run_side_by_side_and_know_nothing_of_each_other(two: list[Layout]) -> None:
    one, other = (Kubectl(each.kubeconfig) for each in two)
    one("create", "namespace", "mine")
    assert one.get("namespace", "mine")["metadata"]["name"] == "mine"
    with pytest.raises(KubectlFailed, match=r'namespaces "mine" not found'):
        other.get("namespace", "mine")


def test_starting_twice_changes_nothing_and_a_stopped_api_server_comes_back_with_its_objects(two: list[Layout]) -> None:
    layout = two[0]
    kubectl, before = Kubectl(layout.kubeconfig), processes.running(layout.folder)
    kubectl("create", "namespace", "kept")
    control_plane.start_api(layout)
    assert processes.running(layout.folder) == before
    control_plane.stop_api(layout)
    with pytest.raises(KubectlFailed):
        kubectl.get("namespace", "kept")
    control_plane.start_api(layout)
    assert kubectl.get("namespace", "kept")["metadata"]["name"] == "kept"


def test_nothing_is_left_of_a_control_plane_that_is_removed(two: list[Layout]) -> None:
    folder = two[0].folder
    assert load(folder) == two[0]
    assert processes.running(folder).keys() == {"etcd", "kube-apiserver"}
    control_plane.remove(folder)
    assert processes.running(folder) == {}
    assert not folder.exists()
    assert processes.running(two[1].folder).keys() == {"etcd", "kube-apiserver"}


def test_an_object_is_followed_until_it_is_as_wanted(two: list[Layout]) -> None:
    kubectl = Kubectl(two[0].kubeconfig, "default")
    kubectl("create", "configmap", "seen", "--from-literal=step=1")
    assert kubectl.watch("configmap", "seen", lambda each: each["data"]["step"] == "1", seconds=20)["data"] == {
        "step": "1"
    }
    with pytest.raises(KubectlFailed, match="not as wanted in 1 s"):
        kubectl.watch("configmap", "seen", lambda each: each["data"]["step"] == "2", seconds=1)
    with pytest.raises(KubectlFailed, match="NotFound"):
        kubectl.watch("configmap", "unseen", lambda _: True, seconds=20)


def test_a_change_is_seen_also_after_the_api_server_was_gone(two: list[Layout]) -> None:
    kubectl = Kubectl(two[0].kubeconfig, "default")
    kubectl("create", "configmap", "seen", "--from-literal=step=1")
    followed = Event()

    def second(found: dict[str, Any]) -> bool:
        followed.set()
        return bool(found["data"]["step"] == "2")

    def change() -> None:
        followed.wait()
        control_plane.stop_api(two[0])
        control_plane.start_api(two[0])
        kubectl("patch", "configmap", "seen", '--patch={"data": {"step": "2"}}')

    with ThreadPoolExecutor() as pool:
        changed = pool.submit(change)
        assert kubectl.watch("configmap", "seen", second, seconds=60)["data"] == {"step": "2"}
        changed.result()
