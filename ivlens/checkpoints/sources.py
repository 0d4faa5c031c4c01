"""Checkpoints by name: anything that ``load_model`` reads, a training run's folder, an adapter of the base."""

import gc
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, HookError, SourceError, SourceWarning
from ..models import (
    Model,
    adapter_stack,
    adapter_tokenizer,
    check_alike,
    check_device,
    check_source,
    has_hooks,
    has_tokenizer,
    kind_of_device,
    lacks_tokenizer,
    load_model,
    model_facts,
    named_adapters,
    open_tokenizer,
)
from ..records.repair import BASE, TUNED
from .facts_cache import cached_facts
from .run_folders import NamedSource, run_of


@dataclass(frozen=True)
class CheckpointSource:
    """A named source, with the revision or adapter that makes it a checkpoint.

    ``adapter``: a folder, or several in their order, joined by plus signs.
    ``tokenizer``: for a checkpoint without its own, the source of the base's, or of its run's (``of_run``).
    """

    name: str
    source: Any
    revision: str | None = None
    adapter: Path | None = None
    tokenizer: Any = None
    of_run: bool = False

    @property
    def text(self) -> str:
        """The source as the command line takes it; empty for a model object."""
        source = self.adapter or self.source
        if not isinstance(source, (str, Path)):
            return ""
        return f"{source}@{self.revision}" if self.revision else str(source)

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of ``load_model``; a checkpoint without a tokenizer gets another, with a warning."""
        if self.tokenizer is None or options.get("tokenizer") is not None:
            return dict(options)
        message = f"{self.name} has no tokenizer of its own; it is given {'its run' if self.of_run else 'the base'}'s"
        warnings.warn(message, SourceWarning, stacklevel=3)
        return {**options, "tokenizer": self.tokenizer}

    def for_worker(self) -> "CheckpointSource":
        """The source for a worker, independent of its working directory.

        Raises:
            ArgumentError: a model object, which stays in this process.
        """
        if not isinstance(self.source, (str, Path)):
            raise ArgumentError(
                "checkpoints that a worker can load: names, folders or files",
                f"{self.name}: a {type(self.source).__name__} object",
                "save it, or use n_jobs=1",
            )
        path = Path(self.source).expanduser()
        source = path.absolute() if path.exists() else self.source
        return replace(self, source=source, adapter=self.adapter and _absolute(named_adapters(self.adapter)))


@dataclass
class CheckpointUnderTest:
    """One checkpoint of a comparison; its model is loaded when it is first needed, and held until ``release``.

    ``options`` go to ``load_model``; facts that are known without loading are in ``facts_folder``. ``checked`` says
    whether the facts of a loaded model were checked, which nobody changes until ``release``.
    """

    source: CheckpointSource
    options: Mapping[str, Any]
    facts_folder: Path
    loaded: Model | None = None
    known_facts: dict[str, Any] = field(default_factory=dict)
    opened_tokenizer: Any = None
    checked: bool = False

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return self.source.name

    @property
    def facts(self) -> dict[str, Any]:
        """The model's facts and kind of device, without loading it if its files are unchanged since the last time."""
        if not self.known_facts:
            adapter = self.source.adapter
            sources = [self.source.source, *(() if adapter is None else adapter_stack(adapter))]
            self.known_facts = cached_facts(self.facts_folder, sources, self.options, self._facts)
        return self.known_facts

    def _facts(self) -> dict[str, Any]:
        model = self.model()
        return model_facts(model) | {"device": kind_of_device(model), "n_ctx": model.cfg.n_ctx}

    def model(self) -> Model:
        """The model, loaded once.

        Raises:
            SourceError, UnsupportedError, MismatchError, DownloadError: see ``load_model``.
            HookError: hooks are active on a model object, so its numbers would not be the model's own.
        """
        if self.loaded is None:
            source = self.source
            self.loaded = load_model(source.source, revision=source.revision, adapter=source.adapter, **self.options)
        if has_hooks(self.loaded):
            raise HookError("a checkpoint without active hooks", f"some on {self.name}", "leave their context first")
        return self.loaded

    def tokenizer(self) -> Any:
        """The model's tokenizer, opened once, without loading the model.

        Raises:
            SourceError: there is none.
        """
        if self.loaded is not None:
            return self.loaded.tokenizer
        if self.opened_tokenizer is None:
            own, source = self.options.get("tokenizer"), self.source
            if own is None and source.adapter is not None:
                own = adapter_tokenizer(source.adapter)
            self.opened_tokenizer = (
                open_tokenizer(source.source, source.revision) if own is None else open_tokenizer(own)
            )
        return self.opened_tokenizer

    def release(self) -> None:
        """Free the model, so that the next one has its memory."""
        if self.loaded is not None:
            self.loaded, self.checked = None, False
            gc.collect()


def name_sources(named: Sequence[NamedSource], base: Any) -> list[CheckpointSource]:
    """Checkpoints of sources, in order, under their names or after their sources.

    Raises:
        ArgumentError: no source, or two of one name.
    """
    if not named:
        raise ArgumentError("one checkpoint or more", "none")
    checkpoints = [_with_tokenizer(_name_source(each.name, each.source, base), base) for each in named]
    names = [each.name for each in checkpoints]
    if len({*names, "base"}) <= len(names):
        raise ArgumentError("checkpoints of different names, none of them 'base'", ", ".join(names), "pass a mapping")
    return checkpoints


def check_sources(checkpoints: Iterable[CheckpointSource]) -> None:
    """Raise SourceError that names every checkpoint for which there is no model or adapter; no weights are read."""
    missing: dict[str, SourceError] = {}
    for each in checkpoints:
        try:
            if each.adapter is None:
                check_source(each.source, each.revision)
            else:  # of the base, which is checked itself
                adapter_stack(each.adapter)
        except SourceError as error:
            where = each.adapter or each.source
            missing[each.name if each.name == str(where) else f"{each.name} ({where!s:.200})"] = error
    if missing:
        came = "; ".join(f"{name}: {error.came}" for name, error in missing.items())
        raise SourceError("models that can be compared", came, next(iter(missing.values())).do)


def _absolute(adapters: Sequence[str]) -> Path:
    """Adapters in their order as one path, independent of the working directory."""
    return Path("+".join(str(Path(each).expanduser().absolute()) for each in adapters))


def _name_source(name: str | None, source: Any, base: Any) -> CheckpointSource:
    """A hub name may have ``@revision``; a run's folder stands for its model, or else its adapter; A+B for both."""
    if not isinstance(source, (str, Path)):
        return CheckpointSource(name or type(source).__name__, source)
    path = Path(source).expanduser()
    if len(adapters := named_adapters(source)) > 1:
        own = "+".join(Path(each).name for each in adapters)
        return CheckpointSource(name or own, base, adapter=_absolute(adapters))
    if not str(source).strip() or not path.exists():  # an empty text would be the working directory
        hub_name, separator, revision = str(source).partition("@")
        return CheckpointSource(name or str(source), hub_name, revision if separator else None)
    own = name or path.name
    for folder in (path, path / "adapter"):
        has_model = (folder / "config.json").is_file() or (path / "model" / "config.json").is_file()
        if (folder / "adapter_config.json").is_file() and not has_model:
            return CheckpointSource(own, base, adapter=folder)
    inner = path / "model"
    of_run = (inner / "config.json").is_file() and not (path / "config.json").is_file()
    return CheckpointSource(own, inner if of_run else path)


def _with_tokenizer(checkpoint: CheckpointSource, base: Any) -> CheckpointSource:
    """The checkpoint, with its run's tokenizer, or else the base's, if it has none of its own.

    Either is a path that every process can resolve.
    """
    folder = checkpoint.source if isinstance(checkpoint.source, Path) else None
    if checkpoint.adapter is not None:
        folder = Path(named_adapters(checkpoint.adapter)[-1])
    run = None if folder is None or has_tokenizer(folder) else run_of(folder)
    if run is not None and has_tokenizer(run):
        return replace(checkpoint, tokenizer=run, of_run=True)
    if not lacks_tokenizer(checkpoint.source):
        return checkpoint
    if isinstance(base, (str, Path)):
        path = Path(base).expanduser()
        return replace(checkpoint, tokenizer=path.absolute() if path.exists() else base)
    config = getattr(base, "config", None)
    return replace(checkpoint, tokenizer=getattr(base, "tokenizer", None) or getattr(config, "name_or_path", None))


def two_checkpoints(
    base: Any, tuned: Any, options: Mapping[str, Any], facts_folder: Path
) -> tuple[CheckpointUnderTest, CheckpointUnderTest]:
    """The two models, not loaded yet.

    Raises:
        SourceError: one of them does not exist.
    """
    check_device(options.get("device"))
    sources = [CheckpointSource(BASE, base), *name_sources([NamedSource(TUNED, tuned)], base)]
    check_sources(sources)
    first, second = (CheckpointUnderTest(each, each.options(options), facts_folder) for each in sources)
    return first, second


def check_comparable(base: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise MismatchError unless a checkpoint's ``own`` facts have the base's architecture, processing and dtype."""
    expected = "a checkpoint of the base's architecture, weight processing and dtype"
    check_alike({"model": base}, {"model": own}, expected, "compare models of one family", ("dtype",))
