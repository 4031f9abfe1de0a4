"""A folder that `datasets.save_to_disk` wrote → its files.

In: a store and a folder in it. Out: the keys of the Arrow files that hold the set's rows, in the set's order; None when the
folder was written by something else. The library writes JSON files beside the rows, which are no rows; it may write several
splits into folders of one set, and then one of them must be named.
"""

from __future__ import annotations

from typing import Any, Final

from finetune_training.contract.failure import FinetuneError, data_error
from finetune_training.sources.cells import decoded
from finetune_training.store.storage import Store

_STATE: Final = "state.json"
"""Of one split: names the files with its rows."""
_SPLITS: Final = "dataset_dict.json"
"""Of a set with splits: names them."""
_ABOUT: Final = (_STATE, _SPLITS, "dataset_info.json")


def saved_files(store: Store, folder: str, *, uri: str, field: str) -> list[str] | None:
    """The keys of the files in the set that was saved to `folder` (which ends in `/`)."""
    if (splits := store.get(f"{folder}{_SPLITS}")) is not None:
        raise _which_split(
            _read(splits, f"{field}: {uri}/{_SPLITS}").get("splits") or store.folders(folder), uri, field
        )
    if (text := store.get(f"{folder}{_STATE}")) is None:
        return None
    state = _read(text, f"{field}: {uri}/{_STATE}")
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise data_error(
            "SavedWithIndices",
            f"{field}: {uri} was saved as a choice of rows of a larger set, which only `datasets` can make.",
            "Load it and save it anew: flatten_indices(), then save_to_disk.",
        )
    return [f"{folder}{file['filename']}" for file in state.get("_data_files", [])]


def without_descriptions(keys: list[str]) -> list[str]:
    """`keys` without the JSON files that describe a saved set whose Arrow files are there too: `saved/*` means rows."""
    folders = [_folder(key) for key in keys if key.endswith(".arrow")]
    return [
        key
        for key in keys
        if key.rsplit("/", 1)[-1] not in _ABOUT or not any(folder.startswith(_folder(key)) for folder in folders)
    ]


def _folder(key: str) -> str:
    return key[: key.rfind("/") + 1]


def _which_split(splits: list[str], uri: str, field: str) -> FinetuneError:
    return data_error(
        "SplitMissing",
        f"{field}: {uri} is a data set with the splits {', '.join(splits) or 'none'}, and none of them is named.",
        f"Write {uri}/{splits[0] if splits else 'train'}.",
    )


def _read(text: bytes, where: str) -> dict[str, Any]:
    try:
        state = decoded(text.decode())
    except ValueError as error:
        raise data_error("BrokenJSON", f"{where}: not JSON: {error}.", "Save the data set anew.") from None
    return state if isinstance(state, dict) else {}
