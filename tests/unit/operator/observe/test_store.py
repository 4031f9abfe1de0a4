"""Views in any order → what there is."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from finetune_operator.observe.store import Store
from finetune_operator.observe.views import JobView, PodView, RayJobView, View, view_job, view_pod, view_rayjob
from tests.unit.operator.worlds import job, pod, rayjob

JOB = view_job(job(status={"phase": "Training"}))
RAYJOB = view_rayjob(rayjob())
POD = view_pod(pod())
KEY = "team/plays"


def at(version: int, phase: str = "Training", *, uid: str = JOB.uid, namespace: str = "team") -> JobView:
    return replace(JOB, version=version, phase=phase, uid=uid, namespace=namespace)


def test_a_job_is_seen_with_all_that_is_its_own() -> None:
    store = Store()
    for view in (POD, RAYJOB, JOB, view_rayjob(rayjob(name="other"))):
        assert store.put(view)
    seen = store.seen(KEY)
    assert (seen.job, seen.rayjobs, seen.pods) == (JOB, (RAYJOB,), (POD,))
    assert store.jobs() == [KEY]
    nothing = store.seen("team/none")
    assert (nothing.job, nothing.rayjobs, nothing.pods) == (None, (), ())


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])))
def test_the_newest_wins_in_any_order(order: tuple[int, ...]) -> None:
    store = Store()
    for version in order:
        store.put(at(version, f"phase-{version}"))
    assert store.seen(KEY).job == at(3, "phase-3")
    assert +store.phases == {"phase-3": 1}


def test_only_what_is_newer_is_news() -> None:
    store = Store()
    assert store.put(at(2))
    assert not store.put(at(2))
    assert not store.put(at(1))
    assert store.put(at(3))


def test_what_is_gone_is_gone_whatever_comes_late() -> None:
    store = Store()
    store.put(at(2))
    store.remove(at(3))
    assert store.seen(KEY).job is None
    assert store.jobs() == []
    assert not store.put(at(1))
    assert store.put(at(4, uid="another of that name"))


def test_the_end_of_an_earlier_object_is_not_that_of_a_later_one() -> None:
    store = Store()
    store.put(at(5, uid="new"))
    store.remove(at(4, uid="old"))
    found = store.seen(KEY).job
    assert found
    assert found.uid == "new"


def test_removing_what_was_never_seen_changes_nothing() -> None:
    store = Store()
    store.remove(JOB)
    assert store.jobs() == []
    assert +store.phases == {}


def listed(store: Store, views: list[View], version: int, namespace: str = "", kind: type[View] = JobView) -> None:
    store.replace(kind, views, version, namespace)


def test_what_a_list_lacks_is_gone_and_what_it_has_is_there() -> None:
    store = Store()
    store.put(at(1))
    listed(store, [replace(at(2, uid="x"), name="other")], 5)
    assert store.jobs() == ["team/other"]


def test_a_list_does_not_take_away_what_is_newer_than_itself() -> None:
    store = Store()
    store.put(at(6))
    listed(store, [], 5)
    assert store.jobs() == [KEY]
    listed(store, [at(4, "old")], 7)
    assert store.seen(KEY).job == at(6)


def test_a_list_does_not_bring_back_what_went_while_it_was_made() -> None:
    store = Store()
    store.put(at(3))
    store.begin_listing()
    store.remove(at(6))
    listed(store, [at(3)], 5)
    assert store.jobs() == []


def test_a_list_of_an_object_of_yesterday_leaves_that_of_today() -> None:
    store = Store()
    store.put(at(9, uid="new"))
    listed(store, [at(3, uid="old")], 5)
    found = store.seen(KEY).job
    assert found
    assert found.uid == "new"


def test_a_list_of_one_namespace_and_one_kind_says_nothing_of_others() -> None:
    store = Store()
    store.put(at(1, namespace="team"))
    store.put(at(1, namespace="other"))
    store.put(RAYJOB)
    store.put(POD)
    listed(store, [], 50, "team")
    assert store.jobs() == ["other/plays"]
    assert store.seen(KEY).rayjobs == (RAYJOB,)
    listed(store, [], 50, "", RayJobView)
    assert store.seen(KEY).rayjobs == ()
    assert store.seen(KEY).pods == (POD,)
    listed(store, [], 50, "", PodView)
    assert store.seen(KEY).pods == ()


def test_the_jobs_in_each_phase_are_counted() -> None:
    store = Store()
    store.put(at(1, "Pending"))
    store.put(replace(at(1, "Pending"), name="other", uid="x"))
    store.put(at(2, "Training"))
    store.put(RAYJOB)
    assert +store.phases == {"Pending": 1, "Training": 1}
    store.remove(at(3, "Training"))
    listed(store, [], 50)
    assert +store.phases == {}
    assert store.phases["Training"] == 0
