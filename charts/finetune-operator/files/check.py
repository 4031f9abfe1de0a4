"""`helm test`: does the operator say that it is well, and does the API server know what it works with?

In: HEALTH_URL, and what every pod has of its API server. Out: a line for each check, and exit code 1 if one has failed. It
needs no rights: whoever has an account may ask which kinds there are.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path(os.environ.get("ACCOUNT_FOLDER", "/var/run/secrets/kubernetes.io/serviceaccount"))
API_SERVER = os.environ.get("API_SERVER", "https://kubernetes.default.svc")
# A Service that was made this moment is known to DNS some seconds later, and an operator that starts needs some as well.
PATIENCE = float(os.environ.get("PATIENCE_SECONDS", "60"))


def answer(url: str, *, with_account: bool) -> bytes:
    """What `url` says, after asking again for a while. Raises OSError."""
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt")) if with_account else None
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}"} if with_account else {}
    until = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, headers=headers), timeout=5, context=context
            ) as got:
                content: bytes = got.read()
                return content
        except OSError as error:
            gone = isinstance(error, urllib.error.HTTPError) and error.code == 404
            if gone or time.monotonic() >= until:
                raise
            time.sleep(1)


def unwell() -> str:
    """What is wrong with the operator, if anything is."""
    url = os.environ["HEALTH_URL"]
    try:
        answer(url, with_account=False)
    except OSError as error:
        return f"{url}: {error}. Look at the operator's log: kubectl logs deployment/{os.environ['DEPLOYMENT']}"
    return ""


def missing(version: str, kinds: set[str], remedy: str) -> str:
    """Which of these the API server does not serve, if there are any."""
    try:
        served = json.loads(answer(f"{API_SERVER}/apis/{version}", with_account=True))["resources"]
    except urllib.error.HTTPError as error:
        return f"{version}: {error.code} {error.reason}. {remedy}" if error.code == 404 else f"{version}: {error}"
    except OSError as error:
        return f"{API_SERVER}: {error}"
    absent = kinds - {each["name"] for each in served}
    return f"{version} has no {', '.join(sorted(absent))}. {remedy}" if absent else ""


def main() -> int:
    """Run all checks, and say what came of each."""
    ours = {"finetunejobs", "finetunejobs/status"}
    found = {
        "the operator is well": unwell(),
        "the API server knows FineTuneJobs": missing(
            "finetune.dev/v1alpha1", ours, "Install the CRD: crds.install=true, or another release's."
        ),
        "the API server knows RayJobs": missing(
            "ray.io/v1", {"rayjobs"}, "Install KubeRay: without it jobs stay Pending."
        ),
    }
    for check, wrong in found.items():
        print(f"{'FAILED' if wrong else 'ok':<7} {check}{f': {wrong}' if wrong else ''}", flush=True)
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
