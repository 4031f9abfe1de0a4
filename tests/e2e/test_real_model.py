"""What users run, and what befalls them: the real model in BF16, LoRA with dropout, packed rows, two workers. One job loses a
worker, is suspended, loses its head, and ends with every row learnt once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from tests.cluster.faults import Faults
from tests.cluster.helm import Helm
from tests.cluster.kubectl import Kubectl
from tests.e2e.conftest import layout_of
from tests.e2e.faults.trial import RUNS, Trial, learnt
from tests.e2e.order import expected
from tests.e2e.platform import installed, namespace, upload
from tests.real import METHOD, real_model, write_lines

# Small steps: a CPU that computes BF16 in software takes a minute for those of the example. Packed they are some 17; each fault
# waits for one checkpoint more, and all have come by then however late a status is.
ROWS, BATCH, EVERY = 70, 2, 2
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def platform(cluster: Kubectl) -> Iterator[Helm]:
    with installed(cluster) as helm:
        yield helm


@pytest.fixture(scope="module")
def jobs(platform: Helm, cluster: Kubectl) -> Iterator[Kubectl]:
    with namespace(cluster, "real") as inside:
        yield inside


@pytest.fixture
def trial(jobs: Kubectl, module_s3: S3Store, tmp_path: Path) -> Trial:
    upload(module_s3, real_model(), "models/smollm2-135m-instruct")
    obstore.put(module_s3, "real/lines.txt", write_lines(tmp_path / "lines.txt", ROWS))
    found = Trial(jobs, module_s3, "real")
    found.start(
        dataset={"train": [{"uri": "s3://finetune/real/lines.txt"}], "maxLength": 32, "packing": True},
        method=METHOD,
        training={"globalBatchSize": BATCH, "microBatchSize": 1, "learningRate": 5e-4, "precision": "BF16"},
        checkpoint={"uri": RUNS, "everySteps": EVERY, "keep": 2},
        evaluation={"everySteps": 0, "baseline": False, "prompts": ["O gentle night, that"]},
    )
    return found


def test_a_job_that_loses_a_worker_is_suspended_and_loses_its_head_learns_every_row_once(
    trial: Trial, jobs: Kubectl
) -> None:
    trial.await_saved(0)
    jobs("delete", "pod", trial.pod("worker"), "--wait=false")
    trial.await_saved(0, restarts=1)

    step = _suspended(trial, jobs)
    status = trial.watch(
        lambda status: status["run"]["attempt"] == 2 and "resumedFromStep" in status["run"], seconds=240
    )
    assert status["run"]["resumedFromStep"] == step, "steps were lost that could have been saved"

    trial.await_saved(step, attempt=2)
    Faults(jobs, layout_of()).kill(trial.pod("head"))

    status = trial.await_end(seconds=900)
    assert status["phase"] == "Succeeded", status
    events = trial.events()
    rows = {step: each.rows for step, each in learnt(events).items()}
    assert rows == expected(trial, global_batch_size=BATCH)
    taken, lost, _ = status["attempts"]
    assert (taken["reason"], taken["checkpointStep"], taken["lostSteps"]) == ("Suspended", step, 0)
    resumed = next(each["step"] for each in events if each["attempt"] == 3 and each["event"] == "Resumed")
    assert (lost["checkpointStep"], lost["lostSteps"]) == (resumed, max(0, lost["step"] - resumed))


def _suspended(trial: Trial, jobs: Kubectl) -> int:
    """Suspend, await it and resume. The last step that was done."""
    jobs("patch", "ftj", trial.name, "--type=merge", '--patch={"spec":{"suspend":true}}')
    trial.seconds_until_gone(seconds=60)
    done = max(each["step"] for each in trial.events() if each["event"] == "Step")
    failure = trial.text("attempts/1/failure.json")
    assert "Stopped after step" in failure, failure
    jobs("patch", "ftj", trial.name, "--type=merge", '--patch={"spec":{"suspend":false}}')
    return int(done)
