"""Checkpoints by name: anything that ``load_model`` reads, a training run's folder, an adapter of the base."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, SourceWarning
from ..models import HookedTransformer, adapter_tokenizer, check_alike, lacks_tokenizer, load_model, open_tokenizer


@dataclass(frozen=True)
class Checkpoint:
    """A named source, with the revision or the adapter that makes a checkpoint of it.

    ``tokenizer``: the source of the base's, for a checkpoint without one of its own.
    """

    name: str
    source: Any
    revision: str | None = None
    adapter: Path | None = None
    tokenizer: Any = None

    def loading(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of ``load_model``, with the base's tokenizer where the checkpoint has none, and a word of it."""
        if self.tokenizer is None or options.get("tokenizer") is not None:
            return dict(options)
        message = f"{self.name} has no tokenizer of its own; it is given the base's"
        warnings.warn(message, SourceWarning, stacklevel=3)
        return {**options, "tokenizer": self.tokenizer}

    def load(self, **options: Any) -> HookedTransformer:
        """The checkpoint's model.

        Raises:
            SourceError, UnsupportedError, MismatchError, DownloadError: see ``load_model``.
        """
        return load_model(self.source, revision=self.revision, adapter=self.adapter, **options)

    def load_tokenizer(self, **options: Any) -> Any:
        """The tokenizer that the checkpoint's model would have.

        Raises:
            SourceError: there is none.
        """
        given = options.get("tokenizer")
        if given is None and self.adapter is not None:
            given = adapter_tokenizer(self.adapter)
        return open_tokenizer(self.source, self.revision) if given is None else open_tokenizer(given)


def named(sources: Mapping[str, Any] | Sequence[Any], base: Any) -> list[Checkpoint]:
    """Checkpoints of sources, in order: under the names of a mapping, or named after themselves.

    Raises:
        ArgumentError: no source, or two of one name.
    """
    pairs = list(sources.items()) if isinstance(sources, Mapping) else [(None, source) for source in sources]
    if not pairs:
        raise ArgumentError("one checkpoint or more", "none")
    found = [_with_tokenizer(_checkpoint(name, source, base), base) for name, source in pairs]
    names = [each.name for each in found]
    if len({*names, "base"}) <= len(names):
        raise ArgumentError("checkpoints of different names, none of them 'base'", ", ".join(names), "pass a mapping")
    return found


def _checkpoint(name: str | None, source: Any, base: Any) -> Checkpoint:
    """A hub name may carry ``@revision``; of a run's folder its model is taken, or else its adapter."""
    if not isinstance(source, (str, Path)):
        return Checkpoint(name or type(source).__name__, source)
    path = Path(source).expanduser()
    if not str(source).strip() or not path.exists():  # an empty text would be the working directory
        hub, at, revision = str(source).partition("@")
        return Checkpoint(name or str(source), hub, revision if at else None)
    own = name or path.name
    for folder in (path, path / "adapter"):
        whole = (folder / "config.json").is_file() or (path / "model" / "config.json").is_file()
        if (folder / "adapter_config.json").is_file() and not whole:
            return Checkpoint(own, base, adapter=folder)
    return Checkpoint(own, path / "model" if (path / "model" / "config.json").is_file() else path)


def _with_tokenizer(checkpoint: Checkpoint, base: Any) -> Checkpoint:
    """The checkpoint, told where the base's tokenizer is if it has none; by a path that every process understands."""
    if not lacks_tokenizer(checkpoint.source):
        return checkpoint
    if isinstance(base, (str, Path)):
        path = Path(base).expanduser()
        return replace(checkpoint, tokenizer=path.absolute() if path.exists() else base)
    config = getattr(base, "config", None)
    return replace(checkpoint, tokenizer=getattr(base, "tokenizer", None) or getattr(config, "name_or_path", None))


def check_comparable(base: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise MismatchError unless a checkpoint's facts have the base's architecture, weight processing and dtype."""
    expected = "a checkpoint of the base's architecture, weight processing and dtype"
    check_alike({"model": base}, {"model": now}, expected, "compare models of one family", ("dtype",))
