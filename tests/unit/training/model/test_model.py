"""Packed documents and the model: nobody sees his neighbour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_training.contract.spec import RunSpec
from finetune_training.model.model import load_model
from finetune_training.worker.objective import Collator, empty_sample
from tests.tiny import write_model

ARCHITECTURES = ["llama", "gptj", "gpt2"]
FIRST, SECOND = list(range(10, 17)), list(range(30, 41))
PACKED = {"input_ids": FIRST + SECOND, "labels": FIRST + SECOND, "seq_lengths": [7, 11]}


def spec(model: Path, attention: str = "Auto") -> RunSpec:
    return RunSpec.model_validate(
        {
            "model": {"uri": str(model), "attention": attention},
            "dataset": {"train": [{"uri": "unused"}]},
            "training": {"precision": "FP32"},
        }
    )


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / request.param, request.param)


def logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits
    return result


@pytest.mark.parametrize("attention", ["SDPA", "Eager"])
@pytest.mark.parametrize("flatten", [True, False])
def test_a_packed_document_has_the_logits_that_it_has_alone(folder: Path, attention: str, flatten: bool) -> None:
    model = load_model(folder, spec(folder, attention))
    collate = Collator(0, flatten=flatten)
    together = logits(model, collate([PACKED, empty_sample(0)]))[0]
    for document, start in ((FIRST, 0), (SECOND, len(FIRST))):
        sample = {"input_ids": document, "labels": document, "seq_lengths": [len(document)]}
        alone = logits(model, collate([sample]))[0]
        torch.testing.assert_close(together[start : start + len(document)], alone, atol=1e-5, rtol=1e-5)


def test_without_restarting_positions_the_documents_would_see_each_other(folder: Path) -> None:
    """The test above can fail: this is the leak that it would find."""
    model = load_model(folder, spec(folder))
    leaking = {"input_ids": torch.tensor([FIRST + SECOND]), "position_ids": torch.arange(18).unsqueeze(0)}
    alone = {"input_ids": torch.tensor([SECOND]), "position_ids": torch.arange(11).unsqueeze(0)}
    assert (logits(model, leaking)[0, 7:] - logits(model, alone)[0]).abs().max() > 1e-3


def test_padding_and_empty_samples_weigh_nothing() -> None:
    batch = Collator(0, flatten=False)([PACKED, empty_sample(0)])
    assert batch["input_ids"].shape == (2, 18)
    assert (batch["labels"][1] == -100).all()
    assert batch["position_ids"][0].tolist() == [*range(7), *range(11)]
