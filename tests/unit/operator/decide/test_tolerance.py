"""Whatever stands in an object's status or spec, a decision is made: others write there too."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.act.rayjob import render_rayjob
from finetune_operator.api.reading import read
from finetune_operator.api.status import FineTuneJobStatus
from finetune_operator.decide.effects import SetStatus, Start
from finetune_operator.decide.reconcile import decide, refused
from finetune_operator.observe.views import compact
from tests.unit.operator import worlds
from tests.unit.operator.api_server import ApiServer
from tests.unit.operator.worlds import APP_FAILED, HEAD_LOST, NOW, PLATFORM, RUNNING, Object, job, pod, rayjob, world

PAST: Object = {
    "attempt": 1, "class": "Infrastructure", "reason": "WorkerLost", "message": "Gone.", "rank": 1,
    "startTime": worlds.time(NOW - 900), "endTime": worlds.time(NOW - 800), "resumedFromStep": 5, "step": 30,
    "checkpointStep": 20, "lostSteps": 10, "secondsPerStep": 2.5, "restarts": 1, "logs": "s3://runs/1",
}  # fmt: skip
RUN: Object = {
    "attempt": 2, "stage": "Training", "step": 50, "totalSteps": 100, "resumedFromStep": 20, "restarts": 1,
    "memory": {"rung": 1, "microBatchSize": 1, "gradientCheckpointing": True, "offload": "None", "stage": 3, "peakBytes": 2**33},
    "seconds": {"preparing": 1.5, "training": 90.5, "sinceCheckpoint": 20.5},
    "checkpoint": {"uri": "s3://x", "step": 40, "time": worlds.time(NOW - 10)},
    "failure": {"class": "Infrastructure", "reason": "WorkerLost", "message": "Rank 1 is gone.", "rank": 1},
    "updatedAt": worlds.time(NOW - 5),
}  # fmt: skip
USAGE: Object = dict.fromkeys(
    ("waitingSeconds", "startingSeconds", "preparingSeconds", "trainingSeconds", "evaluatingSeconds", "exportingSeconds",
     "checkpointSeconds", "lostSeconds", "totalSeconds", "gpuSeconds"), 7,
) | {"goodput": 0.5}  # fmt: skip
STATUS: Object = {
    "observedGeneration": 1, "phase": "Training", "attempt": 2, "failed": 1, "outOfMemory": 1, "rayJobName": "plays-2",
    "startTime": worlds.time(NOW - 900),
    "conditions": [
        {"type": kind, "status": status, "reason": "x", "message": "y", "lastTransitionTime": worlds.time(NOW - 800),
         "observedGeneration": 1}
        for kind, status in (("Accepted", "True"), ("Training", "True"), ("Stalled", "True"))
    ],
    "failure": {"class": "Infrastructure", "reason": "WorkerLost", "message": "Gone.", "pod": "p", "node": "n", "rank": 1},
    "current": {"startTime": worlds.time(NOW - 700), "pauseSeconds": 100, "waitingSince": worlds.time(NOW - 700),
                "scheduledTime": worlds.time(NOW - 650), "runningTime": worlds.time(NOW - 640), "gpuSeconds": 8},
    "attempts": [PAST], "usage": USAGE,
    "memory": {"rung": 0, "microBatchSize": 4, "gradientCheckpointing": False, "offload": "None", "stage": 3},
    "run": RUN,
}  # fmt: skip
SPEC = worlds.spec(backoffLimit=1, activeDeadlineSeconds=9, ttlSecondsAfterFinished=9)
LIVES: dict[str, dict[str, Any]] = {
    "nothing is there": {},
    "the attempt runs": {"rayjobs": [rayjob(2, **RUNNING)], "pods": [pod(attempt=2), pod("worker", 2)]},
    "it has waited": {"rayjobs": [rayjob(2, jobDeploymentStatus="Initializing")], "pods": [pod(attempt=2)]},
    "it has failed": {"rayjobs": [rayjob(2, **APP_FAILED)], "pods": [pod(attempt=2, runs=60), pod("worker", 2, runs=50)]},
    "the head is lost": {"rayjobs": [rayjob(2, **HEAD_LOST)]},
    "a queue has it": {"rayjobs": [rayjob(2, suspend=True)]},
    "there is one more": {"rayjobs": [rayjob(3, **RUNNING)]},
}  # fmt: skip
ODD: tuple[Any, ...] = (
    None, "", "Other", "x" * 5000, "9999-99-99T00:00:00Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", 0, -1,
    2**63 - 1, -(2**63), 10**30, 1.5, -1e308, 1.7e308, True, [], [None], ["x"], {}, {"x": 1}, [{}], [{"attempt": 7}],
    worlds.time(NOW + 10**9),
)  # fmt: skip


def paths(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([at] if at else []), *(path for key, each in items for path in paths(each, (*at, key)))]


def changed(body: Object, path: tuple[str | int, ...], value: Any = None, *, gone: bool = False) -> Object:
    result = copy.deepcopy(body)
    place: Any = result
    for part in path[:-1]:
        place = place[part]
    if gone:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return result


def looked_at(status: Any, spec: Object | None = None, lives: Iterable[str] = LIVES) -> None:
    """In these lives. What is written is JSON, and written once."""
    for life in (LIVES[name] for name in lives):
        body = job(backoffLimit=5, activeDeadlineSeconds=10_000, pendingDeadlineSeconds=5000) | {"status": status}
        body["spec"] |= spec or {}
        seen = world(body, **life)
        for decision in (decide(seen, PLATFORM), refused(seen, "QuotaExceeded", "No room.", final=False)):
            written = [each.status for each in decision.effects if isinstance(each, SetStatus)]
            assert len(written) <= 1
            for each in written:
                json.dumps(each, allow_nan=False)
                after = body | {"status": json.loads(json.dumps(each)) | {"run": (status or {}).get("run")}}
                again = decide(world(after, **life), PLATFORM)
                assert not [
                    effect for effect in again.effects if isinstance(effect, SetStatus) and effect.status == each
                ]
            for effect in decision.effects:
                if isinstance(effect, Start):
                    render_rayjob(effect.plan, effect.attempt, out_of_memory=effect.out_of_memory)


@pytest.mark.parametrize("path", paths(STATUS), ids=lambda path: ".".join(map(str, path)))
def test_a_status_with_any_one_field_odd_or_missing_is_decided_about(path: tuple[str | int, ...]) -> None:
    looked_at(changed(STATUS, path, gone=True))
    for value, life in zip(ODD, cycle(LIVES), strict=False):
        looked_at(changed(STATUS, path, value), lives=[life])


@pytest.mark.parametrize("path", paths(SPEC), ids=lambda path: ".".join(map(str, path)))
def test_a_spec_with_any_one_field_odd_or_missing_is_decided_about(path: tuple[str | int, ...]) -> None:
    for value, life in zip(ODD, cycle(LIVES.values()), strict=False):
        decide(world(job() | {"spec": changed(SPEC, path, value), "status": STATUS}, **life), PLATFORM)
    decide(world(job() | {"spec": changed(SPEC, path, gone=True)}), PLATFORM)


numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*STATUS, *RUN, *PAST, "uri", "x"]), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from([*STATUS, "x"]), anything),
    st.dictionaries(st.sampled_from([*worlds.spec(), "x"]), anything),
)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_any_json_is_decided_about(status: Object, spec: Object) -> None:
    looked_at(status, spec)


def test_what_an_older_operator_does_not_know_it_leaves_where_it_is() -> None:
    """A newer one has written fields in the parts that are carried on."""
    server = ApiServer(job(status=STATUS), rayjobs=(rayjob(2, **RUNNING),), pods=(pod(attempt=2), pod("worker", 2)))
    for part in ("usage", "current", "failure", "memory"):
        server.job["status"][part]["newer"] = {"than": ["this"]}
    server.job["status"]["attempts"][0]["newer"] = 1
    server.job["status"]["run"] |= {"stage": "Tuning", "newer": 2, "memory": None}
    server.settle()
    status = server.job["status"]
    assert [status[part]["newer"] for part in ("usage", "current", "failure", "memory")] == [{"than": ["this"]}] * 4
    assert status["attempts"][0]["newer"] == 1
    assert server.reconcile() == ()


def test_the_word_of_a_driver_is_heard_also_from_a_stage_that_is_not_known() -> None:
    status = STATUS | {
        "run": RUN | {"stage": "Tuning", "failure": {"class": "User", "reason": "BadSpec", "message": "No."}}
    }
    server = ApiServer(job(status=status), rayjobs=(rayjob(2, **APP_FAILED),))
    server.settle()
    assert server.status.condition("Failed")["reason"] == "BadSpec"


def test_defaults_are_those_of_the_model() -> None:
    """Of a spec that was stored before there was a default, as of any other."""
    body = job()
    for field in ("backoffLimit", "suspend", "training", "deepspeed"):
        del body["spec"][field]
    del body["spec"]["resources"]["workers"]
    spec = world(body).spec
    assert (spec.backoff_limit, spec.suspend, spec.resources.workers, spec.deepspeed.stage) == (3, False, 1, 3)


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ({"run": {"attempt": 1}}, {"run": {"attempt": 1, "stage": "", "updatedAt": ""}}),
        ({"attempt": "two", "failed": 1}, {"failed": 1}),
        ({"attempts": [{"attempt": 1.5}, "x"]}, {"attempts": [{"attempt": 0, "reason": "", "startTime": "", "endTime": ""}] * 2}),
        ({"usage": {"trainingSeconds": 4}}, {"usage": dict.fromkeys(USAGE, 0) | {"trainingSeconds": 4}}),
        ({"conditions": {"type": "x"}, "newer": 1}, {"newer": 1}),
        ([], {}),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_missing_and_what_is_missing_is_empty(written: Any, read_as: Object) -> None:
    found = read(FineTuneJobStatus, compact(written))
    assert found.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True) == read_as
