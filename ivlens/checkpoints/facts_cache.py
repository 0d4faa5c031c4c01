"""A cache of checkpoints' facts, valid while their files hold the same bytes, so that they need not be loaded."""

import json
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import torch

from ..files import write_text
from ..models import PACKAGED, package_versions, tokenizer_sha256
from ..tensor_files import seal, unseal

TEMPLATES = "additional_chat_templates"  # a folder with a tokenizer's templates within a model's
NEVER_READ = {".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".md", ".png"}
SETTLED = 2.0  # seconds after which another write changes a file's times for certain

Facts = dict[str, Any]


def cached_facts(
    folder: Path, sources: Sequence[Any], options: Mapping[str, Any], compute: Callable[[], Facts]
) -> Facts:
    """Facts of a model as loaded from ``sources`` with options, computed once and cached in ``folder``.

    They are valid while the same packages would load the same bytes. A file with unchanged size, inode and times
    (including ctime, which only the system sets) is not read again; any other is hashed. Nothing is cached for objects
    and hub names, whose changes would not be noticed.
    """
    try:
        files = _files([*sources, *_tokenizer_files(options)])
        before = {str(path): file_times(path) for path in files}
    except OSError:  # loading reports why
        return compute()
    key = _key(sources, options) if files else None
    if key is None:
        return compute()
    path = folder / f"{sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]}.json"
    kept = _read(path, key)
    contents = {str(file): _content(file, kept.get("contents", {}).get(str(file))) for file in files}
    facts = kept["facts"] if kept and _hashes(kept["contents"]) == _hashes(contents) else compute()
    entry = {"key": key, "contents": contents, "facts": facts}
    if entry != kept and before == {str(file): file_times(file) for file in files}:
        write_text(path, seal(entry))
    return facts


def _read(path: Path, key: Mapping[str, Any]) -> Facts:
    """The entry under the key; None, with a warning, where the file is damaged or belongs to another key."""
    if not path.exists():
        return {}
    kept = unseal(path.read_bytes()) if path.is_file() else None
    if kept is None or kept.get("key") != key:
        warnings.warn(f"ivlens: {path} is damaged; the checkpoint is loaded again", stacklevel=2)
        return {}
    return kept


def _key(sources: Sequence[Any], options: Mapping[str, Any]) -> Facts | None:
    """A key for how the files are loaded; None where an option has no lasting name."""
    named = {name: _name_of(value) for name, value in options.items() if name != "device"}
    if None in named.values():
        return None
    device = torch.device(options.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")).type
    paths = [os.path.realpath(_local(each)) for each in sources]
    return {"of": paths, "options": named, "device": device, "with": package_versions()}


def _name_of(value: Any) -> str | None:
    if value is None or isinstance(value, (str, Path, bool, torch.dtype)):
        return str(value)
    return tokenizer_sha256(value) if hasattr(value, "get_vocab") else None


def _tokenizer_files(options: Mapping[str, Any]) -> list[str | Path]:
    tokenizer = options.get("tokenizer")
    return [tokenizer] if isinstance(tokenizer, (str, Path)) else []


def _files(sources: Sequence[Any]) -> list[Path]:
    """The files that loading reads; none where it reads anything but local files."""
    files: list[Path] = []
    for source in sources:
        path = _local(source) if isinstance(source, (str, Path)) else None
        if path is None or not path.exists():
            return []
        inside = [path] if path.is_file() else [*path.iterdir(), *path.glob(f"{TEMPLATES}/*")]
        files += [file for file in inside if file.suffix not in NEVER_READ and file.is_file()]
    return sorted(files)


def _local(source: str | Path) -> Path:
    """The path that a source names, or the folder of a packaged model."""
    path, packaged = Path(source).expanduser(), PACKAGED.get(str(source))
    return path if packaged is None or path.exists() else packaged.folder


def _content(path: Path, kept: Mapping[str, Any] | None) -> Facts:
    """A file's digest, cached or computed; times that are too recent to reveal a later write are omitted."""
    times: list[int] | None = file_times(path)
    if kept and kept["times"] == times:
        return dict(kept)
    if time.time() - path.stat().st_ctime < SETTLED:
        times = None
    with path.open("rb") as file:
        return {"sha256": file_digest(file, "sha256").hexdigest(), "times": times}


def file_times(path: Path) -> list[int]:
    """Size, times of the last write and change, and inode."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _hashes(contents: Mapping[str, Any]) -> dict[str, str]:
    return {name: each["sha256"] for name, each in contents.items()}
