"""`status.run` in a real API server, written with the rights of a pod's service account and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator import names
from finetune_training.contract.failure import Failure, FailureClass
from finetune_training.contract.jobfile import Identity, identity_in
from finetune_training.contract.names import DRIVER_MANAGER
from finetune_training.events.progress import CheckpointSaved, Prepared, Resumed, Stage, StageStarted
from finetune_training.status import apiserver
from finetune_training.status.apiserver import ApiServer, Unreachable
from finetune_training.status.writer import StatusWriter, body, status_for, status_path, write_run
from tests.cli import finetune_in_pod
from tests.cluster.kubectl import Kubectl
from tests.cluster.layout import Layout
from tests.finished_run import evaluated, result, step

SPEC = {
    "model": {"uri": "m"},
    "dataset": {"train": [{"uri": "d"}]},
    "resources": {"pool": "p"},
    "checkpoint": {"uri": "s3://r"},
}
FAILURE = Failure(FailureClass.USER, "NoSuchBucket", "s3://r: there is no such bucket.", "Create it.")


@pytest.fixture
def pod(layout: Layout, account: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process as the operator starts the head's container, second attempt."""
    monkeypatch.setattr(apiserver, "ACCOUNT", account)
    for name, value in environment(layout).items():
        monkeypatch.setenv(name, value)
    return account


def environment(layout: Layout) -> dict[str, str]:
    # A proxy that is nowhere: it is for what is outside the cluster.
    return {
        "FINETUNE_STATUS": "true", "FINETUNE_ATTEMPT": "2", "HTTPS_PROXY": "http://127.0.0.1:9",
        "KUBERNETES_SERVICE_HOST": layout.address, "KUBERNETES_SERVICE_PORT": str(layout.api_port),
    }  # fmt: skip


def create(kubectl: Kubectl, name: str, folder: Path, **changes: Any) -> Path:
    """A FineTuneJob in the cluster, and its file as the operator writes it."""
    job = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": name}, "spec": {**SPEC, **changes}}
    made = json.loads(kubectl("create", "--output=json", "--filename=-", stdin=yaml.safe_dump(job)))
    job["metadata"] = {key: made["metadata"][key] for key in ("name", "namespace", "uid")}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def told_by(job: Path) -> StatusWriter:
    return status_for(identity_in(job.read_text()))


def stored(kubectl: Kubectl, name: str) -> dict[str, Any]:
    status = kubectl.get(names.PLURAL, name).get("status", {})
    assert isinstance(status, dict)
    return status


def test_a_run_is_told_from_its_beginning_to_its_end(kubectl: Kubectl, pod: Path, tmp_path: Path) -> None:
    job = create(kubectl, "plays", tmp_path)
    operators = {"phase": "Training", "attempt": 2}
    kubectl(
        "patch",
        names.PLURAL,
        "plays",
        "--subresource=status",
        "--type=merge",
        f"--patch={json.dumps({'status': operators})}",
    )
    with told_by(job) as status:
        for event in (
            Prepared(40, 10, 2, 128, True, 0.9844),
            Resumed(10, "s3://r/step-10"),
            StageStarted(Stage.TRAINING),
            evaluated(0, 4.0712, baseline=True),
            step(20),
            CheckpointSaved(20, "s3://r/step-20", 1, 0.1),
            StageStarted(Stage.EXPORTING),
        ):
            status.show(event)
        seen = kubectl.watch(
            names.PLURAL, "plays", lambda it: it["status"].get("run", {}).get("stage") == "Exporting", seconds=30
        )
        assert seen["status"]["run"]["checkpoint"]["step"] == 20
        status.end(result())
    found = stored(kubectl, "plays")
    run = found.pop("run")
    assert found == operators
    for varies in ("updatedAt", "checkpoint", "epoch", "loss"):
        assert run.pop(varies)
    assert run.pop("seconds")["training"] == pytest.approx(3.3)
    artifact = result().artifacts[0]
    assert run == {
        "attempt": 2, "stage": "Succeeded", "step": 30, "totalSteps": 30, "progress": "30/30", "resumedFromStep": 10,
        "evalLoss": 3.8106, "evaluation": {"baseline": 4.0712, "tuned": 3.8106}, "tokensPerSecond": 1237,
        "usefulTokenRatio": 0.9871,
        "artifacts": [{"uri": artifact.uri, "format": artifact.format, "sha256": artifact.sha256}],
    }  # fmt: skip
    managers = kubectl.get(names.PLURAL, "plays", "--show-managed-fields")["metadata"]["managedFields"]
    mine = [each for each in managers if each["manager"] == DRIVER_MANAGER]
    assert [each["operation"] for each in mine] == ["Apply"]
    assert mine[0]["fieldsV1"].keys() == {"f:status"}
    assert mine[0]["fieldsV1"]["f:status"].keys() == {"f:run"}


def test_a_new_attempt_leaves_nothing_of_the_old_ones_progress(kubectl: Kubectl, pod: Path, tmp_path: Path) -> None:
    job = create(kubectl, "again", tmp_path)
    with told_by(job) as status:
        status.show(step(20))
        status.end(FAILURE)
    assert stored(kubectl, "again")["run"]["failure"] == {
        "class": "User", "reason": "NoSuchBucket", "message": "s3://r: there is no such bucket. Create it."
    }  # fmt: skip
    with told_by(job):
        pass
    assert stored(kubectl, "again")["run"].keys() == {"attempt", "stage", "updatedAt"}


def test_the_token_of_the_moment_is_used(kubectl: Kubectl, pod: Path, tmp_path: Path) -> None:
    job = create(kubectl, "rotated", tmp_path)
    token, wrong = pod / "token", pod / "wrong"
    token.rename(pod / "right")
    wrong.write_text("not.a.token")
    wrong.rename(token)
    with told_by(job) as status:
        status.show(step(1))
        (pod / "right").rename(token)  # as Kubernetes does it: never half a token
        status.end(FAILURE)
    assert stored(kubectl, "rotated")["run"]["failure"]["reason"] == "NoSuchBucket"


def test_nothing_but_the_jobs_own_object_is_written(
    kubectl: Kubectl, layout: Layout, pod: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    create(kubectl, "replaced", tmp_path)
    old = yaml.safe_load((tmp_path / "replaced.yaml").read_text())["metadata"]["uid"]
    kubectl("delete", names.PLURAL, "replaced")
    with told_by(tmp_path / "replaced.yaml") as status:
        status.end(FAILURE)
    assert "the FineTuneJob is gone" in caplog.text
    caplog.clear()
    create(kubectl, "replaced", tmp_path)
    job = tmp_path / "replaced.yaml"
    job.write_text(job.read_text().replace(stored_uid(kubectl, "replaced"), old))
    with told_by(job) as status:
        status.end(FAILURE)
    assert "replaced has another uid now" in caplog.text
    assert len(caplog.records) == 1
    assert stored(kubectl, "replaced") == {}


def stored_uid(kubectl: Kubectl, name: str) -> str:
    return str(kubectl.get(names.PLURAL, name)["metadata"]["uid"])


def test_a_right_that_comes_late_is_waited_for(
    kubectl: Kubectl, pod: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = create(kubectl, "denied", tmp_path)
    kubectl("create", "serviceaccount", "late")
    (pod / "late").write_text(kubectl("create", "token", "late"))
    (pod / "late").rename(pod / "token")
    with told_by(job) as status:
        status.end(FAILURE)
        assert stored(kubectl, "denied") == {}
        kubectl("create", "rolebinding", "late", "--role=driver", "--serviceaccount=default:late")
    assert stored(kubectl, "denied")["run"]["failure"]["reason"] == "NoSuchBucket"
    assert len(caplog.records) <= 1


def test_what_the_schema_forbids_and_a_server_that_is_none_are_told(
    kubectl: Kubectl, layout: Layout, account: Path, tmp_path: Path
) -> None:
    create(kubectl, "strict", tmp_path)
    identity = Identity("default", "strict", stored_uid(kubectl, "strict"))
    server = ApiServer(layout.address, layout.api_port, account)
    right = {"attempt": 1, "stage": "Preparing", "updatedAt": "2027-01-15T08:00:00Z"}
    assert write_run(server, identity, right).code == 200
    wrong = write_run(server, identity, {**right, "stage": "Dancing"})
    assert (wrong.code, "status.run.stage" in wrong.message) == (422, True)
    old = body(identity, right, version="1")
    assert server.apply(status_path(identity), old, manager=DRIVER_MANAGER).code == 409
    (account / "ca.crt").write_text("")
    with pytest.raises(Unreachable):
        write_run(server, identity, right)
    with pytest.raises(Unreachable):
        ApiServer(layout.address, layout.etcd_port, account).get("/")


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("unknown-field", {"modle": {}}, "InvalidJob"),
        ("no-store", {"checkpoint": {"uri": "s3://there-is-none"}}, "StoreUnavailable"),
    ],
)
def test_what_fails_before_there_is_an_attempt_is_in_the_status(
    name: str, changes: dict[str, Any], reason: str, kubectl: Kubectl, layout: Layout, account: Path, tmp_path: Path
) -> None:
    job = create(kubectl, name, tmp_path)
    asked = yaml.safe_load(job.read_text())
    asked["spec"] |= changes
    job.write_text(yaml.safe_dump(asked))
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    ended = finetune_in_pod(tmp_path, account, "run", str(job), **environment(layout), **keys)
    assert ended.code != 0
    run = stored(kubectl, name)["run"]
    assert (run["stage"], run["failure"]["reason"], run["attempt"]) == ("Failed", reason, 2)
    shown = " ".join(ended.output.replace("→", "").split())
    assert " ".join(run["failure"]["message"].split()) in shown
