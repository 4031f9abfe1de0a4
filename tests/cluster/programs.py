"""The programs of a cluster, built from their Go modules into build/bin.

Each folder of `programs/` is a module whose `tool` lines name what is built; go.mod and go.sum pin all of it. A program
is built again when its module's files have changed. What was compiled stays in Go's own cache (`go env GOCACHE`, which Go
itself tidies), so that the next clone links only.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.cluster.layout import BIN
from tests.cluster.steps import Problem, run, step

_MODULES = Path(__file__).parent / "programs"
CONTROL_PLANE = ("etcd", "kubernetes")
ALL = (*CONTROL_PLANE, "containerd", "coredns", "helm", "kuberay")
# The one that Go calls otherwise: `server`.
_CALLED = {"go.etcd.io/etcd/server/v3": "etcd"}


def build(names: Iterable[str]) -> None:
    """Build the programs of these modules that are not built. Raises Problem."""
    BIN.mkdir(parents=True, exist_ok=True)
    with (BIN / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another command of this clone may be building them
        for name in names:
            _build_if_changed(name)


def _build_if_changed(name: str) -> None:
    module, stamp = _MODULES / name, BIN / f".{name}"
    wanted = "".join(path.read_text() for path in sorted(module.iterdir()))
    if stamp.exists() and stamp.read_text() == wanted and all((BIN / each).exists() for each in _files(name)):
        return
    if not shutil.which("go"):
        newest = _MODULES / "containerd" / "go.mod"
        raise Problem(f"Go is missing, and {name} is built with it. Install the version in {newest} or a newer one.")
    with step(f"build {name} (minutes, the first time)"):
        _build(name, module)
    stamp.write_text(wanted)


def _files(name: str) -> list[str]:
    """What is built of a module: Go calls each after the end of its `tool` path."""
    text = (_MODULES / name / "go.mod").read_text()
    paths = re.findall(r"^tool (\S+/\S+)$", text, re.MULTILINE)
    for block in re.findall(r"^tool \(\n(.*?)^\)", text, re.MULTILINE | re.DOTALL):
        paths += block.split()
    return [_CALLED.get(each, Path(each).name) for each in paths]


def _build(name: str, module: Path) -> None:
    flags = ["-s", "-w"]
    if name == "kubernetes":
        # Its release builds set the version by the linker; without it every client is told v0.0.0.
        version = re.search(r"k8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)", (module / "go.mod").read_text())
        assert version
        values = {"gitVersion": version[1], "gitMajor": version[2], "gitMinor": version[3]}
        flags += [f"-X k8s.io/component-base/version.{key}={value}" for key, value in values.items()]
    # What debuggers read is not made: it would be thrown away when the program is linked (-s, -w).
    options = ["-trimpath", "-gcflags=all=-dwarf=false", f"-ldflags={' '.join(flags)}"]
    environment = {**os.environ, "CGO_ENABLED": "0"}
    run("go", "build", *options, "-o", f"{BIN}/", "tool", cwd=module, env=environment)
    if name == "etcd":
        (BIN / "server").rename(BIN / "etcd")


def module_folder(name: str, path: str) -> Path:
    """Where Go keeps the sources of the module `path`, of which the programs of `name` are built. Raises Problem."""
    return Path(json.loads(run("go", "mod", "download", "-json", path, cwd=_MODULES / name))["Dir"])


if __name__ == "__main__":
    try:
        build(sys.argv[1:] or ALL)
    except Problem as problem:
        sys.exit(f"programs: {problem}")
