"""The parts of the test cluster that need no cluster: what is where, who is whose, and what an image is sent as."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from images import build
from tests.cluster import __main__ as command
from tests.cluster import images, layout, machine, processes, programs
from tests.cluster.steps import Problem


def test_nodes_share_no_address() -> None:
    nodes = layout.nodes({"CPU_NODES": "2", "GPU_NODES": "2", "GPUS_PER_NODE": "8"})
    assert [(each.name, each.number, each.gpus) for each in nodes] == [
        ("cpu-1", 1, 0),
        ("cpu-2", 2, 0),
        ("gpu-1", 101, 8),
        ("gpu-2", 102, 8),
    ]
    assert len({each.address for each in nodes} | {each.pods for each in nodes} | {each.cgroup for each in nodes}) == 12


def test_a_node_keeps_its_addresses_when_others_are_added() -> None:
    assert set(layout.nodes({})) <= set(layout.nodes({"CPU_NODES": "3", "GPU_NODES": "2"}))


@pytest.mark.parametrize("given", ["0", "-1", "two", "100"])
def test_a_number_of_nodes_that_is_none_is_told(given: str) -> None:
    with pytest.raises(Problem, match=f"CPU_NODES={given}: it is a number from 1 to 99"):
        layout.nodes({"CPU_NODES": given})


def test_one_node_of_each_pool_unless_told_otherwise() -> None:
    assert [(each.name, each.gpus) for each in layout.nodes({"CPU_NODES": ""})] == [("cpu-1", 0), ("gpu-1", 4)]


def test_a_layout_is_found_again_as_it_was_saved(tmp_path: Path) -> None:
    saved = layout.Layout(tmp_path, "10.0.0.1", 1, 2, 3, layout.nodes({}))
    assert layout.load(tmp_path) is None
    saved.save()
    assert layout.load(tmp_path) == saved


def test_a_kubeconfig_is_used_only_if_make_was_told_so() -> None:
    assert layout.chosen({"KUBECONFIG": "/mine"}) == layout.FOLDER / "kubeconfig"
    assert layout.chosen({"FINETUNE_KUBECONFIG": "/mine"}) == Path("/mine")
    assert layout.chosen({"CLUSTER": "kind"}) == layout.KIND / "kubeconfig"


def test_the_files_of_a_program_are_known_by_its_module() -> None:
    assert {name: programs._files(name) for name in ("etcd", "kuberay")} == {
        "etcd": ["etcd"],
        "kuberay": ["ray-operator"],
    }
    assert {"kubectl", "kubelet", "kube-proxy"} < set(programs._files("kubernetes"))


def test_processes_are_known_by_their_folder_and_name(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, name in ((here, "a"), (here, "b"), (there, "a")):
        processes.start(folder, name, ["sleep", "1000"])
    assert processes.running(here).keys() == {"a", "b"}
    processes.stop(here, ["a"])
    assert processes.running(here).keys() == {"b"}
    processes.stop(here)
    assert processes.running(here) == {}
    assert processes.running(there).keys() == {"a"}
    processes.stop(there)


def test_a_process_that_ends_before_it_is_ready_is_shown_with_its_log(tmp_path: Path) -> None:
    processes.start(tmp_path, "short", ["sh", "-c", "echo no such file; exit 1"])
    with pytest.raises(Problem, match=r"short has ended(.|\n)*no such file"):
        processes.await_ready(tmp_path, "short", lambda: False)


def test_too_little_space_is_told_with_both_figures(tmp_path: Path) -> None:
    machine.require_space(tmp_path, 0)
    with pytest.raises(Problem, match=r"1000000 GB of disk are needed.*GB free"):
        machine.require_space(tmp_path, 1_000_000)


def test_without_root_the_other_ways_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Problem, match=r"needs root(.|\n)*CONTROL_PLANE_ONLY=1.*CLUSTER=kind.*KUBECONFIG"):
        machine.require_root()


def test_a_second_command_is_told_who_is_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_LOCK", tmp_path / "lock")
    monkeypatch.setattr(command, "_OWNER", tmp_path / "owner")
    with (
        command._alone("up"),
        pytest.raises(Problem, match=rf"cluster-up of .*process {os.getpid()}"),
        command._alone("down"),
    ):
        pass
    with (tmp_path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go at the end


def _saved(layers: dict[str, bytes], config: bytes) -> io.BytesIO:
    """An archive as `docker save` writes it."""
    archive = io.BytesIO()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": name, "Layers": [f"{each}.tar" for each in layers], "RepoTags": ["some:tag"]}]
    files = {f"{each}.tar": content for each, content in layers.items()} | {name: config}
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for file, content in (files | {"manifest.json": json.dumps(manifest).encode()}).items():
            images._add(tar, file, content)
    archive.seek(0)
    return archive


def _sent(archive: io.BytesIO) -> dict[str, bytes]:
    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]


def test_an_image_is_sent_to_every_node_without_the_layers_that_they_have() -> None:
    layers = {hashlib.sha256(content).hexdigest(): content for content in (b"base", b"packages", b"code")}
    base, packages, code = layers
    sinks = [io.BytesIO(), io.BytesIO()]
    assert images._translate(_saved(layers, b"{}"), sinks, "localhost/some:dev", {base, packages}) == list(layers)
    files = _sent(sinks[0])
    assert files == _sent(sinks[1])
    index: dict[str, Any] = json.loads(files["index.json"])
    described = index["manifests"][0]
    assert described["annotations"] == {"io.containerd.image.name": "localhost/some:dev"}
    manifest = json.loads(files["blobs/" + described["digest"].replace(":", "/")])
    assert [(each["digest"], each["size"]) for each in manifest["layers"]] == [
        (f"sha256:{digest}", len(content)) for digest, content in layers.items()
    ]
    assert files["blobs/" + manifest["config"]["digest"].replace(":", "/")] == b"{}"
    assert {name for name in files if code in name} == {f"blobs/sha256/{code}"}
    assert not any(base in name or packages in name for name in files)


def test_an_image_is_another_when_any_input_of_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "ROOT", tmp_path)
    source = tmp_path / "package" / "code.py"
    source.parent.mkdir()
    source.write_text("1")
    (source.parent / "__pycache__").mkdir()
    digests = [build._digest([source.parent], "base")]
    (source.parent / "__pycache__" / "code.pyc").write_text("not an input")
    assert build._digest([source.parent], "base") == digests[0]
    digests.append(build._digest([source.parent], "other base"))
    source.write_text("2")
    digests.append(build._digest([source.parent], "base"))
    source.chmod(0o755)
    digests.append(build._digest([source.parent], "base"))
    source.rename(source.with_name("other.py"))
    digests.append(build._digest([source.parent], "base"))
    assert len(set(digests)) == 5


def test_what_a_killed_command_had_started_is_stopped_with_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FINETUNE_CLUSTER", "FINETUNE_CLUSTER_PROCESS"):
        monkeypatch.setenv(name, "")
    processes.mark_children(tmp_path, "cluster-up")
    with subprocess.Popen(["sleep", "1000"]) as child:
        assert processes.running(tmp_path) == {"cluster-up": [child.pid]}
        processes.stop(tmp_path)
    assert child.returncode == -signal.SIGKILL
