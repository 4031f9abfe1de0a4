"""The models of job.py and status.py → docs/fields-cluster.md.

In: the pydantic models and the docstrings under their fields. Out: Markdown on standard output, of what docs/fields.md does not
have; a test keeps the committed page fresh.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, create_model

from finetune_operator.api.crd import MUTABLE
from finetune_operator.api.job import FineTuneJobSpec
from finetune_operator.api.status import FineTuneJobStatus
from finetune_training.contract.fields import section
from finetune_training.contract.spec import CLUSTER_FIELDS


def markdown() -> str:
    """The whole page."""
    lines = [
        "# Fields of a FineTuneJob on a cluster",
        "",
        "Generated from `finetune_operator/api/job.py` and `status.py` by `make generate`. What is trained is in",
        "[fields.md](fields.md); `kubectl explain ftj.spec` has both.",
        "",
        f"Only {', '.join(f'`{name}`' for name in sorted(MUTABLE))} may be changed: a new run is a new object.",
        "",
        *section(_of_the_cluster(), "spec", "Where it runs and how it lives."),
        *section(
            FineTuneJobStatus,
            "status",
            "What has become of the job. [conditions.md](conditions.md) explains the reasons.",
        ),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _of_the_cluster() -> type[BaseModel]:
    """The spec less what a laptop reads, too. `resources` has both, and `checkpoint` another default."""
    wanted = {*CLUSTER_FIELDS, "resources", "checkpoint"}
    fields = {name: field for name, field in FineTuneJobSpec.model_fields.items() if field.alias in wanted}
    definitions: dict[str, Any] = {name: (field.annotation, field) for name, field in fields.items()}
    return create_model("ClusterSpec", **definitions)


if __name__ == "__main__":
    print(markdown(), end="")
