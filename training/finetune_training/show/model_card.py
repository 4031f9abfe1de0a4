"""A finished run → the `README.md` beside its artifact: what the model is, how good it is, how to load it.

In: the job, its result, the data's statistics, the artifact's format. Out: a model card as the Hugging Face hub reads
it: YAML front matter, then Markdown. What came from elsewhere (answers, URIs) is quoted so that it cannot become markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import yaml

from finetune_training.contract.dataset import RowKind
from finetune_training.contract.spec import ArtifactFormat, Job, MethodType
from finetune_training.data.shards import Statistics
from finetune_training.events import wording
from finetune_training.events.result import Artifact, RunResult, Sample

_SAMPLE_LIMIT = 1_000


def render_model_card(
    *,
    job: Job,
    result: RunResult,
    statistics: Statistics,
    artifact_format: ArtifactFormat,
    sources: Sequence[str] = (),
) -> str:
    """The model card of the artifact of that format. Its checksums are there when `result.artifacts` has it. `sources`: a
    sentence for each; no row is quoted, because a card goes where the data may not."""
    artifact = next((found for found in result.artifacts if found.format == artifact_format.value), None)
    sections = [
        f"# {job.name}",
        _what(job, result, artifact_format),
        "## Scores\n\n" + _scores(result),
        "## How to load it\n\n" + _loading(job, result, artifact_format),
        "## How it was trained\n\n" + _training(job, result, statistics, sources),
        *([] if not result.samples else ["## A sample\n\n" + _sample(result.samples[0])]),
        *([] if artifact is None else ["## Checksums\n\n" + _checksums(artifact)]),
    ]
    return f"---\n{_front_matter(job, result, artifact_format)}---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(job: Job, result: RunResult, artifact_format: ArtifactFormat) -> str:
    adapter = artifact_format is ArtifactFormat.ADAPTER
    fields: dict[str, Any] = {
        # The hub accepts ids only: of a model elsewhere, its folder's name.
        "base_model": _hub_id(result.base_model) or re.sub(r"[^\w.-]+", "-", _last_part(result.base_model)),
        "base_model_relation": "adapter" if adapter else "finetune",
        "library_name": "peft" if adapter else "transformers",
        **(result.base_license or {"license": "unknown"}),
        "pipeline_tag": "text-generation",
        "tags": ["finetune-operator", "sft", *(["lora"] if job.spec.method.type is MethodType.LORA else [])],
    }
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _what(job: Job, result: RunResult, artifact_format: ArtifactFormat) -> str:
    adapter, lora = artifact_format is ArtifactFormat.ADAPTER, job.spec.method.type is MethodType.LORA
    kind = (
        "A LoRA adapter for"
        if adapter
        else "A whole model: LoRA adapters merged into"
        if lora
        else "A whole model, from"
    )
    revision = f" at revision {_code(result.base_revision)}" if result.base_revision else ""
    sources = ", ".join(_code(source.uri) for source in job.spec.dataset.train)
    return f"{kind} {_code(result.base_model)}{revision}, fine-tuned on {sources}. {wording.outcome(result.evaluation)}"


def _scores(result: RunResult) -> str:
    base, tuned = result.evaluation.baseline, result.evaluation.tuned
    if tuned is None:
        return "The model was not evaluated."
    rows = [["", "tuned"], ["loss", wording.loss(tuned.loss)], ["perplexity", wording.perplexity(tuned.perplexity)]]
    if base:
        before = ["base", wording.loss(base.loss), wording.perplexity(base.perplexity)]
        rows = [[row[0], old, *row[1:]] for row, old in zip(rows, before, strict=True)]
    table = [f"| {' | '.join(row)} |" for row in rows]
    table.insert(1, "| --- |" + " ---: |" * (len(rows[0]) - 1))
    tokens = f"{wording.count(tuned.supervised_tokens)} tokens"
    return "\n".join(table) + f"\n\nOn held-out rows that no training step has seen, {tokens}; loss in nats per token."


def _loading(job: Job, result: RunResult, artifact_format: ArtifactFormat) -> str:
    """A few lines that run as they are, once `path/to/…` names this folder."""
    adapter = artifact_format is ArtifactFormat.ADAPTER
    hub_id, here = _hub_id(result.base_model), f"path/to/{artifact_format.value.lower()}"
    elsewhere = f"path/to/{_last_part(result.base_model)}" if "://" in result.base_model else result.base_model
    trust = ", trust_remote_code=True" if job.spec.model.trust_remote_code else ""
    where = {"model": _string((hub_id or elsewhere) if adapter else here)}
    if adapter and hub_id and result.base_revision:
        where["revision"] = _string(result.base_revision)
    source = ("model, revision=revision" if "revision" in where else "model") + trust
    model = f"AutoModelForCausalLM.from_pretrained({source})"
    prompt = _string(next((sample.prompt for sample in result.samples), "Once upon a time")[:80])
    if job.spec.dataset.kind is RowKind.MESSAGES:
        options = 'add_generation_prompt=True, return_dict=True, return_tensors="pt"'
        inputs = f'tokenizer.apply_chat_template([{{"role": "user", "content": {prompt}}}], {options})'
    else:
        inputs = f'tokenizer({prompt}, return_tensors="pt")'
    # Beside an adapter PEFT passes over it: the base's own would be taken, which may end at other tokens.
    ends = f"generation_config=GenerationConfig.from_pretrained({_string(here)}), " if adapter else ""
    classes = ["AutoModelForCausalLM", "AutoTokenizer", *(["GenerationConfig"] if adapter else [])]
    lines = [
        *(["from peft import PeftModel"] if adapter else []),
        f"from transformers import {', '.join(classes)}",
        "",
        f"{', '.join(where)} = {', '.join(where.values())}",
        f"tokenizer = AutoTokenizer.from_pretrained({_string(here) + trust if adapter else source})",
        f"tuned = PeftModel.from_pretrained({model}, {_string(here)})" if adapter else f"tuned = {model}",
        f"inputs = {inputs}",
        f"print(tokenizer.decode(tuned.generate(**inputs, {ends}max_new_tokens=60)[0], skip_special_tokens=True))",
    ]
    needs = "transformers peft" if adapter else "transformers"
    return f"With `pip install {needs}`:\n\n" + _fenced("\n".join(lines), "python")


def _training(job: Job, result: RunResult, statistics: Statistics, sources: Sequence[str]) -> str:
    spec = job.spec
    lora = spec.method.lora
    modules = lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules)
    is_lora = spec.method.type is MethodType.LORA
    method = f"LoRA: rank {lora.rank}, alpha {lora.alpha:g}, dropout {lora.dropout:g}, on {_code(modules)}"
    training, tokens = spec.training, statistics.tokens
    supervised = wording.share(statistics.supervised_tokens / tokens if tokens else 0.0)
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    facts = [
        method if is_lora else "Every weight was trained.",
        f"{wording.times(result.steps, 'step')} of {wording.times(training.global_batch_size, 'sample')}, "
        f"each of at most {wording.times(spec.dataset.max_length, 'token')}",
        f"Learning rate {training.learning_rate:g}, {training.scheduler.value.lower()} schedule, {training.precision}, "
        f"seed {training.seed}",
        f"Data: {wording.times(statistics.rows, 'row')}, {wording.count(tokens)} tokens, {supervised} of them supervised; "
        f"fingerprint {_code(result.data_fingerprint)}",
        *sources,
        f"Made with {versions}" if versions else "Made with finetune-operator",
    ]
    return "\n".join(f"- {fact}" for fact in facts)


def _sample(sample: Sample) -> str:
    answers = (("Prompt", sample.prompt), ("Base", sample.base), ("Tuned", sample.tuned))
    quoted = [(name, wording.shortened(text, _SAMPLE_LIMIT)) for name, text in answers if text is not None]
    return "\n\n".join(f"{name}:\n\n{_fenced(text, 'text')}" for name, text in quoted)


def _checksums(artifact: Artifact) -> str:
    lines = [f"{file.sha256}  {file.path}" for file in sorted(artifact.files, key=lambda file: file.path)]
    head = f"{wording.size(artifact.bytes)}. The lines below, saved as `SHA256SUMS`, are checked by `sha256sum -c SHA256SUMS`;"
    return f"{head} their own sha256 is `{artifact.sha256}`.\n\n" + _fenced("\n".join(lines), "text")


def _hub_id(uri: str) -> str:
    """`hf://owner/name` → `owner/name`; "" for a model elsewhere."""
    return uri.removeprefix("hf://").strip("/") if uri.startswith("hf://") else ""


def _last_part(uri: str) -> str:
    return uri.rstrip("/").rpartition("/")[2]


def _string(text: str) -> str:
    """A Python literal in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _code(text: str) -> str:
    """Inline code, whatever is in `text`."""
    text = " ".join(text.split())
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def _fenced(text: str, language: str) -> str:
    """A code block that nothing in `text` can close."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"
