"""The train function of one rank: from a task to a trained model's weights in the store.

In: a `Task` (plain values that pickle) and a `Context` (who am I, where do I report). Out: progress events,
checkpoints, and in `trained/` what becomes the result. Imports neither Ray nor Kubernetes: any processes that have found
each other can run it, which is how it is tested.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from finetune_training.checkpoint.lineage import check_fence
from finetune_training.checkpoint.reshape import loading
from finetune_training.checkpoint.run_folder import TRAINED
from finetune_training.checkpoint.save import Checkpointer, Origin
from finetune_training.checkpoint.world import TorchWorld, World
from finetune_training.contract.batch import batch_of
from finetune_training.contract.spec import MethodType, Precision
from finetune_training.data.shards import Shard, fetch_shards
from finetune_training.events.progress import Likelihoods, Report, Resumed, Stage, StageStarted, Trained, Warned
from finetune_training.model.engine import deepspeed_config, merged
from finetune_training.model.fetch import default_cache, fetch_model
from finetune_training.model.refusals import by_field
from finetune_training.worker.position import Plan
from finetune_training.worker.start import Start, start
from finetune_training.worker.task import Context, Task


def train(task: Task, context: Context) -> None:
    """Collective: every rank calls it. Returns when the weights are in the store, or when a checkpoint is after an
    interruption."""
    world = _join(task, context)
    say = context.report if context.rank == 0 else (lambda _: False)
    say(StageStarted(Stage.STARTING, "loading the model"))
    model_folder = _first_of_node(world, lambda: fetch_model(task.job.spec.model, cache=default_cache()).folder)
    if _computes_bf16_in_software(task):
        say(Warned("This CPU computes BF16 in software: spec.training.precision FP32 is some six times faster here."))
    begin = start(task, world, say)
    from finetune_training.worker.steps import Steps  # seconds, and the driver imports this module too
    from finetune_training.worker.witness import witness

    with closing(_checkpointer(task, world, begin, say)) as checkpointer:
        validation = _validation(task, world)
        with by_field(task.job.spec):
            trainer = _trainer(task, world, begin, model_folder)
        steps = Steps(
            trainer, begin, task.job.spec, world=world, report=say, checkpointer=checkpointer, validation=validation
        )
        trainer.add_callback(steps)
        if begin.restored:
            say(Resumed(begin.step, begin.restored.uri))
        with by_field(task.job.spec):
            trainer.train(resume_from_checkpoint=str(begin.folder) if begin.folder else None)
        steps.finish()
        likelihoods: tuple[Likelihoods, ...] = ()
        if not steps.interrupted:
            likelihoods = witness(trainer, trainer.train_dataset if validation is None else validation)
            _leave_weights(task, world, trainer, model_folder)
        say(Trained(trainer.state.global_step, steps.interrupted, likelihoods))


def _checkpointer(task: Task, world: World, begin: Start, say: Callable[[Report], bool]) -> Checkpointer:
    staging = task.staging / f"rank-{world.rank}"
    shutil.rmtree(staging, ignore_errors=True)  # of a rank that was lost while it saved
    return Checkpointer(
        task.store,
        facts=task.facts,
        world=world,
        staging=staging,
        keep=task.job.spec.checkpoint.keep,
        origin=Origin(task.inherited, begin.own.name if begin.own else None),
        report=say,
    )


def _trainer(task: Task, world: World, begin: Start, model_folder: Path) -> Any:
    """Ready at the step where the run begins. The arguments come before the model: they tell transformers about ZeRO-3."""
    from finetune_training.model.model import load_model, load_tokenizer
    from finetune_training.worker import objective

    spec = task.job.spec
    batch = batch_of(spec, ranks=world.size)
    plan = Plan.of(
        samples=task.data.train_samples,
        global_batch_size=batch.global_batch_size,
        seed=spec.training.seed,
        epochs=spec.training.epochs,
        max_steps=spec.training.max_steps,
    )
    config = deepspeed_config(spec, ranks=world.size, on_gpu=task.on_gpu)
    args = objective.sft_config(
        spec,
        batch,
        steps=plan.steps,
        deepspeed=merged(config, loading(begin.folder) if begin.folder else {}),
        on_gpu=task.on_gpu,
        folder=task.staging / "trainer",
    )
    trainer = objective.sft_trainer(
        spec,
        model=load_model(model_folder, spec),
        tokenizer=load_tokenizer(model_folder, spec),
        args=args,
        plan=plan,
        train=_dataset(task, world, task.data.train),
        first_step=begin.step,
    )
    begin.put_into(trainer.model, world)
    return trainer


def _join(task: Task, context: Context) -> World:
    """Bring up the process group (Ray Train has done so already) and our own."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if task.on_gpu else "cpu")
    import deepspeed
    import torch

    if not task.on_gpu:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.world_size))
    deepspeed.init_distributed(dist_backend="nccl" if task.on_gpu else "gloo", auto_mpi_discovery=False)
    return TorchWorld.create()


def _computes_bf16_in_software(task: Task) -> bool:
    """Measured on a CPU without AVX-512: 7 GFLOP/s a core in BF16, 47 in FP32. Of other kinds of CPU nothing is known."""
    import torch

    bf16 = task.job.spec.training.precision is Precision.BF16
    return bf16 and not task.on_gpu and torch.cpu.get_capabilities().get("avx512_bw") is False


def _first_of_node(world: World, fetch: Callable[[], Any]) -> Any:
    """One rank of each node fetches, the others then find it there."""
    result = fetch() if world.local_rank == 0 else None
    world.gather(None)
    return result if world.local_rank == 0 else fetch()


def _validation(task: Task, world: World) -> Any:
    """The held-out samples that are scored, None when there are none."""
    held_out, most = _dataset(task, world, task.data.validation), task.job.spec.evaluation.max_samples
    return held_out.select(range(min(len(held_out), most))) if held_out is not None and most else held_out


def _dataset(task: Task, world: World, shards: list[Shard]) -> Any:
    """The packed samples of `shards` as one memory-mapped dataset, None when there are none."""
    from datasets import Dataset, concatenate_datasets

    if not shards:
        return None
    paths = _first_of_node(world, lambda: fetch_shards(task.data_store, shards, task.staging / "data"))
    return concatenate_datasets([Dataset.from_file(str(path)) for path in paths]).with_format("numpy")


def _leave_weights(task: Task, world: World, trainer: Any, model_folder: Path) -> None:
    """What was trained, an adapter or a whole model, where the last step finds it: compared by nobody yet, so no result. Rank 0
    writes and uploads it."""
    from finetune_training.model.export import name_base, publish
    from finetune_training.model.model import origin_of, save_weights

    folder = task.staging / "weights"
    save_weights(trainer, folder, origin_of(model_folder, task.job.spec))
    if world.rank == 0:
        lora = task.job.spec.method.type is MethodType.LORA
        if lora:
            name_base(folder, task.base, revision=task.job.spec.model.revision)
        check_fence(task.store, task.turn)
        publish(folder, task.store.child(TRAINED, "adapter" if lora else "merged"))
        shutil.rmtree(folder)
    world.gather(None)
