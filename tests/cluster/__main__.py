"""`make cluster-up | cluster-down | cluster-status`: brings a cluster up, takes it down, says what runs.

Settings, from the environment: CLUSTER (local or kind), FINETUNE_KUBECONFIG (a cluster of yours: only KubeRay and the S3
server are put into it), CONTROL_PLANE_ONLY, CLUSTER_NAME (which control plane), CPU_NODES, GPU_NODES, GPUS_PER_NODE.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.cluster import addons, control_plane, images, kind, machine, node, processes, programs
from tests.cluster.disk import Disk
from tests.cluster.kubectl import Kubectl
from tests.cluster.layout import BIN, FOLDER, KIND, ROOT, chosen, load, nodes
from tests.cluster.steps import Problem, step

# One whole cluster on a machine, whichever clone it is of: its addresses, cgroups and nftables have one name each.
_LOCK, _OWNER = Path("/run/finetune-cluster.lock"), Path("/run/finetune-cluster")


def main(command: str) -> None:
    """Run one command. Raises Problem."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # what is there is needed, and a user's PATH may lack it
    kubectl = Kubectl(chosen(os.environ))
    if os.environ.get("CONTROL_PLANE_ONLY", "0") not in ("", "0"):
        name = os.environ.get("CLUSTER_NAME") or "default"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise Problem(f"CLUSTER_NAME={name}: it is the name of a folder, of letters, digits, `.`, `_` and `-`")
        folder = ROOT / "build" / "control-planes" / name
        {"up": _api_up, "down": control_plane.remove, "status": _status}[command](folder)
    elif os.environ.get("FINETUNE_KUBECONFIG"):
        {"up": _foreign_up, "down": addons.remove, "status": _foreign_status}[command](kubectl)
    elif os.environ.get("CLUSTER") == "kind":
        {"up": _kind_up, "down": _kind_down, "status": _foreign_status}[command](kubectl)
    else:
        machine.require_root()
        if command == "status":
            _status(FOLDER)
            return
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
    processes.stop(FOLDER, ["cluster-up"])  # what a killed one has left would be at work beside this one
    processes.mark_children(FOLDER, "cluster-up")
    with Disk(ROOT) as disk:
        machine.require_space(ROOT, images.bytes_needed() / 1e9)
        machine.install_packages()
        programs.build(programs.ALL)
        identities = images.build("buildah")  # docker's daemon has its own store, and writes another format
        layout.save()
        _OWNER.write_text(str(FOLDER))
        machine.set_up_network(FOLDER, layout.nodes)
        control_plane.start_api(layout)
        images.load(layout, identities)
        for each in layout.nodes:
            node.start(layout, each, images.IMAGE_ROOT)
        control_plane.start_controllers(layout)
        addons.install(Kubectl(layout.kubeconfig), FOLDER, identities)
        for name in control_plane.missing(layout):
            log = processes.log_of(FOLDER, name)
            raise Problem(f"{name} has ended. The end of {log}:\n{processes.tail(log)}")
    print(f"cluster-up: ready after {time.monotonic() - began:.0f} s; {disk}")
    print(f"  export KUBECONFIG={layout.kubeconfig} PATH={BIN}:$PATH")
    print("  kubectl get nodes; make cluster-status; make cluster-down. The picture: docs/cluster.md")
    print(f"  S3 in the cluster: http://s3-proxy.{addons.STORAGE}:8333, bucket {addons.BUCKET}")


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
    for name in control_plane.missing(layout):
        print(f"  {name:<26} does not run, log {processes.log_of(folder, name)}")
    if not control_plane.answers(layout):
        raise Problem(
            f"the API server at {layout.server} does not answer: run `make cluster-up` again, or `make cluster-down`"
        )
    kubectl = Kubectl(layout.kubeconfig)
    print(f"  API server {layout.server}, kubeconfig {layout.kubeconfig}\n\n{kubectl('get', 'nodes', '--output=wide')}")
    print(kubectl("get", "pods", "--all-namespaces"), end="")


def _foreign_up(kubectl: Kubectl) -> None:
    print(f"cluster-up: in the cluster of KUBECONFIG, context {kubectl('config', 'current-context').strip()}")
    addons.refuse_theirs(kubectl)
    addons.install(kubectl, ROOT / "build" / "foreign", defaultdict(str))


def _foreign_status(kubectl: Kubectl) -> None:
    print(kubectl("get", "nodes"), kubectl("get", "pods", "--all-namespaces"), sep="\n", end="")


def _kind_up(_: Kubectl) -> None:
    kind.require_docker()
    programs.build(["kuberay"])
    identities = images.build("docker")
    addons.install(kind.up(KIND, nodes(os.environ)), KIND, identities)


def _kind_down(_: Kubectl) -> None:
    kind.down()
    shutil.rmtree(KIND, ignore_errors=True)


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
