"""Checkpoints by name: anything that ``load_model`` reads, a training run's folder, an adapter of the base."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, MismatchError
from ..models import HookedTransformer, check_alike, load_model


@dataclass(frozen=True)
class Checkpoint:
    """A named source, with the revision or the adapter that makes a checkpoint of it."""

    name: str
    source: Any
    revision: str | None = None
    adapter: Path | None = None

    def load(self, **options: Any) -> HookedTransformer:
        """The checkpoint's model.

        Raises:
            SourceError, UnsupportedError, MismatchError, DownloadError: see ``load_model``.
        """
        return load_model(self.source, revision=self.revision, adapter=self.adapter, **options)


def named(sources: Mapping[str, Any] | Sequence[Any], base: Any) -> list[Checkpoint]:
    """Checkpoints of sources, in order: under the names of a mapping, or named after themselves.

    Raises:
        ArgumentError: no source, or two of one name.
    """
    pairs = list(sources.items()) if isinstance(sources, Mapping) else [(None, source) for source in sources]
    if not pairs:
        raise ArgumentError("one checkpoint or more", "none")
    found = [_checkpoint(name, source, base) for name, source in pairs]
    names = [each.name for each in found]
    if len({*names, "base"}) <= len(names):
        raise ArgumentError("checkpoints of different names, none of them 'base'", ", ".join(names), "pass a mapping")
    return found


def _checkpoint(name: str | None, source: Any, base: Any) -> Checkpoint:
    """A hub name may carry ``@revision``; of a run's folder its model is taken, or else its adapter."""
    if not isinstance(source, (str, Path)):
        return Checkpoint(name or type(source).__name__, source)
    path = Path(source).expanduser()
    if not path.exists():
        hub, at, revision = str(source).partition("@")
        return Checkpoint(name or str(source), hub, revision if at else None)
    own = name or path.name
    for folder in (path, path / "adapter"):
        whole = (folder / "config.json").is_file() or (path / "model" / "config.json").is_file()
        if (folder / "adapter_config.json").is_file() and not whole:
            return Checkpoint(own, base, adapter=folder)
    return Checkpoint(own, path / "model" if (path / "model" / "config.json").is_file() else path)


def check_comparable(base: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise MismatchError unless a checkpoint's facts have the base's architecture, processing, dtype and tokenizer."""
    expected = "a checkpoint of the base's architecture, weight processing and dtype"
    check_alike({"model": base}, {"model": now}, expected, "compare models of one family", ("dtype", "bos"))
    if now["tokenizer"] != base["tokenizer"]:
        raise MismatchError("a checkpoint with the base's tokenizer", "another vocabulary", "load it with tokenizer=")
