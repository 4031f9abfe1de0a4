"""What a rank says before it trains."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune_training.contract.spec import RunSpec
from finetune_training.worker.worker import _computes_bf16_in_software

OLD, NEW, OTHER = {"avx512_bw": False}, {"avx512_bw": True}, {"architecture": "aarch64"}


@pytest.mark.parametrize(
    ("precision", "on_gpu", "cpu", "slow"),
    [
        ("BF16", False, OLD, True),
        ("FP32", False, OLD, False),
        ("BF16", True, OLD, False),
        ("BF16", False, NEW, False),
        ("BF16", False, OTHER, False),
    ],
)
def test_bf16_in_software_is_known(
    monkeypatch: pytest.MonkeyPatch, precision: str, on_gpu: bool, cpu: dict[str, Any], slow: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    spec = {"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d"}]}, "training": {"precision": precision}}
    task: Any = SimpleNamespace(job=SimpleNamespace(spec=RunSpec.model_validate(spec)), on_gpu=on_gpu)
    assert _computes_bf16_in_software(task) is slow
