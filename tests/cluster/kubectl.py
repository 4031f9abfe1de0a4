"""kubectl, for Python: every test and every step speaks to a cluster by it, so a person can repeat what they did."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.cluster.layout import BIN
from tests.cluster.steps import Problem, until


class KubectlFailed(Problem):
    """kubectl ended with an error. The message has its arguments and what it said."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl with one kubeconfig, in one namespace or, if that is empty, in those that manifests and calls name."""

    kubeconfig: Path
    namespace: str = ""

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 300) -> str:
        """Run `kubectl <arguments>` and return what it printed. Raises KubectlFailed."""
        command = [*self.command, *arguments]
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise KubectlFailed(f"kubectl {' '.join(arguments)}: no end after {timeout:.0f} s") from None
        if done.returncode != 0:
            raise KubectlFailed(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    @property
    def command(self) -> list[str]:
        """The words that every call begins with."""
        place = [f"--namespace={self.namespace}"] if self.namespace else []
        return [_program(), f"--kubeconfig={self.kubeconfig}", *place]

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get` as an object, or as a list of them in `items`."""
        found = json.loads(self("get", *arguments, "--output=json"))
        assert isinstance(found, dict)
        return found

    def apply(self, manifest: str) -> None:
        """Apply YAML on the server's side: also what is too large for an annotation, such as KubeRay's CRDs."""
        self("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=manifest)

    def wait(self, condition: str, *what: str, seconds: int = 120) -> None:
        """Wait until `what` meets a condition of `kubectl wait --for`, or raise KubectlFailed. kubectl itself stumbles over an
        object that has no conditions yet, as a CRD in its first moment."""
        for left in until(seconds):
            try:
                self("wait", f"--for={condition}", f"--timeout={math.ceil(left)}s", *what, timeout=seconds + 30)
                return
            except KubectlFailed as error:
                last = error
                if "accessor error" not in str(error):
                    break
        raise last

    def watch(self, what: str, name: str, done: Callable[[dict[str, Any]], bool], *, seconds: int) -> dict[str, Any]:
        """Follow one object until `done` says so of it, and return it as it is then. Raises KubectlFailed."""
        deadline = time.monotonic() + seconds
        seen: dict[str, Any] = {}
        said = ""
        # A watch may end at any time, and does when the API server stops: then follow it anew.
        while (left := deadline - time.monotonic()) > 0 and "NotFound" not in said:
            command = [
                *self.command,
                "get",
                what,
                name,
                "--watch",
                "--output=json",
                f"--request-timeout={max(left, 1):.0f}s",
            ]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follow:
                assert follow.stdout
                assert follow.stderr
                try:
                    for each in _objects(follow.stdout):
                        seen = each
                        if done(seen):
                            return seen
                    said = follow.stderr.read().strip()
                finally:
                    follow.kill()
            time.sleep(0.1)
        status = json.dumps(seen.get("status"))[:1000]
        raise KubectlFailed(
            f"kubectl get {what} {name} --watch: not as wanted in {seconds} s; {said} Its status: {status}"
        )

    def within(self, namespace: str) -> Kubectl:
        """The same cluster, another namespace."""
        return Kubectl(self.kubeconfig, namespace)


def _objects(lines: IO[str]) -> Iterator[dict[str, Any]]:
    """The objects that kubectl prints, each from a `{` to a `}` of a line's own, without what is said of the watch itself."""
    text = ""
    for line in lines:
        text += line
        if line.rstrip() == "}":
            found = json.loads(text)
            if found["kind"] != "Status":
                yield found
            text = ""


def _program() -> str:
    ours = BIN / "kubectl"
    found = str(ours) if os.access(ours, os.X_OK) else shutil.which("kubectl")
    if not found:
        raise Problem("kubectl is missing: `make cluster-up` builds it, or install it")
    return found
