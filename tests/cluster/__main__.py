"""`make cluster-up | cluster-down | cluster-status`: brings a cluster up, takes it down, says what runs.

Settings, from the environment: CLUSTER (local or kind), KUBECONFIG (a cluster of yours: only KubeRay and the S3 server are
put into it), CONTROL_PLANE_ONLY, CLUSTER_NAME (which control plane), CPU_NODES, GPU_NODES, GPUS_PER_NODE.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.cluster import addons, control_plane, images, kind, machine, node, processes, programs
from tests.cluster.disk import Disk
from tests.cluster.kubectl import Kubectl
from tests.cluster.layout import BIN, FOLDER, ROOT, load, nodes
from tests.cluster.steps import Problem, step

# One whole cluster on a machine, whichever clone it is of: its addresses, cgroups and nftables have one name each.
_LOCK, _OWNER = Path("/run/finetune-cluster.lock"), Path("/run/finetune-cluster")


def main(command: str) -> None:
    """Run one command. Raises Problem."""
    if os.environ.get("CONTROL_PLANE_ONLY"):
        folder = ROOT / "build" / "control-planes" / (os.environ.get("CLUSTER_NAME") or "default")
        {"up": _api_up, "down": control_plane.remove, "status": _status}[command](folder)
    elif foreign := os.environ.get("KUBECONFIG"):
        {"up": _foreign_up, "down": _foreign_down, "status": _foreign_status}[command](Kubectl(Path(foreign)))
    elif os.environ.get("CLUSTER") == "kind":
        {"up": _kind_up, "down": _kind_down, "status": _foreign_status}[command](Kubectl(FOLDER / "kubeconfig"))
    elif command == "status":
        _status(FOLDER)
    else:
        machine.require_root()
        with _alone(command):
            _up() if command == "up" else _down()


def _api_up(folder: Path) -> None:
    programs.build(programs.CONTROL_PLANE)
    layout = load(folder) or control_plane.alone(folder)
    layout.save()
    control_plane.start_api(layout)
    print(f"cluster-up: an API server without nodes. export KUBECONFIG={layout.kubeconfig}")


def _up() -> None:
    began = time.monotonic()
    wanted, saved = control_plane.whole(FOLDER, nodes(os.environ)), load(FOLDER)
    layout = replace(saved, nodes=wanted.nodes) if saved else wanted
    if saved and {each.name for each in saved.nodes} - {each.name for each in wanted.nodes}:
        raise Problem("the cluster here has more nodes: run `make cluster-down` before one with fewer")
    processes.mark_children(FOLDER, "cluster-up")
    with Disk(ROOT) as disk:
        machine.require_space(ROOT, images.bytes_needed() / 1e9)
        machine.install_packages()
        programs.build(programs.ALL)
        images.build()
        layout.save()
        _OWNER.write_text(str(FOLDER))
        machine.set_up_network(FOLDER, layout.nodes)
        control_plane.start_api(layout)
        images.load(layout)
        for each in layout.nodes:
            node.start(layout, each, images.IMAGE_ROOT)
        control_plane.start_controllers(layout)
        addons.install(Kubectl(layout.kubeconfig), FOLDER)
    print(f"cluster-up: ready after {time.monotonic() - began:.0f} s; {disk}")
    print(f"  export KUBECONFIG={layout.kubeconfig} PATH={BIN}:$PATH")
    print("  kubectl get nodes; make cluster-status; make cluster-down")
    print(f"  S3 in the cluster: http://s3-proxy.storage:8333, bucket {addons.BUCKET}. The picture: docs/cluster.md")


def _down() -> None:
    with step("stop every process"):
        processes.stop(FOLDER)
        processes.stop(images.SEED)
    with step("remove cgroups, links and rules"):
        node.remove_cgroups("/finetune-cluster")
        machine.remove_network(FOLDER)
    with step("remove the folder"):
        shutil.rmtree(FOLDER, ignore_errors=True)
        _OWNER.unlink(missing_ok=True)
    if left := machine.leftovers(FOLDER):
        raise Problem("not all could be removed:\n  " + "\n  ".join(left))


def _status(folder: Path) -> None:
    layout, running = load(folder), processes.running(folder)
    if not layout:
        print(f"no cluster in {folder}")
        return
    for name in sorted(running):
        print(f"  {name:<26} process {running[name][0]}, log {processes.log_of(folder, name)}")
    if not control_plane.answers(layout):
        raise Problem(
            f"the API server at {layout.server} does not answer: run `make cluster-up` again, or `make cluster-down`"
        )
    kubectl = Kubectl(layout.kubeconfig)
    print(f"  API server {layout.server}, kubeconfig {layout.kubeconfig}\n\n{kubectl('get', 'nodes', '--output=wide')}")
    print(kubectl("get", "pods", "--all-namespaces"), end="")


def _foreign_up(kubectl: Kubectl) -> None:
    print(f"cluster-up: in the cluster of KUBECONFIG, context {kubectl('config', 'current-context').strip()}")
    programs.build(["kuberay"])
    addons.install(kubectl, ROOT / "build" / "foreign")


def _foreign_down(kubectl: Kubectl) -> None:
    addons.remove(kubectl, ROOT / "build" / "foreign")


def _foreign_status(kubectl: Kubectl) -> None:
    print(kubectl("get", "nodes"), kubectl("get", "pods", "--all-namespaces"), sep="\n", end="")


def _kind_up(_: Kubectl) -> None:
    programs.build(["kuberay", "seaweedfs"])
    images.build()
    addons.install(kind.up(FOLDER, nodes(os.environ)), FOLDER)


def _kind_down(_: Kubectl) -> None:
    kind.down()
    shutil.rmtree(FOLDER, ignore_errors=True)


@contextmanager
def _alone(command: str) -> Iterator[None]:
    """Hold the machine's lock, or raise Problem saying who has it, or whose cluster is up."""
    with _LOCK.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Problem(f"at work already: {lock.read().strip()}. Wait for it.") from None
        lock.truncate(0)
        lock.write(f"cluster-{command} of {ROOT}, process {os.getpid()}, since {time.strftime('%H:%M:%S')}")
        lock.flush()
        if _OWNER.exists() and (owner := Path(_OWNER.read_text())) != FOLDER and processes.running(owner):
            raise Problem(
                f"the cluster of {owner} is up, and a machine has room for one: run `make cluster-down` there first"
            )
        yield


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Problem as problem:
        sys.exit(f"cluster-{sys.argv[1]}: {problem}")
    except KeyboardInterrupt:
        sys.exit(f"cluster-{sys.argv[1]}: stopped. `make cluster-up` goes on from here, `make cluster-down` tidies up")
