"""A real S3 server for tests: SeaweedFS, whose program comes as a Python package.

In: the `weed` program of the environment and an empty folder. Out: an `S3Server` on free loopback ports,
with one bucket, an owner who may do everything and a reader who may not write. It is given out once an object has been
written and read back, and it ends with the `with` block, or with the process that started it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import obstore
from obstore.store import S3Store

WEED = Path(sys.prefix) / "bin" / "weed"
BUCKET = "finetune"
_READY_SECONDS = 60


@dataclass(frozen=True)
class Credentials:
    """One identity of the server."""

    access_key: str
    secret_key: str


OWNER = Credentials("finetune-owner", "finetune-owner-secret")
READER = Credentials("finetune-reader", "finetune-reader-secret")


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    endpoint: str
    bucket: str = BUCKET
    access_key: str = OWNER.access_key
    secret_key: str = OWNER.secret_key

    def environment(self, credentials: Credentials = OWNER) -> dict[str, str]:
        """The variables by which every S3 client finds this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
            "AWS_REGION": "us-east-1",
        }


@dataclass(frozen=True)
class S3Proxy:
    """A running proxy (s3_proxy.py) in front of a server."""

    endpoint: str
    control: str

    def fail(self, **fault: float | str | bool) -> dict[str, Any]:
        """Fail like this from now on (the fields of a Fault). Returns what the proxy has understood."""
        with urllib.request.urlopen(self.control, data=json.dumps(fault).encode(), timeout=5) as answer:
            told: dict[str, Any] = json.loads(answer.read())
        return told

    def mend(self) -> None:
        self.fail()


@contextmanager
def started_proxy(server: S3Server) -> Iterator[S3Proxy]:
    """Run a proxy for the length of the block."""
    listen, control = free_ports(2)
    places = [f"--listen=127.0.0.1:{listen}", f"--control=127.0.0.1:{control}", f"--server={server.endpoint}"]
    script = Path(__file__).with_name("s3_proxy.py")
    with subprocess.Popen([sys.executable, script, *places], stdout=subprocess.PIPE, text=True) as proxy:
        try:
            if not proxy.stdout or proxy.stdout.readline() != "s3-proxy: ready\n":
                raise RuntimeError("the proxy did not start")
            yield S3Proxy(f"http://127.0.0.1:{listen}", f"http://127.0.0.1:{control}/")
        finally:
            proxy.kill()


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run SeaweedFS on `folder` for the length of the block."""
    if not WEED.exists():
        raise RuntimeError(f"{WEED} is missing: run `make setup`.")
    ports = dict(zip(_SERVICES, free_ports(len(_SERVICES)), strict=True))
    config, log = folder / "s3.json", folder / "weed.log"
    config.write_text(json.dumps(_identities()))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_ends_with_parent(), str(WEED), *_arguments(folder, config, ports)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        server = S3Server(f"http://127.0.0.1:{ports['s3.port']}")
        _await_ready(server, process, log, filer=f"http://127.0.0.1:{ports['filer.port']}")
        yield server
    finally:
        # Asked politely it takes 10 s, and nothing of it is wanted any more.
        process.kill()
        process.wait()
        for service in ("master", "volume", "filer", "s3"):  # SeaweedFS puts these in /tmp, wherever its data is
            Path(f"/tmp/seaweedfs-{service}-grpc-{ports[f'{service}.port.grpc']}.sock").unlink(missing_ok=True)


def free_ports(count: int) -> list[int]:
    """Distinct loopback ports that nobody listens on. All are held while they are chosen."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


_SERVICES = tuple(
    f"{service}.{port}" for service in ("master", "volume", "filer", "s3") for port in ("port", "port.grpc")
)


def _arguments(folder: Path, config: Path, ports: dict[str, int]) -> list[str]:
    data = folder / "data"
    data.mkdir()
    return [
        f"-logdir={folder}",
        "server",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=256",
        "-volume.max=0",
        "-filer",
        f"-filer.localSocket={folder}/filer.sock",
        "-s3",
        f"-s3.config={config}",
        f"-s3.localSocket={folder}/s3.sock",
        # As on AWS: a write to a bucket that is not there is an error.
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]


def _identities() -> dict[str, Any]:
    def identity(credentials: Credentials, *actions: str) -> dict[str, Any]:
        keys = {"accessKey": credentials.access_key, "secretKey": credentials.secret_key}
        return {"name": credentials.access_key, "credentials": [keys], "actions": list(actions)}

    return {"identities": [identity(OWNER, "Admin"), identity(READER, f"Read:{BUCKET}", f"List:{BUCKET}")]}


def _ends_with_parent() -> list[str]:
    """A prefix that has the kernel end the server when a test run is killed before it can clean up."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []


def _await_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path, *, filer: str) -> None:
    """Return once an object can be written and read, asking again and again until a deadline."""
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            _write_and_read(server, filer)
            return
        except Exception as error:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
                raise RuntimeError(f"SeaweedFS is not ready ({error}). Its log ends:\n{tail}") from error
            time.sleep(0.1)


def _make_bucket(folder: str) -> None:
    """Make a folder below the filer's /buckets, which is a bucket: the S3 way to make one needs a signing client."""
    try:
        with urllib.request.urlopen(urllib.request.Request(folder, method="POST"), timeout=5):
            pass
    except urllib.error.HTTPError as error:
        with error:
            if error.code != HTTPStatus.CONFLICT:  # made by an earlier try
                raise


def _write_and_read(server: S3Server, filer: str) -> None:
    _make_bucket(f"{filer}/buckets/{server.bucket}/")
    store = S3Store(
        server.bucket,
        endpoint=server.endpoint,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        region="us-east-1",
        client_options={"allow_http": True, "timeout": "5s"},
        retry_config={"max_retries": 0},
    )
    key = f".ready-{os.getpid()}"
    obstore.put(store, key, b"ready")
    if bytes(obstore.get(store, key).bytes()) != b"ready":
        raise RuntimeError("an object did not come back as it was written")
    obstore.delete(store, key)
