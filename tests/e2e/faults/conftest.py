"""The operator, models that fail on purpose, and a book for what is measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import S3Store

from tests.cluster.faults import Faults
from tests.cluster.helm import Helm
from tests.cluster.kubectl import Kubectl
from tests.e2e.conftest import layout_of
from tests.e2e.faults.book import Book
from tests.e2e.platform import installed, namespace, upload
from tests.faulty import write_faulty_model
from tests.real import METHOD, real_model, write_lines

Model = Callable[[str, str], dict[str, Any]]


@pytest.fixture(scope="session")
def book() -> Book:
    return Book()


@pytest.fixture(scope="module")
def platform(cluster: Kubectl) -> Iterator[Helm]:
    with installed(cluster) as helm:
        yield helm


@pytest.fixture(scope="module")
def jobs(platform: Helm, cluster: Kubectl) -> Iterator[Kubectl]:
    """kubectl in a namespace of the module's own."""
    with namespace(cluster, "faults") as inside:
        yield inside


@pytest.fixture(scope="module")
def on_jobs(jobs: Kubectl) -> Faults:
    """The faults, for pods of that namespace."""
    return Faults(jobs, layout_of())


@pytest.fixture(scope="module")
def model(module_s3: S3Store, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """`model(name, before)`: a tiny model in the bucket that does `before` before each forward pass in training, and the fields
    of a job that trains all of it."""
    folder = tmp_path_factory.mktemp("models")

    def make(name: str, before: str) -> dict[str, Any]:
        upload(module_s3, write_faulty_model(folder / name, before), f"faults/{name}")
        return _fields(module_s3, folder, name) | {"method": {"type": "Full"}, "output": []}

    return make


@pytest.fixture(scope="module")
def real(module_s3: S3Store, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same with the model of the examples, as users run it: BF16, LoRA with dropout, packing."""
    folder = tmp_path_factory.mktemp("real")

    def make(name: str, before: str) -> dict[str, Any]:
        made = write_faulty_model(folder / name, before, llama=real_model())
        upload(module_s3, made, f"faults/{name}")
        shutil.rmtree(made)
        return _fields(module_s3, folder, name) | {"method": METHOD}

    return make


def _fields(store: S3Store, folder: Path, name: str) -> dict[str, Any]:
    obstore.put(store, "faults/text/rows.txt", write_lines(folder / "rows.txt", 4000))
    return {
        "model": {"uri": f"s3://finetune/faults/{name}", "trustRemoteCode": True},
        "dataset": {"train": [{"uri": "s3://finetune/faults/text/*.txt"}], "maxLength": 64, "packing": True},
        "evaluation": {"everySteps": 0, "baseline": False, "prompts": ["To be"]},
    }
