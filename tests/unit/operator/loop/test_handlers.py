"""What kopf is told to watch. That it does is tested on a real API server."""

from __future__ import annotations

from unittest.mock import Mock

import kopf

from finetune_operator.loop.handlers import configure, register
from finetune_operator.loop.kinds import KINDS


def test_every_kind_that_is_listed_is_watched_by_the_same_label() -> None:
    registry, settings = kopf.OperatorRegistry(), kopf.OperatorSettings()
    register(registry, Mock(), Mock())
    configure(settings)
    watched = {each.selector: each.labels for each in registry._watching.get_all_handlers()}
    assert {(each.group, each.version, each.any_name) for each in watched if each} == {
        (each.group, each.version, each.resource) for each in KINDS
    }
    for kind in KINDS:
        (labels,) = (found for each, found in watched.items() if each and each.any_name == kind.resource)
        assert labels == ({kind.label: kopf.PRESENT} if kind.label else {})
        served = kopf.Resource(kind.group, kind.version, kind.resource)
        assert [*settings.watching.label_selectors.collect(served)] == ([kind.label] if kind.label else [])
