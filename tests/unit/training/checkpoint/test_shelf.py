"""A run's checkpoints as a person handles them: found by name, verified where they lie, deleted in the right order."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from finetune_training.checkpoint import shelf
from finetune_training.checkpoint.lineage import committed
from finetune_training.cli.checkpoint_commands import app
from finetune_training.contract.failure import FinetuneError
from tests.checkpoints import Run, saved
from tests.cli import write_job

FIRST, SECOND, LAST = "step-00000005-a1", "step-00000010-a1", "step-00000010-a2"
OPTIMIZER = "global_step/zero_pp_rank_0_mp_rank_00_optim_states.pt"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Step 5 is the best, and two attempts have saved step 10."""
    found = Run(tmp_path)
    saved(found.checkpointer(keep=5), 5, score=3.0)
    saved(found.checkpointer(attempt=2, keep=5), 10, score=4.0)
    return found


def finetune(*arguments: str) -> tuple[int, str]:
    """Exit code and what the terminal showed."""
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    return done.exit_code, done.output


def address(run: Run) -> str:
    return run.store.uri


def damage(run: Run, name: str, file: str) -> None:
    path = run.path(name) / file
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("word", "name"), [(FIRST, FIRST), ("5", FIRST), ("00005", FIRST), ("10", LAST), ("latest", LAST), ("best", FIRST)]
)
def test_a_checkpoint_has_several_names(run: Run, word: str, name: str) -> None:
    assert shelf.chosen(shelf.checkpoints(run.store), word, uri="u").name == name


@pytest.mark.parametrize("word", ["7", "step-00000005-a2", "newest", "-5"])
def test_a_name_that_nothing_has_is_answered_with_those_that_there_are(run: Run, word: str) -> None:
    with pytest.raises(FinetuneError) as raised:
        shelf.chosen(shelf.checkpoints(run.store), word, uri="u")
    assert raised.value.failure.reason == "CheckpointNotFound"
    assert f"{LAST}, {FIRST}" in raised.value.failure.remedy


def test_a_step_that_two_attempts_have_saved_wants_a_whole_name(run: Run) -> None:
    saved(run.checkpointer(attempt=3, keep=5), 5)
    with pytest.raises(FinetuneError) as raised:
        shelf.chosen(shelf.checkpoints(run.store), "5", uri="u")
    assert raised.value.failure.reason == "CheckpointAmbiguous"
    assert f"step-00000005-a3, {FIRST}" in raised.value.failure.message


def test_without_scores_no_checkpoint_is_the_best(tmp_path: Path) -> None:
    run = Run(tmp_path)
    saved(run.checkpointer(), 5)
    with pytest.raises(FinetuneError) as raised:
        shelf.chosen(shelf.checkpoints(run.store), "best", uri="u")
    assert "none was evaluated" in raised.value.failure.message


def test_the_list_of_checkpoints_is_newest_first_and_says_which_is_the_best(run: Run) -> None:
    code, output = finetune("list", address(run))
    lines = [line.split() for line in output.splitlines()]
    assert code == 0
    assert [line[:2] for line in lines] == [["step", "attempt"], ["10", "2"], ["5", "1"]]
    assert "best 3.00" in output
    assert output.count("not checked") == 2


def test_the_list_of_checkpoints_finds_what_is_damaged(run: Run) -> None:
    damage(run, FIRST, "state.json")
    damage(run, LAST, "manifest.json")
    code, output = finetune("list", address(run), "--verify")
    assert code == 0
    assert "1 file damaged" in output
    assert "damaged manifest" in output
    assert f"{FIRST}: state.json is damaged" in output


def test_a_run_that_has_no_checkpoint_yet_says_when_it_will(tmp_path: Path) -> None:
    job = write_job(tmp_path, model="m", data="d", checkpoint={"uri": str(tmp_path / "runs")})
    code, output = finetune("list", str(job))
    assert code == 0
    assert f"{tmp_path}/runs/tiny has no checkpoints" in output
    assert "everySteps" in output
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    code, output = finetune("list", str(tmp_path))
    assert (code, "RunNotFound" in output) == (2, True)


def test_a_whole_checkpoint_is_verified_without_a_copy(run: Run) -> None:
    before = sorted(run.folder.rglob("*"))
    code, output = finetune("verify", address(run))
    assert code == 0
    assert [line.split(",")[0] for line in output.splitlines()] == [f"{LAST}: ok", f"{FIRST}: ok"]
    assert sorted(run.folder.rglob("*")) == before


def test_large_files_are_read_in_pieces(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "_PIECE", 3)
    assert shelf.problems(run.store, shelf.checkpoints(run.store)[0]) == []
    damage(run, LAST, OPTIMIZER)
    assert shelf.problems(run.store, shelf.checkpoints(run.store)[0]) != []


@pytest.mark.parametrize(
    ("do", "problem"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_text("other"), "has 5 bytes instead of 11"),
        (lambda path: path.write_text("optimizer X"), "is damaged"),
    ],
)
def test_every_file_that_is_not_what_was_saved_is_named(run: Run, do, problem: str) -> None:  # type: ignore[no-untyped-def]
    do(run.path(FIRST) / OPTIMIZER)
    (run.path(FIRST) / "state.json").unlink()
    code, output = finetune("verify", address(run))
    assert code == 3
    assert f"{LAST}: ok" in output
    assert "Data · CheckpointDamaged" in output
    assert f"{FIRST}: {OPTIMIZER} {problem}" in output
    assert f"{FIRST}: state.json is missing" in output
    assert finetune("verify", address(run), "latest")[0] == 0


def test_a_deleted_checkpoint_is_gone_and_the_rest_is_not(run: Run) -> None:
    code, output = finetune("delete", address(run), "5")
    assert code == 0
    assert f"Deleted {FIRST}" in output
    assert f"Left: {LAST}." in output
    assert committed(run.store) == [LAST]
    assert not run.path(FIRST).exists()


def test_the_last_checkpoint_is_deleted_only_by_force(run: Run) -> None:
    code, output = finetune("delete", address(run), "best", "latest")
    assert (code, "LastCheckpoint" in output) == (2, True)
    assert committed(run.store) == [LAST, FIRST]
    assert finetune("delete", address(run), "best", "latest", "--force")[0] == 0
    assert committed(run.store) == []


def test_what_a_deleted_checkpoint_retired_does_not_come_back(tmp_path: Path) -> None:
    run = Run(tmp_path)
    checkpointer = run.checkpointer(keep=1)
    saved(checkpointer, 5)
    kept = {path: path.read_bytes() for path in run.path(FIRST).rglob("*") if path.is_file()}
    saved(checkpointer, 10)
    for path, content in kept.items():  # as if it could not be deleted then
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert committed(run.store) == [SECOND]
    shelf.delete(run.store, ["10"], force=True)
    assert committed(run.store) == []
