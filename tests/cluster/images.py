"""Images: from the store of docker or buildah into a seed, from which every node gets them by hard links.

A layer is unpacked once, in the seed. A new node costs megabytes; an image whose top layer has changed costs that layer.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO

from images.build import IMAGES, Image, builder
from tests.cluster import node, processes
from tests.cluster.layout import BIN, ROOT, Layout
from tests.cluster.steps import Problem, step, until

STORE = ROOT / "build" / "images"
SEED = STORE / "seed"
IMAGE_ROOT = SEED / "var" / "lib" / "containerd"
_LAYOUT = STORE / "layout"
_LOADED = SEED / "loaded.json"
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
    programs = 0 if (BIN / "kubelet").exists() else 16
    built = 0 if _LOADED.exists() else 22
    return (programs + built + 2) * 10**9


def build() -> None:
    """Build the product's images and those of the cluster's own programs, if they have changed. Raises Problem."""
    tool = builder()
    _run("make", "-C", str(ROOT), "images")
    busybox = shutil.which("busybox")
    if busybox and not (BIN / "busybox").exists():
        shutil.copy2(busybox, BIN / "busybox")
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
            _run(tool, "build", *isolation, "--quiet", *what)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(wanted)


def load(layout: Layout) -> None:
    """Put every image that has changed into the seed, and into the nodes that run."""
    tool = builder()
    tags = [tag(name) for name in SMALL] + [image.tag for image in IMAGES]
    wanted = {each: _image_id(tool, each) for each in tags}
    if missing := [each for each, identity in wanted.items() if not identity]:
        raise Problem(f"{missing[0]} is not built: run `make images`")
    loaded = json.loads(_LOADED.read_text()) if _LOADED.exists() else {}
    changed = [each for each in tags if loaded.get(each) != wanted[each]]
    if not changed:
        return
    with step(f"load {len(changed)} images"), _seed_runs():
        running = [each.name for each in layout.nodes if each.name in processes.running(layout.folder)]
        targets = [(SEED, "seed"), *((layout.folder, name) for name in running)]
        pids = [node.host_pid(folder, name) for folder, name in targets]
        if tool == "buildah":
            _load_layers(changed, pids)
        else:
            for pid in pids:
                _import(pid, subprocess.Popen([tool, "save", *changed], stdout=subprocess.PIPE))
    _LOADED.write_text(json.dumps(wanted))


@contextmanager
def _seed_runs() -> Iterator[None]:
    """A containerd on the seed, for the length of the block."""
    processes.stop(SEED, politely=False)
    IMAGE_ROOT.mkdir(parents=True, exist_ok=True)
    (SEED / "var" / "tmp").mkdir(exist_ok=True)
    node.start_apart(SEED, "seed", SEED)
    try:
        for _ in until(30):
            if "seed" in processes.running(SEED) and _answers(node.host_pid(SEED, "seed")):
                break
        else:
            raise Problem(f"containerd is not ready:\n{processes.tail(SEED / 'containerd.log')}")
        yield
    finally:
        processes.stop(SEED, politely=False)


def _load_layers(tags: Sequence[str], pids: Sequence[int]) -> None:
    """Import images by an OCI layout in which the layers that were imported before are hollow: known by name and size, but
    without content. buildah writes only the layers that are not there, and only those are sent."""
    manifests = []
    for each in tags:
        _run("buildah", "push", "--quiet", "--disable-compression", each, f"oci:{_LAYOUT}:image")
        index = json.loads((_LAYOUT / "index.json").read_text())
        manifest = index["manifests"][-1] | {"annotations": {"io.containerd.image.name": each}}
        (_LAYOUT / "index.json").unlink()
        manifests.append(manifest)
    layers = [layer for manifest in manifests for layer in _read(manifest)["layers"]]
    fresh = [path for layer in layers if not _is_hollow(path := _blob(layer["digest"]))]
    for index, pid in enumerate(pids):
        command = [*_ctr(pid), "images", "import", "--local", "--discard-unpacked-layers", "-"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as ctr:
            assert ctr.stdin
            _send(ctr.stdin, manifests, list(dict.fromkeys(fresh)), hollow=index == len(pids) - 1)
            assert ctr.stdout
            said = ctr.stdout.read().decode()
        if ctr.returncode != 0:
            shutil.rmtree(_LAYOUT)  # what it holds as known may not be known
            raise Problem(f"containerd could not import {', '.join(tags)}:\n{said[-2000:]}")


def _send(pipe: IO[bytes], manifests: Sequence[dict[str, object]], layers: Sequence[Path], *, hollow: bool) -> None:
    """Write an archive of the images with these layers into the pipe; make each layer hollow when it is sent."""
    with tarfile.open(fileobj=pipe, mode="w|") as archive:
        for name, content in (
            ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
            ("index.json", {"schemaVersion": 2, "manifests": manifests}),
        ):
            encoded = json.dumps(content).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(encoded)
            archive.addfile(entry, BytesIO(encoded))
        documents = [_blob(str(each["digest"])) for each in manifests]
        documents += [_blob(_read(each)["config"]["digest"]) for each in manifests]
        for path in [*dict.fromkeys(documents), *layers]:
            archive.add(path, f"blobs/sha256/{path.name}")
            if hollow and path in layers:
                size = path.stat().st_size
                os.truncate(path, 0)
                os.truncate(path, size)
    pipe.close()


def _import(pid: int, source: subprocess.Popen[bytes]) -> None:
    command = [*_ctr(pid), "images", "import", "--local", "--discard-unpacked-layers", "-"]
    done = subprocess.run(command, stdin=source.stdout, capture_output=True, text=True, check=False)
    if source.wait() != 0 or done.returncode != 0:
        raise Problem(f"containerd could not import the images:\n{done.stderr[-2000:]}")


def _blob(digest: str) -> Path:
    return _LAYOUT / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _read(descriptor: dict[str, object]) -> dict[str, object] | object:
    return json.loads(_blob(str(descriptor["digest"])).read_text())


def _is_hollow(path: Path) -> bool:
    status = path.stat()
    return status.st_blocks == 0 and status.st_size > 0


def _ctr(pid: int) -> list[str]:
    return ["nsenter", f"--target={pid}", "--mount", str(BIN / "ctr"), "--namespace=k8s.io"]


def _answers(pid: int) -> bool:
    return subprocess.run([*_ctr(pid), "version"], capture_output=True, check=False).returncode == 0


def _image_id(tool: str, name: str) -> str:
    template = "{{.FromImageID}}" if tool == "buildah" else "{{.Id}}"
    command = [tool, "inspect", "--type", "image", "--format", template, name]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Problem(f"`{' '.join(command)}` failed:\n{(done.stderr or done.stdout)[-2000:]}")
