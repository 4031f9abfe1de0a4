"""What a job would do, without doing it.

In: a job. Out: text for `finetune validate`: what is trained on what, how a step is cut among the ranks, the DeepSpeed
config that the ranks will use. Reads no data and no model.
"""

from __future__ import annotations

import json
from pathlib import Path

from finetune_training.contract.batch import batch_of
from finetune_training.contract.spec import Job, MethodType
from finetune_training.model.engine import deepspeed_config


def plan_text(job: Job, *, ranks: int | None) -> str:
    """The plan, for `ranks` ranks (None: as many as spec.resources asks for). Raises a User error when it cannot be
    done."""
    spec = job.spec
    for_cluster = "resources" in spec.model_fields_set
    ranks = ranks or (spec.resources.ranks if for_cluster else 1)
    on_gpu = spec.resources.gpus_per_worker > 0 if for_cluster else _gpu_here()
    batch = batch_of(spec, ranks=ranks)
    lora = spec.method.lora
    method = f"LoRA, rank {lora.rank}, alpha {lora.alpha:g}" if spec.method.type is MethodType.LORA else "Full"
    length = f"{spec.training.max_steps} steps" if spec.training.max_steps else f"{spec.training.epochs:g} epochs"
    where = f"{ranks} {'GPU' if on_gpu else 'CPU'}{'s' if ranks > 1 else ''}"
    if for_cluster and ranks == spec.resources.ranks:
        where += f": {spec.resources.workers} workers × {max(1, spec.resources.gpus_per_worker)}"
    facts = {
        "job": job.name,
        "model": spec.model.uri + (f" at {spec.model.revision}" if spec.model.revision else ""),
        "data": ", ".join(source.uri for source in spec.dataset.train),
        "method": f"{spec.method.objective}, {method}, {spec.training.precision.value}",
        "length": f"{length}, learning rate {spec.training.learning_rate:g}, {spec.training.scheduler.value.lower()}",
        "ranks": where,
        "step": (
            f"{batch.global_batch_size} samples of {spec.dataset.max_length} tokens"
            f" = {ranks} ranks × {batch.micro_batch_size} × {batch.gradient_accumulation_steps} accumulated"
        ),
        "engine": f"DeepSpeed ZeRO-{spec.deepspeed.stage}, offload {spec.deepspeed.offload.value}",
        "run": f"{spec.checkpoint.uri.rstrip('/')}/{job.path}",
    }
    width = max(map(len, facts))
    lines = [f"{name:<{width}}  {value}" for name, value in facts.items()]
    config = deepspeed_config(spec, ranks=ranks, on_gpu=on_gpu)
    return "\n".join([*lines, "", f"DeepSpeed config on {'GPUs' if on_gpu else 'CPUs'}:", json.dumps(config, indent=2)])


def _gpu_here() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))
