"""Where a model is: a folder or file here, a packaged model, or a repository of the hub; and whether there is one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import SourceError, reason, with_article
from ..text import did_you_mean
from .model_folder import CONFIG, read_config
from .outside_errors import REMEDY, without_bars
from .packaged import PACKAGED

WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")  # of a hub repository: no pickles, no code


def local_path(source: str | Path) -> Path | None:
    """The folder or GGUF file that a source names, None where nothing of that name is here.

    Raises:
        SourceError: an empty name, a GGUF file that does not exist, or a file of another kind.
    """
    text, path = str(source), Path(source).expanduser()
    if not text.strip():
        raise SourceError("a model's name or path", f"an empty one, {text!r:.60}", REMEDY)
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise SourceError("a GGUF file", f"{text:.200}, which does not exist", f"{_similar(text)}{REMEDY}")
        return path
    if not path.exists():
        return None
    if not path.is_dir():
        raise SourceError("a folder or a .gguf file", f"the file {text:.200}", REMEDY)
    return path


def check_source(source: Any, revision: str | None = None) -> None:
    """Raise SourceError where there is no model; its config is read or fetched at most, never its weights."""
    if isinstance(source, torch.nn.Module):
        return
    if not isinstance(source, (str, Path)):
        raise SourceError("a model source", with_article(type(source).__name__), REMEDY)
    text, path = str(source), local_path(source)
    if path is None and text not in PACKAGED:
        path, _ = hub_model(text, revision, [CONFIG])
    if path is not None and path.is_dir():
        read_config(path, text)


def hub_model(name: str, revision: str | None, files: Sequence[str] = WANTED) -> tuple[Path, str]:
    """The folder of a hub model and its commit.

    Raises:
        SourceError: there is no folder, no packaged model and no hub model of that name.
    """
    try:
        with without_bars():
            return hub_folder(name, revision, files)
    except Exception as error:  # of the hub, the network or the cache
        came = f"no such folder, no packaged model of that name, and {hub_answer(error)}"
        if isinstance(error, HFValidationError):
            came = "no such folder and no packaged model of that name"
        raise SourceError(f"a readable model at {name:.200}", came, f"{_similar(name)}{REMEDY}") from error


def hub_folder(name: str, revision: str | None, files: Sequence[str] = WANTED) -> tuple[Path, str]:
    """The folder of a hub repository with its files of those names, fetched where they are not cached, and its commit.

    Raises whatever the hub's library does.
    """
    ignored = ["*/*", "consolidated*"]
    folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(files), ignore_patterns=ignored))
    return folder, folder.name


def hub_answer(error: Exception) -> str:
    """What the hub's library says of a name, in a few words."""
    match error:
        case HFValidationError():
            return "no hub name is written so"
        case LocalEntryNotFoundError():
            return "the Hugging Face hub could not be reached"
        case RepositoryNotFoundError() if not isinstance(error, GatedRepoError):
            return "none on the Hugging Face hub that you may read"
        case RevisionNotFoundError():
            return "not that revision on the Hugging Face hub"
    return f"the Hugging Face hub says {reason(error, 200)}"


def _similar(name: str) -> str:
    """A question after the packaged model, or the folder or GGUF file beside, that is called almost like that."""
    path = Path(name).expanduser()
    try:
        models = [each.name for each in path.parent.iterdir() if each.is_dir() or each.suffix == ".gguf"]
        beside = [str(path.with_name(each)) for each in models]
    except (OSError, ValueError):
        beside = []
    question = did_you_mean(str(path), [*PACKAGED, *beside])
    return f"{question} If not, " if question else ""
