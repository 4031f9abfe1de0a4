"""What the API server's refusals mean. That effects are carried out is tested on a real API server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from finetune_operator.act.apiserver import ApiError
from finetune_operator.act.execute import Refused, _allowed


async def answers(error: ApiError | None) -> Any:
    if error:
        raise error
    return "done"


def asked(status: int, reason: str, message: str) -> Any:
    return asyncio.run(_allowed(answers(ApiError(status, reason, message))))


def unknown(path: str) -> str:
    return f'RayJob in version "v1" cannot be handled as a RayJob: strict decoding error: unknown field "{path}"'


WEBHOOK = 'admission webhook "policy.example" denied the request: no latest tag'
HEAD = "spec.rayClusterSpec.headGroupSpec.template.spec"

ROWS: dict[str, tuple[tuple[int, str, str], str, str, bool]] = {
    "there is no KubeRay": ((404, "", "404 page not found"), "KubeRayMissing", "Have KubeRay 1.6 or newer", False),
    "KubeRay is too old": (
        (400, "BadRequest", unknown("spec.rayClusterSpec.authOptions")),
        "KubeRayTooOld", "authOptions\". Have KubeRay 1.6 or newer", False,
    ),
    "the job has an unknown source of a variable": (
        (400, "BadRequest", unknown(f"{HEAD}.containers[0].env[0].valueFrom.secretKey")),
        "InvalidSpec", "spec.env: Kubernetes does not know a field of valueFrom", True,
    ),
    "a quota of RayJobs": (
        (403, "Forbidden", 'rayjobs.ray.io "plays-1" is forbidden: exceeded quota: few, used: count/rayjobs.ray.io=2'),
        "QuotaExceeded", "exceeded quota: few", False,
    ),
    "the namespace goes": (
        (403, "Forbidden", 'rayjobs.ray.io "plays-1" is forbidden: unable to create new content in namespace team because it '
         "is being terminated"),
        "NamespaceTerminating", "The namespace is being deleted.", False,
    ),
    "no right": ((403, "Forbidden", "rayjobs.ray.io is forbidden: User x cannot create"), "NotAllowed", "cannot create", False),
    "a webhook forbids it": ((403, "Forbidden", WEBHOOK), "NotAllowed", WEBHOOK, False),
    "a webhook finds it bad": ((400, "BadRequest", WEBHOOK), "NotAllowed", WEBHOOK, False),
    "the schema forbids it": (
        (422, "Invalid", 'RayJob.ray.io "plays-1" is invalid: spec.x: Required value'), "InvalidSpec", "spec.x: Required", True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_the_job_waits_or_has_failed_because(name: str) -> None:
    given, reason, part, final = ROWS[name]
    with pytest.raises(Refused) as error:
        asked(*given)
    assert (error.value.reason, error.value.final) == (reason, final)
    assert part in error.value.message


@pytest.mark.parametrize(
    "given",
    [
        pytest.param((0, "NoAnswer", "refused"), id="no answer"),
        pytest.param((404, "NotFound", 'namespaces "team" not found'), id="no namespace"),
        pytest.param((409, "AlreadyExists", "exists"), id="it is there"),
        pytest.param((429, "TooManyRequests", "slow"), id="too many requests"),
        pytest.param((500, "InternalError", "etcd"), id="its own trouble"),
    ],
)
def test_an_error_that_says_nothing_of_the_job_stays_one(given: tuple[int, str, str]) -> None:
    with pytest.raises(ApiError) as error:
        asked(*given)
    assert error.value.status == given[0]


def test_what_is_allowed_is_answered() -> None:
    assert asyncio.run(_allowed(answers(None))) == "done"


@pytest.mark.parametrize(
    ("status", "again"),
    [
        (0, True),
        (408, True),
        (409, True),
        (429, True),
        (500, True),
        (503, True),
        (400, False),
        (403, False),
        (404, False),
    ],
)
def test_an_error_of_the_api_server_says_whether_another_try_may_help(status: int, again: bool) -> None:
    assert ApiError(status, "", "").transient is again
