"""The programs of a cluster, built from their Go modules into build/bin.

Each folder of `programs/` is a module whose `tool` lines name what is built; go.mod and go.sum pin all of it. A program
is built again when its module's files have changed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.cluster.layout import BIN
from tests.cluster.steps import Problem, step

_MODULES = Path(__file__).parent / "programs"
_CACHE = BIN.parent / "go-build"
CONTROL_PLANE = ("etcd", "kubernetes")
ALL = (*CONTROL_PLANE, "containerd", "coredns", "kuberay", "seaweedfs")
# The one whose file is not called what everybody calls it.
_RENAMED = {"etcd": ("server", "etcd")}


def build(names: Iterable[str]) -> None:
    """Build the programs of these modules that are not built. Raises Problem."""
    for name in names:
        module, stamp = _MODULES / name, BIN / f".{name}"
        wanted = (module / "go.mod").read_text() + (module / "go.sum").read_text()
        if stamp.exists() and stamp.read_text() == wanted:
            continue
        if not shutil.which("go"):
            raise Problem(
                f"Go is missing, and {name} is built with it. Install the version in {module}/go.mod or a newer one."
            )
        with step(f"build {name} (minutes, the first time)"):
            _build(name, module)
        stamp.write_text(wanted)


def _build(name: str, module: Path) -> None:
    BIN.mkdir(parents=True, exist_ok=True)
    flags = ["-s", "-w"]
    if name == "kubernetes":
        # Its release builds set the version by the linker; without it every client is told v0.0.0.
        version = re.search(r"k8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)", (module / "go.mod").read_text())
        assert version
        values = {"gitVersion": version[1], "gitMajor": version[2], "gitMinor": version[3]}
        flags += [f"-X k8s.io/component-base/version.{key}={value}" for key, value in values.items()]
    command = ["go", "build", "-trimpath", f"-ldflags={' '.join(flags)}", "-o", f"{BIN}/", "tool"]
    environment = {"GOCACHE": str(_CACHE), **os.environ, "CGO_ENABLED": "0"}
    done = subprocess.run(command, cwd=module, env=environment, capture_output=True, text=True, check=False)
    # Gigabytes that nothing needs again: programs share few packages of one version. A GOCACHE of yours stays.
    shutil.rmtree(_CACHE, ignore_errors=True)
    if done.returncode != 0:
        raise Problem(f"`go build` failed in {module}:\n{done.stderr[-3000:]}")
    if name in _RENAMED:
        built, called = _RENAMED[name]
        (BIN / built).rename(BIN / called)


def module_folder(name: str, path: str) -> Path:
    """Where Go keeps the sources of the module `path`, of which the programs of `name` are built."""
    command = ["go", "list", "-m", "-f", "{{.Dir}}", path]
    return Path(subprocess.run(command, cwd=_MODULES / name, capture_output=True, text=True, check=True).stdout.strip())


if __name__ == "__main__":
    try:
        build(sys.argv[1:] or ALL)
    except Problem as problem:
        sys.exit(f"programs: {problem}")
