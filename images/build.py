"""Builds the images with docker or buildah, the one that is named or works here, when what goes into them has changed.

In: the Dockerfiles beside this file and the files that they copy. Out: `localhost/finetune-training:dev` and
`localhost/finetune-operator:dev` in the store of the tool that built them, each labelled with a digest of its inputs.
Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PUBLIC_BASE = "docker.io/library/python:3.11-slim-bookworm"
OWN_BASE = "localhost/finetune-base:bookworm"
_LABEL = "dev.finetune.inputs"
_CERTIFICATES = Path("/etc/ssl/certs")
# What the base holds when it is made here. Headers: DeepSpeed's ops are compiled in the training image.
_OWN_BASE_PACKAGES = "ca-certificates,python3,python3-dev,python3-venv"


class CannotBuild(Exception):
    """An image cannot be built here. The message says why and what to do."""


@dataclass(frozen=True)
class Image:
    """One image: `name` is its Dockerfile's, `inputs` are the files and folders that its Dockerfile copies."""

    name: str
    inputs: tuple[str, ...]

    @property
    def tag(self) -> str:
        """What Kubernetes calls it. `localhost` so that nobody looks for it in a registry."""
        return f"localhost/finetune-{self.name}:dev"

    @property
    def dockerfile(self) -> Path:
        """The file that builds it."""
        return ROOT / "images" / f"{self.name}.Dockerfile"


IMAGES = (Image("training", ("training",)), Image("operator", ("operator", "training")))


def builder() -> str:
    """`docker` if its daemon answers, else `buildah`. Raises CannotBuild if there is neither."""
    if shutil.which("docker") and _quiet("docker", "info").returncode == 0:
        return "docker"
    if shutil.which("buildah"):
        return "buildah"
    raise CannotBuild("neither a docker daemon nor buildah is here. On Debian: apt-get install buildah")


def apart() -> list[str]:
    """The words before a command of root's that mounts things: they go with it, also if it is killed."""
    return ["unshare", "--mount"] if os.geteuid() == 0 else []


def build(image: Image, base: str, uv_version: str, *, tool: str) -> bool:
    """Build `image` unless its store has it from the same inputs. Returns whether it was built."""
    digest = _digest([image.dockerfile, *(ROOT / each for each in image.inputs)], base, uv_version)
    if _label(image.tag, tool) == digest:
        return False
    arguments = {"BASE": base, "UV_VERSION": uv_version}
    command = [*apart(), tool, "build", "--file", str(image.dockerfile), "--tag", image.tag]
    command += ["--label", f"{_LABEL}={digest}"]
    if tool == "buildah":
        # No daemon and no user namespaces needed; the network, the certificates and uv's cache are those of this machine.
        command += [
            "--isolation",
            "chroot",
            "--network",
            "host",
            "--layers",
            "--volume",
            "/etc/resolv.conf:/etc/resolv.conf:ro",
        ]
        if _CERTIFICATES.is_dir():
            command += ["--volume", f"{_CERTIFICATES}:{_CERTIFICATES}:ro"]
        if cache := _uv_cache():
            command += ["--volume", f"{cache}:/var/cache/uv"]
            arguments["UV_NO_CACHE"] = "false"
    command += [f"--build-arg={name}={value}" for name, value in arguments.items()]
    log = ROOT / "build" / "images" / f"{image.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        done = subprocess.run([*command, str(ROOT)], stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise CannotBuild(f"{tool} could not build {image.dockerfile.relative_to(ROOT)}. The end of {log}:\n{end}")
    return True


def size(tag: str, tool: str) -> int:
    """Bytes of the image's layers, unpacked."""
    if tool == "docker":
        return int(_quiet("docker", "image", "inspect", "--format", "{{.Size}}", tag).stdout)
    listed = json.loads(_quiet("buildah", "images", "--json", tag).stdout)
    number, unit = str(listed[0]["size"]).split()
    return round(float(number) * {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}[unit])


def choose_base(wanted: str, tool: str) -> str:
    """The base to build from: the one that was asked for, else the public one, else one made of Debian's packages."""
    if wanted:
        return wanted
    if tool == "docker":
        return PUBLIC_BASE
    for present in (PUBLIC_BASE, OWN_BASE):
        if _quiet(tool, "inspect", "--type", "image", present).returncode == 0:
            return present
    if _quiet(tool, "pull", "--quiet", PUBLIC_BASE).returncode == 0:
        return PUBLIC_BASE
    print(f"images: no registry has {PUBLIC_BASE} for us: making a base of Debian's packages", flush=True)
    _make_base()
    return OWN_BASE


def _make_base() -> None:
    if not shutil.which("debootstrap"):
        raise CannotBuild("no registry answers and debootstrap is missing. On Debian: apt-get install debootstrap")
    mirrors = _quiet("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").stdout.split()
    folder = ROOT / "build" / "images" / "base"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _quiet("buildah", "rm", "finetune-base")  # of one that was killed
    debootstrap = ["debootstrap", "--variant=minbase", f"--include={_OWN_BASE_PACKAGES}", "bookworm", str(folder)]
    steps = (
        [*apart(), *debootstrap, *mirrors[:1]],
        ["buildah", "from", "--name", "finetune-base", "scratch"],
        ["buildah", "add", "--quiet", "finetune-base", str(folder), "/"],
        ["buildah", "commit", "--quiet", "--rm", "finetune-base", OWN_BASE],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CannotBuild(f"`{' '.join(step[:3])}` failed:\n{(done.stdout + done.stderr)[-2000:]}")
    shutil.rmtree(folder)


def _uv_cache() -> str:
    uv = ROOT / "build" / "tools" / "uv" / "bin" / "uv"
    found = str(uv) if uv.exists() else shutil.which("uv")
    return _quiet(found, "cache", "dir").stdout.strip() if found else ""


def _label(tag: str, tool: str) -> str:
    if tool == "docker":
        command = ["docker", "image", "inspect", "--format", f'{{{{index .Config.Labels "{_LABEL}"}}}}', tag]
    else:
        command = [
            "buildah",
            "inspect",
            "--type",
            "image",
            "--format",
            f'{{{{index .OCIv1.Config.Labels "{_LABEL}"}}}}',
            tag,
        ]
    return _quiet(*command).stdout.strip()


def _digest(paths: Iterable[Path], *words: str) -> str:
    """A digest of the words and of every file in the paths that git would not ignore."""
    digest = hashlib.sha256("\0".join(words).encode())
    for path in paths:
        files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
        for file in files:
            if not {"__pycache__", ".mypy_cache"} & set(file.parts) and not any(
                p.endswith(".egg-info") for p in file.parts
            ):
                digest.update(f"\0{file.relative_to(ROOT)}\0{file.stat().st_mode & 0o111}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


def _quiet(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def main() -> int:
    """Build every image and say how long it took and how large it is."""
    parser = argparse.ArgumentParser(description="Build the images with docker or buildah.")
    parser.add_argument("--base", default="", help=f"the image to build from; empty: {PUBLIC_BASE}, or one made here")
    parser.add_argument("--tool", default="", help="docker or buildah; empty: docker if its daemon answers")
    parser.add_argument("--uv-version", required=True)
    options = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # debootstrap is there, and a user's PATH may lack it
    try:
        tool = options.tool or builder()
        base = choose_base(options.base, tool)
        for image in IMAGES:
            began = time.monotonic()
            built = build(image, base, options.uv_version, tool=tool)
            what = f"built in {time.monotonic() - began:.0f} s" if built else "is up to date"
            print(f"images: {image.tag} {what}, {size(image.tag, tool) / 1e9:.2f} GB ({tool}, from {base})", flush=True)
    except CannotBuild as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
