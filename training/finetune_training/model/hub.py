"""`hf://owner/name` → a folder on this machine and the commit that it holds.

In: the model, its revision (commit, tag or branch), HF_ENDPOINT and HF_TOKEN. Out: the snapshot's folder in our cache, in
huggingface_hub's own layout, which several processes may share. A commit that was fetched once is found again without
the hub. Every refusal of the hub leaves as a `FinetuneError` that says whose turn it is.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils.tqdm import disable_progress_bars

from finetune_training.contract.failure import FinetuneError, Reason, infrastructure_error, user_error
from finetune_training.contract.spec import ModelSpec
from finetune_training.model.modelfiles import RULE, Parts, choose_files

_DENIED = (401, 403)


def fetch_snapshot(spec: ModelSpec, cache: Path, parts: Parts) -> tuple[Path, str]:
    """The snapshot's folder and its commit."""
    repo = spec.uri.removeprefix("hf://").strip("/")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo):
        raise user_error(
            "InvalidModelURI",
            f"{spec.uri} does not name a model of a hub.",
            "Write hf://owner/name, and commit, tag or branch into spec.model.revision.",
        )
    note = _note(cache, repo, spec.revision, parts, spec.trust_remote_code)
    if note.is_file() and (known := cache / note.read_text()).is_dir():
        return known, spec.revision
    endpoint = os.environ.get("HF_ENDPOINT") or None
    disable_progress_bars("huggingface_hub.snapshot_download")
    with _translated(spec, endpoint):
        info = HfApi(endpoint=endpoint).model_info(repo, revision=spec.revision or None)
        commit, names = str(info.sha), [sibling.rfilename for sibling in info.siblings or []]
        wanted = choose_files(names, uri=spec.uri, parts=parts, remote_code=spec.trust_remote_code)
        folder = Path(
            snapshot_download(
                repo,
                revision=commit,
                allow_patterns=[glob.escape(name) for name in wanted],
                cache_dir=cache,
                endpoint=endpoint,
            )
        )
    note = _note(cache, repo, commit, parts, spec.trust_remote_code)
    note.parent.mkdir(exist_ok=True)
    unfinished = note.with_suffix(f".{os.getpid()}")
    unfinished.write_text(folder.relative_to(cache.resolve()).as_posix())
    unfinished.rename(note)
    return folder, commit


def _note(cache: Path, repo: str, commit: str, parts: Parts, remote_code: bool) -> Path:
    """A file with the folder that has these parts of this commit, whole. Branches and tags move, so they get none."""
    name = f"{repo}@{commit} {parts} {remote_code} {RULE}"
    return cache / "fetched" / hashlib.sha256(name.encode()).hexdigest()[:40]


@contextmanager
def _translated(spec: ModelSpec, endpoint: str | None) -> Iterator[None]:
    try:
        yield
    except FinetuneError:
        raise
    except RevisionNotFoundError as error:
        where = f"revision {spec.revision!r}" if spec.revision else "default branch"
        raise user_error(
            "RevisionNotFound",
            f"{spec.uri} has no {where}.",
            "Set spec.model.revision to a commit, tag or branch of that model.",
        ) from error
    except GatedRepoError as error:
        raise _denied(f"{spec.uri} is gated: its files are given only to those who accepted its licence.") from error
    except RepositoryNotFoundError as error:
        raise user_error(
            "ModelNotFound",
            f"The hub has no model {spec.uri}, or it is private.",
            "Check the spelling of spec.model.uri; for a private model set HF_TOKEN.",
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in _DENIED:
            raise _denied(f"{spec.uri}: the hub denies access (HTTP {status}).") from error
        raise _unreachable(spec, endpoint, f"HTTP {status}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise _unreachable(spec, endpoint, str(error)) from error
    except Exception as error:
        # The HTTP client's own errors; which client that is has changed between versions of huggingface_hub.
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2", "requests"):
            raise _unreachable(spec, endpoint, str(error)) from error
        raise


def _denied(message: str) -> FinetuneError:
    given = "the one in HF_TOKEN may not" if os.environ.get("HF_TOKEN") else "HF_TOKEN is not set"
    return user_error(
        "ModelAccessDenied",
        message,
        f"Accept the licence on the model's page, and set HF_TOKEN to a token that may read it ({given}).",
    )


def _unreachable(spec: ModelSpec, endpoint: str | None, why: str) -> FinetuneError:
    where = f"{endpoint} (HF_ENDPOINT)" if endpoint else "the hub"
    reason = (why.strip().splitlines() or [""])[0][:300]
    return infrastructure_error(
        Reason.HUB_UNREACHABLE,
        f"{spec.uri} cannot be fetched: {where} does not answer as it should: {reason}",
        "Check the network, or name a local folder or a store (s3://…) in spec.model.uri.",
    )
