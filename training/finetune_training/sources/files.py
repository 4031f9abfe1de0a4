"""Globs → files in object stores.

In: a source's URI, which may be a glob (`*`, `?`, `[…]` within a name, `**` across folders), or a folder that `datasets`
has saved. Out: the files it names, sorted, and each of them as a seekable stream. A pattern is walked folder by folder, so
that `data/*.jsonl` never lists what lies below `data/raw/`. What is really called so goes before what a pattern would find:
`a[1].jsonl` is a file that a browser has written. Names that begin with `.` or `_` are no data (Spark's `_SUCCESS`); a
pattern must say them.
"""

from __future__ import annotations

import difflib
import io
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from finetune_training.contract.failure import FinetuneError, data_error
from finetune_training.sources.saved import saved_files, without_descriptions
from finetune_training.store.storage import Entry, Store, open_store

_MAGIC = re.compile(r"[*?\[]")
_GLOB = {"*": "[^/]*", "?": "[^/]"}
_BUFFER = 4 * 2**20


@dataclass(frozen=True)
class File:
    """One file of a source. `root` and `key` say where it is, `uri` says it to people."""

    root: str
    key: str
    size: int
    e_tag: str

    @property
    def uri(self) -> str:
        return f"{self.root.rstrip('/')}/{self.key}"

    def open(self) -> io.RawIOBase:
        """The file as a seekable stream in which each read is one request."""
        return _Object(self)

    def buffered(self) -> io.BufferedReader:
        """The file as a stream that is read in large pieces."""
        return io.BufferedReader(self.open(), buffer_size=_BUFFER)


def find_files(uri: str, *, field: str) -> list[File]:
    """The files that `uri` names, in the order of their names. None: a Data error that says what is there instead;
    `field` is where the URI stands in the spec."""
    root, pattern = _locate(uri)
    found = {entry.key: entry for entry in _named(root, pattern) if not entry.key.endswith("/")}
    keys = without_descriptions(sorted(found))
    if not keys:
        saved = saved_files(root, f"{pattern}/", uri=uri.rstrip("/"), field=field) if pattern else None
        if not saved:
            raise _no_file(root, pattern, uri=uri, field=field)
        found, keys = {key: _head(root, key, field=field) for key in saved}, saved
    return [File(root.uri, key, found[key].size, found[key].e_tag) for key in keys]


def _named(store: Store, pattern: str) -> list[Entry]:
    literal = store.head(pattern) if pattern else None
    return [literal] if literal else _expand(store, pattern.split("/"))


def _head(store: Store, key: str, *, field: str) -> Entry:
    entry = store.head(key)
    if entry is None:
        uri = f"{store.uri.rstrip('/')}/{key}"
        raise data_error("NoFile", f"{field}: {uri} is missing, which is a part of its data set.", "Save the set anew.")
    return entry


def _locate(uri: str) -> tuple[Store, str]:
    """The whole bucket or file system behind `uri`, and the key or pattern in it."""
    if uri.startswith("file://") or "://" not in uri:
        path = unquote(uri.removeprefix("file://")) if uri.startswith("file://") else os.path.expanduser(uri)
        return Store("/"), os.path.abspath(path).lstrip("/")
    open_store(uri)  # raises for a scheme that no store has
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    return _store(f"{scheme}://{bucket}"), key.rstrip("/")


def _expand(store: Store, parts: list[str]) -> list[Entry]:
    folders = [""]
    for place, part in enumerate(parts[:-1]):
        if part == "**":
            return [entry for folder in folders for entry in _below(store, folder, parts[place:])]
        if _MAGIC.search(part):
            folders = [f"{folder}{name}/" for folder in folders for name in _fitting(store.folders(folder), part)]
        else:
            folders = [f"{folder}{part}/" for folder in folders]
    name = parts[-1]
    if name == "**":
        return [entry for folder in folders for entry in _below(store, folder, ["**", "*"])]
    if _MAGIC.search(name):
        files = [{_last(entry.key): entry for entry in store.files(folder)} for folder in folders]
        return [there[found] for there in files for found in _fitting(list(there), name)]
    heads = [store.head(f"{folder}{name}") for folder in folders if name]
    return [head for head in heads if head is not None]


def _below(store: Store, folder: str, parts: list[str]) -> list[Entry]:
    """The objects below `folder` whose path fits `parts`, the first of which is `**`."""
    shown = r"(?![._])"
    pattern = "".join(
        rf"(?:{shown}[^/]+/)*"
        if part == "**"
        else (shown if part.startswith("*") else "")
        + f"(?:{re.escape(part)}|{_segment(part)})"
        + ("" if place == len(parts) - 1 else "/")
        for place, part in enumerate(parts)
    )
    return [entry for entry in store.entries(folder) if re.fullmatch(pattern, entry.key[len(folder) :])]


def _fitting(names: list[str], pattern: str) -> list[str]:
    """Those of `names` that `pattern` means: the one that is called so, else all that it describes."""
    if pattern in names:
        return [pattern]
    shown = (name for name in names if not name.startswith((".", "_")) or pattern.startswith(name[0]))
    return [name for name in shown if re.fullmatch(_segment(pattern), name)]


def _segment(pattern: str) -> str:
    """A glob within one name as a regular expression that stays within it."""
    pieces = re.split(r"(\*|\?|\[!?[^\]]+\])", pattern)
    return "".join(
        _GLOB.get(piece) or (_class(piece) if place % 2 else re.escape(piece)) for place, piece in enumerate(pieces)
    )


def _class(piece: str) -> str:
    negated = piece.startswith("[!")
    members = piece[2 if negated else 1 : -1].replace("\\", "\\\\").replace("^", r"\^")
    return f"[^/{members}]" if negated else f"[{members}]"


def _last(key: str) -> str:
    return key.rsplit("/", 1)[-1]


def _no_file(store: Store, pattern: str, *, uri: str, field: str) -> FinetuneError:
    """Walk as deep as the pattern's folders exist, and say what is there instead of the next step."""
    folder, parts = "", pattern.split("/")
    for place, part in enumerate(parts):
        names = [f"{name}/" for name in store.folders(folder)] + [_last(entry.key) for entry in store.files(folder)]
        if place == len(parts) - 1 or f"{part}/" not in names:
            break
        folder += f"{part}/"
    if f"{parts[-1]}/" in names and place == len(parts) - 1:
        ending = _ending(store, f"{folder}{parts[-1]}/")
        hint = f"It is a folder: write {uri.rstrip('/')}/*{ending}, or /**/*{ending} for the folders below it too."
    else:
        hint = "Mend the URI, or put the data there."
    where = f"{store.uri.rstrip('/')}/{folder}"
    there = ", ".join(_nearest(part, names)) or "nothing"
    return data_error("NoFile", f"{field}: no file matches {uri}. In {where} there is: {there}.", hint)


def _ending(store: Store, folder: str) -> str:
    """How most of the files in `folder` end."""
    endings = [os.path.splitext(entry.key)[1] for entry in store.files(folder)]
    return max((ending for ending in endings if ending), key=endings.count, default=".jsonl")


def _nearest(name: str, names: list[str], limit: int = 5) -> list[str]:
    close = difflib.get_close_matches(name, names, n=limit, cutoff=0.4)
    rest = [other for other in names if other not in close and not other.startswith(".")]
    shown = (close + sorted(rest))[:limit]
    return [*shown, f"and {len(names) - len(shown)} more"] if len(names) > len(shown) else shown


@lru_cache(maxsize=16)
def _store(uri: str) -> Store:
    return Store(uri)


class _Object(io.RawIOBase):
    """An object as a file for readers that seek (Parquet) or stream (below a BufferedReader)."""

    def __init__(self, file: File) -> None:
        self._file, self._store, self._position = file, _store(file.root), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._file.size - self._position)
        if length <= 0:
            return 0
        try:
            data = self._store.get_range(self._file.key, start=self._position, length=length)
        except FileNotFoundError:
            raise data_error("NoFile", f"{self._file.uri} has been deleted since the run began.") from None
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
