"""The protocol as a whole, in every order that hypothesis can think of: several attempts at one run, each paused between any
two requests to the store for as long as it takes, killed anywhere, its answers lost.

The code is the real one; the store is a dictionary, because no real one can be stopped between two requests. One attempt
moves at a time, from one request to the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from finetune_training.checkpoint import save as saving
from finetune_training.checkpoint import upload
from finetune_training.checkpoint.lineage import committed, inherit
from finetune_training.checkpoint.load import restore
from finetune_training.checkpoint.manifest import FOLDER, CheckpointManifest, name_of, parse_name
from finetune_training.checkpoint.save import Checkpointer, Origin
from finetune_training.checkpoint.turn import Turn
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.store.storage import Entry, Store
from tests.checkpoints import FACTS, Alone, save

T = TypeVar("T")
_SAVES = 4
# Attempts, and ranks of one that are started again while the lost ones may be alive.
TURNS = (Turn(1), Turn(1, 1), Turn(2), Turn(2, 1))


NOWHERE = (Turn(0), 0)


class Killed(BaseException):
    """What a process that was killed sees of the world."""


class Baton:
    """Lets a life (a function in a thread) run from one request to the next, and only when it is told to."""

    def __init__(self, life: Callable[[Baton], None]) -> None:
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self.ended = self.killed = self.forgetful = False
        self._problem: BaseException | None = None
        threading.Thread(target=self._live, args=(life,), daemon=True).start()
        self._await_pause()

    def move(self, *, forgetful: bool = False) -> None:
        """One request. `forgetful`: if it creates something, its answer is lost, and the client asks again."""
        if not self.ended:
            self.forgetful = forgetful
            self._go.release()
            self._await_pause()

    def request(self) -> None:
        """In the life: wait to be moved."""
        self._paused.release()
        self._go.acquire()
        if self.killed:
            raise Killed

    def _await_pause(self) -> None:
        self._paused.acquire()
        if self._problem:
            raise self._problem

    def _live(self, life: Callable[[Baton], None]) -> None:
        try:
            life(self)
        except Killed:
            pass
        except BaseException as error:
            self._problem = error
        finally:
            self.ended = True
            self._paused.release()


@dataclass(frozen=True)
class Simulated(Store):
    """A store that answers when the schedule lets it."""

    uri: str = "memory://run"
    retry_timeout: timedelta = timedelta(0)
    objects: dict[str, bytes] = field(default_factory=dict)
    baton: Baton | None = None

    def _ask(self) -> None:
        if self.baton:
            self.baton.request()

    def entries(self, prefix: str = "") -> list[Entry]:
        self._ask()
        return [Entry(key, len(self.objects[key])) for key in sorted(self.objects) if key.startswith(f"{prefix}/")]

    def folders(self, prefix: str = "") -> list[str]:
        self._ask()
        below = (key[len(prefix) + 1 :] for key in self.objects if key.startswith(f"{prefix}/"))
        return sorted({rest.split("/")[0] for rest in below if "/" in rest})

    def get(self, key: str) -> bytes | None:
        self._ask()
        return self.objects.get(key)

    def create(self, key: str, data: bytes) -> bool:
        self._ask()
        new = key not in self.objects
        self.objects.setdefault(key, data)
        return new and not (self.baton and self.baton.forgetful)

    def upload(self, path: Path, key: str) -> None:
        self._ask()
        self.objects[key] = path.read_bytes()

    def download(self, key: str, path: Path) -> None:
        self._ask()
        if key not in self.objects:
            raise FileNotFoundError(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.objects[key])

    def delete(self, keys: list[str]) -> None:
        for key in keys:
            self._ask()
            self.objects.pop(key, None)

    def delete_folder(self, prefix: str) -> None:
        self.delete([entry.key for entry in self.entries(prefix)])


class Universe:
    """A run and its attempts, and what must hold of them at every moment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Simulated()
        self.batons: list[Baton] = []
        self.inherited: dict[Turn, list[str]] = {}
        self.acknowledged: list[str] = []
        self.newest_when_claimed: dict[Turn, str | None] = {}
        self.resumed_from: dict[Turn, str] = {}
        self.ends: dict[Turn, Any] = {}

    def start(self) -> None:
        """The next attempt, up to its first request: the claim."""
        if len(self.batons) < len(TURNS):
            turn, objects = TURNS[len(self.batons)], self.store.objects
            self.batons.append(Baton(lambda baton: self._attempt(turn, Simulated(objects=objects, baton=baton))))

    def _attempt(self, turn: Turn, store: Simulated) -> None:
        try:
            store.create(f"attempts/{turn}/claim", b"")
            self.newest_when_claimed[turn] = self.acknowledged[-1] if self.acknowledged else None
            self.inherited[turn] = inherited = inherit(store, turn)
            world, cache = Alone(), self.folder / f"cache-{turn}"
            facts = FACTS.model_copy(update={"attempt": turn.attempt, "restart": turn.restart})
            restored = restore(store, inherited, facts=facts, world=world, cache=cache, report=lambda _: None)
            step = restored.manifest.step if restored else 0
            if restored:
                self.resumed_from[turn] = restored.name
                self._check_loaded(turn, restored.name, restored.folder)
            checkpointer = Checkpointer(
                store, facts=facts, world=world, staging=self.folder / f"staging-{turn}", keep=1,
                origin=Origin(inherited, restored.name if restored else None), report=lambda _: None,
            )  # fmt: skip
            for _ in range(_SAVES):
                step += 1
                # The best is one in the middle: neither the newest nor the oldest.
                save(checkpointer, step, score=abs(step - 3) + 1.0)
                checkpointer.flush()
                self.acknowledged.append(name_of(step, turn))
            self.ends[turn] = "done"
        except FinetuneError as error:
            self.ends[turn] = error.failure.cls

    def _check_loaded(self, turn: Turn, name: str, folder: Path) -> None:
        """What was loaded is whole, and the newest that was ever told to be saved before the claim, or a newer one."""
        step = str((parse_name(name) or NOWHERE)[1])
        assert (folder / "state.json").read_text() == step
        promised = self.newest_when_claimed[turn]
        assert promised is None or (parse_name(name) or NOWHERE) >= (parse_name(promised) or NOWHERE)

    def check(self) -> None:
        """Between any two requests."""
        claims = [Turn.of(key.split("/")[1]) for key in self.store.objects if key.endswith("/claim")]
        newest = max((turn for turn in claims if turn), default=Turn(0))
        count = committed(self.store)
        for name in count:  # what counts is whole
            manifest = CheckpointManifest.from_bytes(self.store.objects[f"{FOLDER}/{name}/manifest.json"])
            assert all(f"{FOLDER}/{name}/{file.name}" in self.store.objects for file in manifest.files)
        if newest in self.inherited:
            older = [name for name in count if (parse_name(name) or NOWHERE)[0] < newest]
            assert set(older) <= set(self.inherited[newest]), "an older attempt has committed"
            own = [name for name in count if name not in older]
            if not own:
                assert older == self.inherited[newest], "an older attempt has deleted what this one may load"
            if newest in self.resumed_from and newest not in self.ends:
                assert self.resumed_from[newest] in count, "what this one has begun from is gone"
            promised = self.newest_when_claimed[newest]
            if promised:
                assert count, "what was told to be saved is gone"
                assert (parse_name(count[0]) or NOWHERE) >= (parse_name(promised) or NOWHERE)


def _at_once(name: str, work: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
    return future


WHO = st.integers(0, len(TURNS) - 1)
ACTIONS = st.one_of(
    st.tuples(st.just("go"), WHO, st.integers(1, 12)),
    st.tuples(st.just("forget"), WHO, st.integers(1, 12)),
    st.tuples(st.just("kill"), WHO, st.just(1)),
    st.tuples(st.just("start"), st.just(0), st.just(1)),
)


@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(actions=st.lists(ACTIONS, min_size=5, max_size=60))
def test_no_order_of_events_breaks_a_promise(actions: list[tuple[str, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(saving, "in_background", _at_once)
        patch.setattr(upload, "in_background", _at_once)
        universe = Universe(Path(folder))
        universe.start()
        for kind, who, times in actions:
            if kind == "start":
                universe.start()
            elif who < len(universe.batons):
                baton = universe.batons[who]
                baton.killed |= kind == "kill"
                for _ in range(times):
                    baton.move(forgetful=kind == "forget")
                    universe.check()
        for baton in reversed(universe.batons):  # the newest first: then the others are stale
            while not baton.ended:
                baton.move()
                universe.check()
        newest = TURNS[len(universe.batons) - 1]
        for turn, end in universe.ends.items():
            assert end in ("done", FailureClass.FENCED), end
            if end == "done":
                event(f"{turn} was done, and {newest} the newest")
        if not universe.batons[-1].killed:
            assert universe.ends[newest] == "done"
