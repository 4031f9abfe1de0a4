"""The first rows → findings. Pure, given a tokenizer.

In: the sources' surveys, some rows, and what became of them. Out: a `Finding` for each thing that was looked at: columns, keys
of messages, chat templates, rows that teach nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_training.chat.template import template_of
from finetune_training.contract.failure import FinetuneError
from finetune_training.data.notices import notices
from finetune_training.data.render import Options
from finetune_training.events.specimen import Specimen
from finetune_training.preflight.finding import Finding, doubtful, good, wrong
from finetune_training.sources.rows import Messages, Row
from finetune_training.sources.sourcefiles import SourceFile


def check_sources(files: Sequence[SourceFile]) -> list[Finding]:
    """Which columns nothing uses."""
    warnings = [warning for survey in dict.fromkeys(file.survey for file in files) for warning in survey.warnings]
    return [doubtful("columns", warning, "") for warning in warnings] or [good("columns", "all are used.")]


def check_templates(
    rows: Sequence[Row], files: Sequence[SourceFile], tokenizer: Any, options: Options
) -> list[Finding]:
    """What the chat templates of these rows do, and which keys of messages they pass over."""
    try:
        said = [doubtful("template", notice, "") for notice in notices(rows, tokenizer, options)]
        surveys = [survey for survey in dict.fromkeys(file.survey for file in files) if survey.keys]
        template = template_of(tokenizer, options.chat_template).text if surveys else ""
    except FinetuneError as error:
        return [wrong("template", error)]
    unused = [doubtful("keys", warning, "") for survey in surveys for warning in survey.key_warnings(template)]
    if any(isinstance(row, Messages) for row in rows):
        said = said or [good("template", "the assistant's turns and their ends are found.")]
    return [*said, *unused]


def check_rows(seen: Sequence[Specimen]) -> list[Finding]:
    """How many of the rows that were rendered teach something."""
    dropped = [row for row in seen if row.dropped]
    if not dropped:
        rows = f"{len(seen):,} looked at, all of them teach something" if seen else "none"
        return [good("rows", f"{rows}.")]
    message = f"{len(dropped):,} of the {len(seen):,} rows that were looked at are dropped ({dropped[0].where}: "
    remedy = "See spec.dataset.maxLength and spec.dataset.lossOn."
    return [doubtful("rows", f"{message}{dropped[0].notes[0].removeprefix('dropped: ')}).", remedy)]
