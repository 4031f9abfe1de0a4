"""The images are what pods need of them, as any user of group 0 and without a network."""

from __future__ import annotations

import json

import pytest

from tests.cluster.images import tag
from tests.cluster.kubectl import Kubectl

_TRAINING = """
import importlib.util, os, pathlib, shutil, subprocess, time
assert os.getuid() != 0
assert all(map(shutil.which, ["bash", "wget", "g++", "ninja", "finetune", "ray", "uv"])), os.environ["PATH"]
(pathlib.Path.home() / "written").write_text("by anyone of group 0")
import torch
assert torch.version.cuda
from deepspeed.git_version_info import installed_ops
assert installed_ops["cpu_adam"] and installed_ops["deepspeed_shm_comm"], installed_ops
began = time.monotonic()
from deepspeed.ops.op_builder import CPUAdamBuilder
from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
assert CPUAdamBuilder().load() and ShareMemCommBuilder().load()
assert time.monotonic() - began < 30, "compiled, not loaded"
print(subprocess.run(["finetune", "schema"], check=True, capture_output=True, text=True).stdout[:1])
"""
_OPERATOR = """
import importlib.util, os
assert os.getuid() != 0
import finetune_operator, finetune_training.contract.spec, finetune_training.contract.jobfile, finetune_training.contract.failure
assert not any(map(importlib.util.find_spec, ["torch", "ray", "transformers"]))
print("{")
"""
_SCRIPTS = {"training": _TRAINING, "operator": _OPERATOR}


@pytest.mark.parametrize("user", [1000, 1234567])
@pytest.mark.parametrize("name", _SCRIPTS)
def test_an_image_has_what_it_is_for(kubectl: Kubectl, name: str, user: int) -> None:
    container = {
        "name": "check",
        "image": tag(name),
        "command": ["python", "-c", _SCRIPTS[name]],
        "securityContext": {
            "runAsUser": user,
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    spec = {"restartPolicy": "Never", "containers": [container]}
    kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "check"}, "spec": spec}))
    ended = kubectl.watch("pod", "check", lambda pod: pod["status"]["phase"] in ("Succeeded", "Failed"), seconds=120)
    assert ended["status"]["phase"] == "Succeeded", kubectl("logs", "check")
    assert kubectl("logs", "check").strip().endswith("{")
