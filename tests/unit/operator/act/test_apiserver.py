"""Paths and answers of the API server."""

from __future__ import annotations

import json

import pytest

from finetune_operator.act.apiserver import CORE, JOBS, RAYJOBS, _error, _path


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        (
            (JOBS, "team", "finetunejobs", "plays", "status"),
            "/apis/finetune.dev/v1alpha1/namespaces/team/finetunejobs/plays/status",
        ),
        ((RAYJOBS, "team", "rayjobs"), "/apis/ray.io/v1/namespaces/team/rayjobs"),
        ((CORE, "", "pods"), "/api/v1/pods"),
    ],
)  # fmt: skip
def test_a_path_of_the_api_server_names_group_namespace_and_object(parts: tuple[str, ...], path: str) -> None:
    assert _path(*parts) == path


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        pytest.param(json.dumps({"reason": "NotFound", "message": "gone"}).encode(), "NotFound", "gone", id="a Status"),
        pytest.param(b"404 page not found\n", "", "404 page not found", id="text"),
        pytest.param(b'"no"', "", '"no"', id="JSON that is no object"),
        pytest.param(b"<html>" + b"x" * 500, "", "<html>" + "x" * 194, id="the page of a proxy"),
        pytest.param(b"\xff", "", "\ufffd", id="no text"),
        pytest.param(b"", "", "", id="nothing"),
    ],
)
def test_what_is_said_of_an_error(text: bytes, reason: str, message: str) -> None:
    error = _error(404, text)
    assert (error.status, error.reason, error.message) == (404, reason, message)
