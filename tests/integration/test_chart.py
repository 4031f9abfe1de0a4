"""The chart by Helm on a real API server: what it makes is accepted, what it grants is enough and no more, and what stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator import names
from tests import chart_values
from tests.accounts import Refused, log_in, make_account
from tests.cluster import processes, programs
from tests.cluster.certificates import Authority
from tests.cluster.helm import CHART, Helm, HelmFailed
from tests.cluster.kubectl import Kubectl, KubectlFailed
from tests.cluster.layout import Layout
from tests.cluster.steps import until

RELEASE, CRD = "finetune-operator", f"{names.PLURAL}.{names.GROUP}"
SYSTEM, STRICT = "finetune-system", "strict"
JOB = {
    "apiVersion": names.API_VERSION,
    "kind": names.KIND,
    "metadata": {"name": "shakespeare"},
    "spec": {
        "model": {"uri": "hf://owner/model"},
        "dataset": {"train": [{"uri": "s3://data/plays.jsonl"}]},
        "checkpoint": {"uri": "s3://models"},
        "resources": {"pool": "gpu"},
    },
}


@pytest.fixture(scope="module")
def kubectl(api_server: Layout) -> Kubectl:
    """An administrator of a cluster with the CRDs of KubeRay's RayJob and of PodMonitor, and with some namespaces."""
    admin = Kubectl(api_server.kubeconfig)
    rays = programs.module_folder("kuberay", "github.com/ray-project/kuberay/ray-operator")
    monitors = programs.module_folder("prometheus", "github.com/prometheus-operator/prometheus-operator")
    admin.apply((rays / "config" / "crd" / "bases" / "ray.io_rayjobs.yaml").read_text())
    admin.apply(
        (monitors / "example" / "prometheus-operator-crd" / "monitoring.coreos.com_podmonitors.yaml").read_text()
    )
    for namespace in (SYSTEM, STRICT, "team-a", "team-b", "team-c"):
        admin("create", "namespace", namespace)
    admin("label", "namespace", STRICT, "pod-security.kubernetes.io/enforce=restricted")
    for name in ("training", "other"):
        admin("create", "priorityclass", name, "--value=1000")
    return admin


@pytest.fixture
def helm(kubectl: Kubectl) -> Iterator[Helm]:
    """Helm in the release's namespace. What a test installs is gone afterwards, the CRD and all jobs too."""
    helm = Helm(kubectl.kubeconfig, SYSTEM)
    yield helm
    for release in json.loads(helm("list", "--all-namespaces", "--output=json")):
        Helm(kubectl.kubeconfig, release["namespace"])("uninstall", release["name"], "--no-hooks")
    kubectl("delete", "crd", CRD, "--ignore-not-found")


@pytest.mark.parametrize(
    "values",
    [{}, chart_values.NAMESPACED, chart_values.EVERYTHING, chart_values.EVERYTHING | chart_values.NAMESPACED],
    ids=["defaults", "namespaced", "everything", "everything namespaced"],
)
def test_the_api_server_accepts_all_that_is_rendered(kubectl: Kubectl, helm: Helm, values: dict[str, Any]) -> None:
    rendered = Helm(helm.kubeconfig, STRICT)("template", RELEASE, str(CHART), values=values)
    bodies = [each for each in yaml.safe_load_all(rendered) if each]
    [deployment] = [each for each in bodies if each["kind"] == "Deployment"]
    # What the Deployment would make: the namespace enforces the standard "restricted" on pods.
    pod = {"apiVersion": "v1", "kind": "Pod"} | deployment["spec"]["template"]
    pod["metadata"] |= {"name": "as-deployed", "namespace": STRICT}
    pods = [pod, *(each for each in bodies if each["kind"] == "Pod")]
    for each in pods:
        make_account(kubectl.within(STRICT), each["spec"]["serviceAccountName"])
    # An unknown field is an error.
    strict = ["apply", "--dry-run=server", "--server-side", "--validate=strict", "--output=name", "--filename=-"]
    accepted = kubectl(*strict, stdin=yaml.safe_dump_all([*bodies, pod])).split()
    assert len(accepted) == len(bodies) + 1
    assert len(pods) == 2


def test_a_pod_that_is_not_restricted_would_be_refused(kubectl: Kubectl, helm: Helm) -> None:
    make_account(kubectl.within(STRICT), "default")
    with pytest.raises(KubectlFailed, match="violates PodSecurity"):
        kubectl.within(STRICT)(
            "run", "--image=none", "loose", "--dry-run=server", '--overrides={"spec": {"hostPID": true}}'
        )


def rights(kubectl: Kubectl, account: str, namespace: str) -> set[tuple[str, str, str]]:
    """(verb, group, resource) that an account has in a namespace, besides what everybody has."""

    def asked(user: str) -> set[tuple[str, str, str]]:
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": namespace},
        }
        command = ["create", "--validate=false", "--output=json", f"--as=system:serviceaccount:{user}", "--filename=-"]
        found = json.loads(kubectl(*command, stdin=json.dumps(review)))["status"]
        assert not found["incomplete"]
        return {
            (verb, group, resource)
            for rule in found["resourceRules"]
            for verb in rule["verbs"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }

    return asked(account) - asked("nowhere:nobody")


JOBS = {
    *((verb, "finetune.dev", "finetunejobs") for verb in ("list", "watch")),
    *((verb, "finetune.dev", "finetunejobs/status") for verb in ("get", "patch")),
    *((verb, "ray.io", "rayjobs") for verb in ("get", "list", "watch", "create", "delete")),
    *((verb, "", "pods") for verb in ("list", "watch", "delete")),
    ("get", "", "pods/log"),
    ("create", "", "configmaps"),
    ("create", "", "events"),
    *((verb, "", "serviceaccounts") for verb in ("get", "create")),
    *((verb, "rbac.authorization.k8s.io", "rolebindings") for verb in ("get", "create")),
}
LEASE = {(verb, "coordination.k8s.io", "leases") for verb in ("get", "create", "update")}


def test_the_operator_may_do_what_it_does_in_all_namespaces_and_no_more(kubectl: Kubectl, helm: Helm) -> None:
    helm("install", RELEASE, str(CHART), values={})
    for namespace in (SYSTEM, "team-a", "team-c"):
        assert rights(kubectl, f"{SYSTEM}:{RELEASE}", namespace) == JOBS
    helm("upgrade", RELEASE, str(CHART), values={"leaderElection": {"enabled": True}, "replicas": 2})
    assert rights(kubectl, f"{SYSTEM}:{RELEASE}", SYSTEM) == JOBS | LEASE
    assert rights(kubectl, f"{SYSTEM}:{RELEASE}", "team-a") == JOBS


def test_an_operator_of_some_namespaces_has_no_rights_elsewhere(kubectl: Kubectl, helm: Helm) -> None:
    helm("install", RELEASE, str(CHART), values=chart_values.NAMESPACED | {"leaderElection": {"enabled": True}})
    for namespace in ("team-a", "team-b"):
        assert rights(kubectl, f"{SYSTEM}:{RELEASE}", namespace) == JOBS
    assert rights(kubectl, f"{SYSTEM}:{RELEASE}", "team-c") == set()
    assert rights(kubectl, f"{SYSTEM}:{RELEASE}", SYSTEM) == LEASE
    bindings = kubectl.get("clusterrolebindings")["items"]
    assert [each["metadata"]["name"] for each in bindings if SYSTEM in json.dumps(each.get("subjects"))] == []


@pytest.mark.parametrize(
    ("values", "kind"), [({}, "clusterrole"), (chart_values.NAMESPACED, "role")], ids=["cluster", "namespaced"]
)
def test_the_operator_can_bind_the_drivers_role_and_no_other(
    kubectl: Kubectl, helm: Helm, values: dict[str, Any], kind: str
) -> None:
    helm("install", RELEASE, str(CHART), values=values)
    team, me = kubectl.within("team-a"), f"--as=system:serviceaccount:{SYSTEM}:{RELEASE}"
    account = f"--serviceaccount=team-a:{names.DRIVER_ACCOUNT}"
    with pytest.raises(KubectlFailed, match="attempting to grant RBAC permissions not currently held"):
        team("create", "rolebinding", "too-much", "--clusterrole=cluster-admin", account, me)
    team("create", "rolebinding", names.DRIVER_ACCOUNT, f"--{kind}={RELEASE}-driver", account, me)
    try:
        granted = rights(kubectl, f"team-a:{names.DRIVER_ACCOUNT}", "team-a")
        assert granted == {(verb, "finetune.dev", "finetunejobs/status") for verb in ("get", "patch")}
        assert rights(kubectl, f"team-a:{names.DRIVER_ACCOUNT}", "team-b") == set()
    finally:
        team("delete", "rolebinding", names.DRIVER_ACCOUNT)


def test_the_operator_can_change_nothing_but_status(kubectl: Kubectl, helm: Helm) -> None:
    helm("install", RELEASE, str(CHART))
    operator = log_in(kubectl.within(SYSTEM), RELEASE)
    for kind in ("configmaps", "secrets"):
        with pytest.raises(Refused, match=rf'cannot patch resource "{kind}"'):
            operator.patch(f"/api/v1/namespaces/team-a/{kind}/any", {"data": {}})
    with pytest.raises(Refused, match=r'cannot patch resource "finetunejobs" in'):
        operator.patch(f"/apis/{names.API_VERSION}/namespaces/team-a/finetunejobs/any", {"spec": {"suspend": True}})


def submit(kubectl: Kubectl) -> str:
    """A job in team-a: its uid."""
    team = kubectl.within("team-a")
    kubectl.wait("condition=Established", f"crd/{CRD}", seconds=30)
    team.apply(json.dumps(JOB))
    uid: str = team.get("finetunejob", "shakespeare")["metadata"]["uid"]
    return uid


def changed_chart(folder: Path) -> Path:
    """The chart of a later version, whose CRD has another column."""
    chart = shutil.copytree(CHART, folder / "chart")
    crd = yaml.safe_load((chart / "files" / "crd.yaml").read_text())
    [version] = crd["spec"]["versions"]
    version["additionalPrinterColumns"].append({"name": "Later", "type": "string", "jsonPath": ".status.phase"})
    (chart / "files" / "crd.yaml").write_text(yaml.safe_dump(crd))
    return chart


def columns(kubectl: Kubectl) -> list[str]:
    [version] = kubectl.get("crd", CRD)["spec"]["versions"]
    return [each["name"] for each in version["additionalPrinterColumns"]]


def test_an_upgrade_takes_the_crd_along_and_leaves_the_jobs(kubectl: Kubectl, helm: Helm, tmp_path: Path) -> None:
    helm("install", RELEASE, str(CHART))
    uid = submit(kubectl)
    assert "Later" not in columns(kubectl)
    helm("upgrade", RELEASE, str(changed_chart(tmp_path)))
    assert "Later" in columns(kubectl)
    helm("rollback", RELEASE, "1")
    assert "Later" not in columns(kubectl)
    assert kubectl.within("team-a").get("finetunejob", "shakespeare")["metadata"]["uid"] == uid


def test_uninstalling_leaves_crd_and_jobs_and_installing_again_finds_them(kubectl: Kubectl, helm: Helm) -> None:
    helm("install", RELEASE, str(CHART), values=chart_values.EVERYTHING)
    uid = submit(kubectl)
    helm("uninstall", RELEASE)
    cluster = "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings"
    kinds = f"{cluster},roles,rolebindings,all,cm,sa,pdb,netpol,podmonitors"
    left = kubectl("get", kinds, "-A", f"--selector=app.kubernetes.io/instance={RELEASE}", "--output=name")
    assert left == ""
    assert kubectl.within("team-a").get("finetunejob", "shakespeare")["metadata"]["uid"] == uid
    helm("install", RELEASE, str(CHART))
    assert kubectl.within("team-a").get("finetunejob", "shakespeare")["metadata"]["uid"] == uid


def test_uninstalling_takes_crd_and_jobs_along_if_the_values_say_so(kubectl: Kubectl, helm: Helm) -> None:
    helm("install", RELEASE, str(CHART))
    submit(kubectl)
    notes = helm("upgrade", RELEASE, str(CHART), values={"crds": {"keep": False}})
    assert "`helm uninstall` deletes the CRD and every FineTuneJob" in notes
    helm("uninstall", RELEASE)
    kubectl("wait", "--for=delete", f"crd/{CRD}", "--timeout=30s")


def test_a_second_release_leaves_the_crd_to_the_first(kubectl: Kubectl, helm: Helm) -> None:
    helm("install", RELEASE, str(CHART), values={"watch": {"namespaces": ["team-a"]}})
    second = Helm(kubectl.kubeconfig, "team-c")
    values: dict[str, Any] = {"watch": {"namespaces": ["team-b"]}}
    with pytest.raises(HelmFailed, match=rf"CustomResourceDefinition.*{CRD}.*cannot be imported"):
        second("install", RELEASE, str(CHART), values=values)
    second("install", RELEASE, str(CHART), values=values | {"crds": {"install": False}})
    assert rights(kubectl, f"team-c:{RELEASE}", "team-b") == JOBS
    assert rights(kubectl, f"team-c:{RELEASE}", "team-a") == set()


@pytest.fixture
def controllers(api_server: Layout) -> Iterator[None]:
    """The two controllers of Kubernetes that complete what the chart makes."""
    file = api_server.folder / "controllers.kubeconfig"
    Authority(api_server.folder / "pki").write_kubeconfig(file, api_server.server, "controllers", ["system:masters"])
    chosen = "--controllers=clusterrole-aggregation-controller,validatingadmissionpolicy-status-controller"
    flags = [f"--kubeconfig={file}", chosen, "--leader-elect=false", "--secure-port=0"]
    processes.start(api_server.folder, "kube-controller-manager", ["kube-controller-manager", *flags])
    yield
    processes.stop(api_server.folder, ["kube-controller-manager"])


def test_view_edit_and_admin_get_their_rights(kubectl: Kubectl, helm: Helm, controllers: None) -> None:
    helm("install", RELEASE, str(CHART))
    read = {(verb, each) for verb in ("get", "list", "watch") for each in ("finetunejobs", "finetunejobs/status")}
    write = {(verb, "finetunejobs") for verb in ("create", "update", "patch", "delete", "deletecollection")}
    for role, expected in {"view": read, "edit": read | write, "admin": read | write}.items():
        found: set[tuple[str, str]] = set()
        for _ in until(30):
            rules = kubectl.get("clusterrole", role)["rules"] or []
            ours = [rule for rule in rules if "finetune.dev" in rule["apiGroups"]]
            found = {(verb, each) for rule in ours for verb in rule["verbs"] for each in rule["resources"]}
            if found == expected:
                break
        assert found == expected, role


def test_the_policy_fits_the_types_of_the_crd(kubectl: Kubectl, helm: Helm, controllers: None) -> None:
    """Kubernetes checks the expressions against the CRD's types, and says in the policy's status what it finds."""
    helm("install", RELEASE, str(CHART))
    status: dict[str, Any] = {}
    for _ in until(30):
        status = kubectl.get("validatingadmissionpolicy", f"{RELEASE}-status").get("status", {})
        if "typeChecking" in status:
            break
    assert status["typeChecking"] == {}


# ── helm test ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def health() -> Iterator[tuple[str, list[int]]]:
    """An operator's /healthz: its address, and the codes that it answers, the last one for ever."""
    codes = [200]

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(codes.pop(0) if len(codes) > 1 else codes[0])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/healthz", codes
        server.shutdown()
        thread.join()


Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(kubectl: Kubectl, helm: Helm, health: tuple[str, list[int]], tmp_path: Path) -> Check:
    """The command of the pod of `helm test`, run here, as an account without rights: its exit code and what it said."""
    bodies = yaml.safe_load_all(helm("template", RELEASE, str(CHART)))
    [pod] = [each for each in bodies if each and each["kind"] == "Pod"]
    [container] = pod["spec"]["containers"]
    make_account(kubectl.within("team-c"), "nobody")
    account = log_in(kubectl.within("team-c"), "nobody")
    (tmp_path / "token").write_text(account.token)
    (tmp_path / "ca.crt").write_text(account.authority)

    def run(**environment: str) -> tuple[int, str]:
        own = {"HEALTH_URL": health[0], "DEPLOYMENT": RELEASE, "PATIENCE_SECONDS": "2"}
        place = {"API_SERVER": account.server, "ACCOUNT_FOLDER": str(tmp_path)}
        command = [sys.executable, *container["command"][1:], *container["args"]]
        done = subprocess.run(
            command, env=os.environ | own | place | environment, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        return done.returncode, done.stdout

    return run


def passed(said: str) -> int:
    return sum(line.startswith("ok ") for line in said.splitlines())


def test_helm_test_passes_where_all_is_well(helm: Helm, check: Check) -> None:
    helm("install", RELEASE, str(CHART))
    code, said = check()
    assert (code, passed(said)) == (0, 3), said


def test_helm_test_waits_for_an_operator_that_starts(helm: Helm, check: Check, health: tuple[str, list[int]]) -> None:
    helm("install", RELEASE, str(CHART))
    health[1][:] = [500, 200]
    assert check()[0] == 0


def test_helm_test_says_that_the_operator_is_not_well(helm: Helm, check: Check, health: tuple[str, list[int]]) -> None:
    helm("install", RELEASE, str(CHART))
    health[1][:] = [500]
    code, said = check()
    assert code == 1
    assert f"FAILED  the operator is well: {health[0]}: HTTP Error 500" in said
    assert f"kubectl logs deployment/{RELEASE}" in said
    assert passed(said) == 2


def test_helm_test_says_that_a_kind_is_missing(kubectl: Kubectl, check: Check) -> None:
    kubectl("delete", "crd", CRD, "--ignore-not-found")
    code, said = check()
    assert code == 1
    assert "FAILED  the API server knows FineTuneJobs: finetune.dev/v1alpha1: 404 Not Found. Install the CRD" in said
    assert passed(said) == 2


def test_helm_test_says_that_the_api_server_does_not_answer(check: Check) -> None:
    code, said = check(API_SERVER="https://127.0.0.1:1")
    assert code == 1
    assert "FAILED  the API server knows RayJobs: https://127.0.0.1:1: <urlopen error" in said
