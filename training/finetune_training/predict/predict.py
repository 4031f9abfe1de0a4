"""Prompts → a model's completions: one here, or files of them by Ray Data.

In: a `Answerer` (a model, perhaps with an adapter on top) and a prompt, or files of prompts. Out: the completion, or a file
with each row as it was and its `completion`. The files go through two stages that scale by themselves: tasks that read,
fill in the chat template and tokenise on CPUs, then actors that hold the model, one on each GPU. Rows keep their order.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa

from finetune_training.contract.failure import FailureClass, FinetuneError, classify, user_error
from finetune_training.contract.spec import ModelSpec
from finetune_training.model.fetch import fetch_model, fetch_tokenizer
from finetune_training.model.modelfiles import ADAPTER_CONFIG, Parts
from finetune_training.model.tokenizer import Portable, portable
from finetune_training.predict.asking import Asking, asked
from finetune_training.predict.completions import Output, open_output
from finetune_training.predict.limits import limits_of
from finetune_training.predict.promptfiles import PromptFile, open_prompts
from finetune_training.predict.prompts import Prompt
from finetune_training.store.storage import local_path

if TYPE_CHECKING:
    from finetune_training.predict.generate import LanguageModel, Sampling

_BATCHES_PER_BLOCK = 2
"""An actor gets so many batches of prompts at a time, and sorts them by length."""
COMPLETION = "completion"


@dataclass(frozen=True)
class Answerer:
    """What answers. `adapter`: LoRA weights on top of `model`."""

    model: ModelSpec
    adapter: ModelSpec | None = None

    def without_adapter(self) -> Answerer:
        """The base model alone."""
        return Answerer(self.model)


@dataclass(frozen=True)
class BatchInference:
    """A batch inference: which files, into what, how. `chat`: texts are messages of the user where the tokenizer has a
    chat template. `concurrency`: how many copies of the model; None: one on each GPU, or one."""

    input: str
    output: str
    sampling: Sampling
    chat: bool = True
    concurrency: int | None = None


def target_of(uri: str, *, cache: Path, revision: str = "", trust_remote_code: bool = False) -> Answerer:
    """The model at `uri`. An adapter says itself which model it belongs to."""
    spec = _absolute(ModelSpec(uri=uri, revision=revision, trust_remote_code=trust_remote_code))
    config = fetch_model(spec, cache=cache, parts=Parts.TOKENIZER_OR_ADAPTER).folder / ADAPTER_CONFIG
    if not config.is_file():
        return Answerer(spec)
    said = json.loads(config.read_text(encoding="utf-8"))
    name, base_revision = str(said.get("base_model_name_or_path") or ""), str(said.get("revision") or "")
    if not name:
        raise user_error(
            "AdapterWithoutBase",
            f"{uri} is an adapter that does not name its base model.",
            f"Set base_model_name_or_path in its {ADAPTER_CONFIG}.",
        )
    # As PEFT and transformers read it: a folder if there is one, else a name on the hub.
    on_hub = "://" not in name and not Path(name).is_dir() and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)
    base = ModelSpec(
        uri=f"hf://{name}" if on_hub else name,
        revision=base_revision if on_hub else "",
        trust_remote_code=trust_remote_code,
    )
    return Answerer(_absolute(base), spec)


def predict_one(target: Answerer, prompt: Prompt, *, cache: Path, sampling: Sampling, chat: bool = True) -> str:
    """The completion of one prompt, in this process."""
    return _load(target, cache).answer([prompt], sampling=sampling, chat=chat)[0]


def predict_files(
    target: Answerer, batch: BatchInference, *, cache: Path, on_rows: Callable[[int], None] | None = None
) -> int:
    """Answer every prompt of the input's files. Ray is up already. `on_rows` is told how many rows are done; returns
    how many there were. What is wrong with the input or the output is said before the model is loaded."""
    files = open_prompts(batch.input)
    output = open_output(batch.output)
    tokenizer = _tokenizer(target, cache)
    try:
        return _run(files, output, tokenizer, target, batch, cache, on_rows)
    except Exception as error:
        failure = classify(error)  # Ray wraps what its tasks raise
        if type(error) is FinetuneError or failure.cls is FailureClass.UNKNOWN:
            raise
        raise FinetuneError(failure) from error


def _run(
    files: list[PromptFile],
    output: Output,
    tokenizer: Portable,
    target: Answerer,
    batch: BatchInference,
    cache: Path,
    on_rows: Callable[[int], None] | None,
) -> int:
    import ray
    import ray.data

    from finetune_training.data.pipeline import RowsDatasource, settings

    cpus, gpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("CPU", "GPU"))
    copies = batch.concurrency or max(1, gpus)
    asking = Asking(
        batch.chat, limits_of(fetch_tokenizer(target.model, cache=cache).folder), batch.sampling.max_new_tokens
    )
    rows_per_block = _BATCHES_PER_BLOCK * batch.sampling.batch_size
    if gpus and copies > gpus:
        raise user_error("NotEnoughGPUs", f"{copies} copies of the model need as many GPUs; there are {gpus}.")
    with settings():
        dataset = (
            ray.data.read_datasource(RowsDatasource(files))
            .map_batches(
                asked,
                batch_size=None,
                batch_format="pyarrow",
                fn_kwargs={"files": files, "tokenizer": tokenizer, "asking": asking},
            )
            .repartition(target_num_rows_per_block=rows_per_block)  # also keeps Ray from fusing the two stages
            .map_batches(
                _Completer,
                batch_size=rows_per_block,
                batch_format="pyarrow",
                fn_constructor_args=(target, cache, batch.sampling, copies),
                compute=ray.data.ActorPoolStrategy(size=copies),
                num_cpus=min(1, (cpus - 1) / copies),  # actors on every CPU would leave none to read the files
                num_gpus=1 if gpus else 0,
            )
        )
        dataset.context.execution_options.preserve_order = True
        return output.write(_rows(dataset, on_rows))


def _rows(dataset: Any, on_rows: Callable[[int], None] | None) -> Iterator[dict[str, Any]]:
    done = 0
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        rows, completions = table.column("row").to_pylist(), table.column(COMPLETION).to_pylist()
        for row, completion in zip(rows, completions, strict=True):
            yield _completed(json.loads(row), completion)
        done += len(rows)
        if on_rows:
            on_rows(done)


def _completed(row: dict[str, Any], completion: str) -> dict[str, Any]:
    """The row with its completion. One that it had before, as rows to train on have, stays as `reference`."""
    if COMPLETION in row:
        row = {"reference" if name == COMPLETION else name: value for name, value in row.items()}
    return {**row, COMPLETION: completion}


class _Completer:
    """The model stage: an actor that holds the model. It is loaded with the first rows and not before: what goes wrong
    then arrives as what it is, not as a lost actor."""

    def __init__(self, target: Answerer, cache: Path, sampling: Sampling, copies: int) -> None:
        self._target, self._cache, self._sampling, self._copies = target, cache, sampling, copies
        self._model: LanguageModel | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        if self._model is None:
            import torch

            # Ray gives a process as many threads as it has CPUs; the stage before this one hardly uses its own.
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // self._copies))
            self._model = _load(self._target, self._cache)
        completions = self._model.complete(table.column("input_ids").to_pylist(), sampling=self._sampling)
        return table.select(["row"]).append_column(COMPLETION, pa.array(completions, pa.string()))


def _load(target: Answerer, cache: Path) -> LanguageModel:
    from finetune_training.predict.generate import load_language_model

    base = fetch_model(target.model, cache=cache).folder
    return load_language_model(base, adapter=_adapter(target, cache), trust_remote_code=target.model.trust_remote_code)


def _adapter(target: Answerer, cache: Path) -> Path | None:
    if target.adapter is None:
        return None
    return fetch_model(target.adapter, cache=cache, parts=Parts.TOKENIZER_OR_ADAPTER).folder


def _tokenizer(target: Answerer, cache: Path) -> Portable:
    """The one that belongs to the adapter, with the chat template that it was trained with, else the model's."""
    adapter = _adapter(target, cache)
    has_tokenizer = adapter is not None and (adapter / "tokenizer_config.json").exists()
    folder = adapter if adapter and has_tokenizer else fetch_tokenizer(target.model, cache=cache).folder
    return portable(folder, trust_remote_code=target.model.trust_remote_code)


def _absolute(spec: ModelSpec) -> ModelSpec:
    """Other processes may run elsewhere: a path must not depend on that."""
    if urlsplit(spec.uri).scheme not in ("", "file"):
        return spec
    return spec.model_copy(update={"uri": str(local_path(spec.uri))})
