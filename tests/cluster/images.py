"""Images: from buildah's store into a seed, from which every node gets them by hard links. (Those for kind stay in docker's.)

A layer is unpacked once, in the seed. A new node costs megabytes; an image whose top layer has changed costs that layer.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO, RawIOBase
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from images.build import IMAGES, Image, apart
from tests.cluster import machine, node, processes
from tests.cluster.layout import BIN, ROOT, Layout, write
from tests.cluster.steps import Problem, run, step
from tests.servers.s3 import WEED

STORE = ROOT / "build" / "images"
SEED = STORE / "seed"
IMAGE_ROOT = SEED / "var" / "lib" / "containerd"
_LOADED = SEED / "loaded.json"
_OCI = "application/vnd.oci.image"
SMALL = {
    "pause": ("busybox",),
    "kuberay": ("ray-operator",),
    "seaweedfs": ("weed", "busybox"),
}


def tag(name: str) -> str:
    """What an image is called in the cluster."""
    return Image(name, ()).tag


def bytes_needed() -> int:
    """The most that will be taken of the disk by what is not there yet (measured, and rounded up)."""
    programs = 0 if (BIN / "kubelet").exists() else 11
    # A layer that is being built exists three times for a while; one that is loaded, once more.
    layers = 10 if _image_id("buildah", tag("training")) else 24
    return (programs + (0 if _LOADED.exists() else layers) + 2) * 10**9


def build(tool: str) -> dict[str, str]:
    """Build the product's images and those of the cluster's own programs, if they have changed, and return what identifies
    each by its tag. Raises Problem."""
    make = ["make", "--no-print-directory", "-C", str(ROOT), "images", f"TOOL={tool}"]
    if subprocess.run(make, check=False).returncode != 0:
        raise Problem("`make images` failed: its reason is above")
    busybox = machine.static_busybox()
    if not busybox:
        raise Problem("a busybox that needs no library is missing. On Debian: apt-get install busybox-static")
    shutil.copy2(busybox, BIN / "busybox")
    shutil.copy2(WEED, BIN / "weed")
    for name, files in SMALL.items():
        dockerfile = Path(__file__).parent / "images" / "Dockerfile"
        digest = hashlib.sha256(dockerfile.read_bytes())
        for each in files:
            with (BIN / each).open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        stamp, wanted = STORE / f"{name}.built", f"{tool} {digest.hexdigest()}"
        if stamp.exists() and stamp.read_text() == wanted and _image_id(tool, tag(name)):
            continue
        with step(f"image {tag(name)}"):
            isolation = ["--isolation", "chroot"] if tool == "buildah" else []
            what = ["--target", name, "--tag", tag(name), "--file", str(dockerfile), str(BIN)]
            run(*apart(), tool, "build", *isolation, "--quiet", *what)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(wanted)
    return {each: _image_id(tool, each) for each in (*map(tag, SMALL), *(image.tag for image in IMAGES))}


def load(layout: Layout, identities: Mapping[str, str]) -> None:
    """Put every image that has changed into the seed and into the nodes. Raises Problem."""
    processes.stop(SEED)  # what a killed command has left
    loaded = json.loads(_LOADED.read_text()) if _LOADED.exists() else {}
    changed = [each for each in identities if loaded.get(each, {}).get("id") != identities[each]]
    if not changed:
        return
    running = processes.running(layout.folder)
    for stopped in (each for each in layout.nodes if each.name not in running):
        # It would miss these images: it is made anew, from the seed.
        shutil.rmtree(layout.node_folder(stopped), ignore_errors=True)
    with _seed_runs() as seed:
        pids = [seed, *(node.host_pid(layout.folder, each.name) for each in layout.nodes if each.name in running)]
        for each in changed:
            with step(f"load {each}"):
                known = {layer for image in loaded.values() for layer in image["layers"]}
                layers = _load(each, pids, known)
            loaded[each] = {"id": identities[each], "layers": layers}
            write(_LOADED, json.dumps(loaded).encode())
        for pid in pids:
            _forget_replaced(pid, identities.values())


@contextmanager
def _seed_runs() -> Iterator[int]:
    """A containerd on the seed, for the length of the block: the number of its first process."""
    IMAGE_ROOT.mkdir(parents=True, exist_ok=True)
    (SEED / "var" / "tmp").mkdir(exist_ok=True)
    node.start_apart(SEED, "seed", SEED)
    try:
        processes.await_ready(SEED, "seed", _seed_answers, SEED / "containerd.log", seconds=30)
        yield node.host_pid(SEED, "seed")
    finally:
        processes.stop(SEED)


def _load(name: str, pids: Sequence[int], known: Container[str]) -> list[str]:
    """Send an image to containerds, without the layers that they have unpacked before, and return the digests of all its
    layers. Nothing is written to disk in between, and no layer is kept packed."""
    save = ["buildah", "push", "--quiet", name, f"docker-archive:/dev/stdout:{name}"]
    importing = ["images", "import", "--local", "--discard-unpacked-layers", "-"]
    with ExitStack() as ended:
        output = ended.enter_context(TemporaryFile())
        source = ended.enter_context(subprocess.Popen(save, stdout=subprocess.PIPE, stderr=output))
        sinks = [
            ended.enter_context(
                subprocess.Popen([*_ctr(pid), *importing], stdin=subprocess.PIPE, stdout=output, stderr=output)
            )
            for pid in pids
        ]
        pipes = [sink.stdin for sink in sinks if sink.stdin]
        try:
            layers = _translate(source.stdout or BytesIO(), pipes, name, known)
            for pipe in pipes:
                pipe.close()
        except (BrokenPipeError, tarfile.TarError, KeyError):  # one of them has ended early, and says below why
            source.kill()
            for sink in sinks:
                sink.kill()
        ends = [source.wait(), *(sink.wait() for sink in sinks)]
        if any(ends):
            output.seek(0)
            raise Problem(f"{name} could not be loaded:\n{output.read().decode()[-2000:]}")
    return layers


def _translate(source: IO[bytes], sinks: Sequence[IO[bytes]], name: str, known: Container[str]) -> list[str]:
    """Read an archive as buildah writes it for docker, and write the OCI archive of the same image without the known layers."""
    sizes: dict[str, int] = {}
    documents: dict[str, bytes] = {}
    with tarfile.open(fileobj=source, mode="r|") as saved, tarfile.open(fileobj=_Tee(sinks), mode="w|") as archive:
        for entry in saved:
            if entry.isfile() and entry.name.endswith(".tar"):
                digest = entry.name.removesuffix(".tar")
                sizes[digest] = entry.size
                if digest not in known:
                    entry.name = f"blobs/sha256/{digest}"
                    archive.addfile(entry, saved.extractfile(entry))
            elif entry.isfile() and entry.name.endswith(".json"):
                content = saved.extractfile(entry)
                assert content
                documents[entry.name] = content.read()
        saved_as = json.loads(documents["manifest.json"])[0]
        layers = [str(each).removesuffix(".tar") for each in saved_as["Layers"]]
        config = documents[saved_as["Config"]]
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _blob(archive, config, "config.v1+json"),
            "layers": [
                {"mediaType": f"{_OCI}.layer.v1.tar", "digest": f"sha256:{digest}", "size": sizes[digest]}
                for digest in layers
            ],
        }
        described = _blob(archive, json.dumps(manifest).encode(), "manifest.v1+json")
        described["annotations"] = {"io.containerd.image.name": name}
        _add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": [described]}).encode())
        _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    return layers


class _Tee(RawIOBase):
    """Writes to several pipes as one file."""

    def __init__(self, sinks: Sequence[IO[bytes]]) -> None:
        self._sinks = sinks

    def writable(self) -> bool:
        return True

    def write(self, content: Any, /) -> int:
        for sink in self._sinks:
            sink.write(content)
        return len(content)


def _blob(archive: tarfile.TarFile, content: bytes, kind: str) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    _add(archive, f"blobs/sha256/{digest}", content)
    return {"mediaType": f"{_OCI}.{kind}", "digest": f"sha256:{digest}", "size": len(content)}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, BytesIO(content))


def _ctr(pid: int) -> list[str]:
    return ["nsenter", f"--target={pid}", "--mount", str(BIN / "ctr"), "--namespace=k8s.io"]


def _seed_answers() -> bool:
    with suppress(Problem):  # it is about to start
        run(*_ctr(node.host_pid(SEED, "seed")), "version")
        return True
    return False


def _forget_replaced(pid: int, identities: Collection[str]) -> None:
    """Let a containerd drop what only images of another time need: it keeps them by their digests, gigabytes each."""
    listed = run(*_ctr(pid), "images", "list", "--quiet").split()
    replaced = [
        each for each in listed if each.startswith("sha256:") and each.removeprefix("sha256:") not in identities
    ]
    if replaced:
        run(*_ctr(pid), "images", "delete", "--sync", *replaced)


def _image_id(tool: str, name: str) -> str:
    template = "{{.FromImageID}}" if tool == "buildah" else "{{.Id}}"
    if not shutil.which(tool):
        return ""
    command = [tool, "inspect", "--type", "image", "--format", template, name]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
