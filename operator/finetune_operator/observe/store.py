"""The newest view of every FineTuneJob, and of the RayJobs and pods that belong to it.

In: views from watches, lists and the answers to our own writes, in any order. Out: the world of one job. The newest
resourceVersion wins, whoever brings it; what a list does not have any more is forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from finetune_operator.observe.views import JobView, PodView, RayJobView, View

_NONE: dict[str, View] = {}


@dataclass(frozen=True)
class Seen:
    """What there is of one job."""

    job: JobView | None
    rayjobs: tuple[RayJobView, ...]
    pods: tuple[PodView, ...]


class Store:
    """Not for several threads."""

    def __init__(self) -> None:
        self._views: dict[type[View], dict[str, dict[str, View]]] = {JobView: {}, RayJobView: {}, PodView: {}}
        self._gone: set[str] = set()
        self.phases: Counter[str] = Counter()
        """How many jobs are in each phase."""

    def put(self, view: View) -> bool:
        """Keep `view` unless a newer one is there, or the object is known to be gone. Whether it is news: what the answer to
        our own write has told already is none."""
        if view.uid in self._gone:
            return False
        of_job = self._views[type(view)].setdefault(view.key, {})
        known = of_job.get(view.name)
        if known and known.version >= view.version:
            return False
        self._count(known, view)
        of_job[view.name] = view
        return True

    def learn(self, view: View) -> None:
        """What the API server has just said on being asked: it is so, whatever was known. After a restore of etcd versions
        begin anew."""
        of_job = self._views[type(view)].setdefault(view.key, {})
        self._count(of_job.get(view.name), view)
        of_job[view.name] = view

    def remove(self, view: View) -> None:
        """The object is gone. Another one may have its name already."""
        self._gone.add(view.uid)
        known = self._views[type(view)].get(view.key, _NONE).get(view.name)
        if known and known.uid == view.uid:
            self._forget(known)

    def begin_listing(self) -> None:
        """From here on, what goes is remembered: a list that is under way may still have it."""
        self._gone.clear()

    def replace(self, kind: type[View], listed: Iterable[View], version: int, namespace: str) -> list[View]:
        """A whole list of a namespace (empty: of all), as it was at resourceVersion `version`: what it lacks is gone,
        unless it is newer. Returns what is gone."""
        kept = set()
        for view in listed:
            kept.add(view.uid)
            self.put(view)
        old = [view for of_job in self._views[kind].values() for view in of_job.values()]
        gone = [
            view
            for view in old
            if view.uid not in kept and view.version <= version and namespace in ("", view.namespace)
        ]
        for view in gone:
            self._forget(view)
        return gone

    def seen(self, key: str) -> Seen:
        """What there is of the job `key`; only what belongs to the job of today, not to an earlier one of that name."""
        job = next(iter(self._views[JobView].get(key, _NONE).values()), None)
        rayjobs = self._views[RayJobView].get(key, _NONE).values()
        pods = self._views[PodView].get(key, _NONE).values()
        return Seen(
            job if isinstance(job, JobView) else None,
            tuple(each for each in rayjobs if isinstance(each, RayJobView)),
            tuple(each for each in pods if isinstance(each, PodView)),
        )

    def jobs(self) -> list[str]:
        """The keys of all jobs."""
        return list(self._views[JobView])

    def _forget(self, view: View) -> None:
        of_job = self._views[type(view)][view.key]
        del of_job[view.name]
        if not of_job:
            del self._views[type(view)][view.key]
        self._count(view, None)

    def _count(self, old: View | None, new: View | None) -> None:
        for view, number in ((old, -1), (new, 1)):
            if isinstance(view, JobView):
                self.phases[view.phase] += number
