"""What both packages call the same: the resource, and who owns which of its fields.

In: nothing. Out: constants. What only the operator names (labels, children, accounts) is in its own names.py.
"""

from __future__ import annotations

from typing import Final

GROUP: Final = "finetune.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "FineTuneJob"
PLURAL: Final = "finetunejobs"

JOB_NAME_MAX: Final = 42
"""KubeRay allows 47 characters for a RayJob; the attempt's suffix takes up to five."""

OPERATOR_MANAGER: Final = "finetune-operator"
"""Server-side apply: the operator owns its children, and `status` but for `run`."""
DRIVER_MANAGER: Final = "finetune-driver"
"""The driver owns `status.run`."""
