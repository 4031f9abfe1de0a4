"""The end of a log, where nobody has said why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.decide.effects import LogOf, SetStatus
from finetune_operator.decide.forensics import LOG_MAX, end_of
from finetune_operator.decide.reconcile import decide
from tests.unit.operator import worlds
from tests.unit.operator.worlds import (
    APP_FAILED,
    HEAD_LOST,
    PLATFORM,
    RUNNING,
    STOPPED,
    VALIDATION_FAILED,
    Object,
    job,
    pod,
    rayjob,
    world,
)
from tests.unit.operator.worlds import status as written

HEAD = pod(runs=60)
OOM = pod("worker", ended=[worlds.ended("ray-worker", reason="OOMKilled", code=137)])
CRASHED = pod("worker", ended=[worlds.ended("ray-worker", code=139)])
DRAINED = pod("worker", disrupted=("EvictionByEvictionAPI", "x"))
WORD: Object = {"stage": "Failed", "failure": {"class": "Unknown", "reason": "Unknown", "message": "Odd."}}


@pytest.mark.parametrize(
    ("kuberay", "pods", "asked"),
    [
        pytest.param(APP_FAILED, [HEAD], LogOf("plays-1-x7k2p-head", "ray-job-submitter"), id="the driver's"),
        pytest.param(HEAD_LOST, [HEAD], LogOf("plays-1-x7k2p-head", "ray-head"), id="the head's"),
        pytest.param(RUNNING, [HEAD, OOM], LogOf("plays-1-x7k2p-worker", "ray-worker"), id="that of who was killed"),
        pytest.param(
            APP_FAILED, [HEAD, CRASHED], LogOf("plays-1-x7k2p-worker", "ray-worker"), id="that of who crashed"
        ),
        pytest.param(APP_FAILED, [], None, id="no pod is left"),
        pytest.param(APP_FAILED, [HEAD, DRAINED], None, id="a pod that was taken away explains itself"),
        pytest.param(STOPPED, [HEAD], None, id="so does a job that was stopped"),
        pytest.param(VALIDATION_FAILED, [HEAD], None, id="and one that KubeRay does not take"),
    ],
)
def test_whose_log_is_read(kuberay: Object, pods: list[Object], asked: LogOf | None) -> None:
    decision = decide(world(job(status=written("Training")), rayjobs=[rayjob(**kuberay)], pods=pods), PLATFORM)
    assert decision.question == asked
    assert bool(decision.effects) is (asked is None)


def test_a_driver_that_has_said_why_needs_no_log() -> None:
    found = world(job(status=written("Training", run=WORD)), rayjobs=[rayjob(**APP_FAILED)], pods=[HEAD, CRASHED])
    assert decide(found, PLATFORM).question is None


def kept(log: str, message: str = "", **changes: Any) -> str | None:
    """`status.failure.log`."""
    kuberay = APP_FAILED | {"message": message}
    body = job(status=written("Training"), **changes)
    found = replace(world(body, rayjobs=[rayjob(**kuberay)], pods=[HEAD]), log=log)
    decision = decide(found, PLATFORM)
    assert decision.question is None
    (status,) = (each.status for each in decision.effects if isinstance(each, SetStatus))
    log_of: str | None = status["failure"].get("log")
    return log_of


@pytest.mark.parametrize("limit", [0, 3])
def test_what_was_read_is_in_the_status_that_tells_the_end(limit: int) -> None:
    assert kept("Traceback\nKeyError: 'x'\n", backoffLimit=limit) == "Traceback\nKeyError: 'x'"


def test_a_log_that_cannot_be_read_is_no_reason_to_wait() -> None:
    assert kept("") is None


def test_what_kuberay_has_read_is_better_than_nothing() -> None:
    message = (
        "Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):\nlast words"
    )
    assert kept("", message) == "last words"
    assert kept("own words", message) == "own words"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        pytest.param(
            "\x1b[31mred\x1b[0m\r\nplain\x00\n\n", "red\nplain", id="colours, line ends and control characters"
        ),
        pytest.param(" 10%|#  |\r 90%|###|\rdone", "done", id="a bar of progress, as it was last"),
        pytest.param("", "", id="nothing"),
        pytest.param("\tindented ☺", "indented ☺", id="text"),
    ],
)
def test_a_logs_end_is_kept_as_people_read_it(text: str, clean: str) -> None:
    assert end_of(text) == clean


@pytest.mark.parametrize("line", ["word " * 10, "☺" * 50, "x" * 5000], ids=["text", "wide characters", "one long line"])
def test_a_logs_end_is_short(line: str) -> None:
    end = end_of("\n".join([line] * 100))
    assert 0.8 * LOG_MAX < len(end.encode()) <= LOG_MAX
    assert line.strip().endswith(end.split("\n")[0].strip())
