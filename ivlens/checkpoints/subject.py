"""A checkpoint under comparison: its facts, known without loading where its files are unchanged, and its model."""

import gc
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import HookError
from ..models import HookedTransformer, has_hooks, kind_of_device, model_facts
from .facts import recall_facts
from .sources import Checkpoint


@dataclass
class Subject:
    """One checkpoint; its model is loaded when a cell first needs it, and held until ``release``.

    ``options`` go to ``load_model``; ``ledger`` is the folder of facts, see ``recall_facts``.
    """

    checkpoint: Checkpoint
    options: Mapping[str, Any]
    ledger: Path
    held: HookedTransformer | None = None
    known: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return self.checkpoint.name

    @property
    def facts(self) -> dict[str, Any]:
        """The model's facts and kind of device: those of the last time for the same files."""
        if not self.known:
            self.known = recall_facts(self.ledger, self.checkpoint, self.options, self._facts)
        return self.known

    def _facts(self) -> dict[str, Any]:
        model = self.model()
        return model_facts(model) | {"device": kind_of_device(model)}

    def model(self) -> HookedTransformer:
        """The model, loaded once.

        Raises:
            SourceError, UnsupportedError, MismatchError, DownloadError: see ``load_model``.
            HookError: hooks are active on a model object, whose numbers would be kept as the model's own.
        """
        if self.held is None:
            self.held = self.checkpoint.load(**self.options)
        if has_hooks(self.held):
            raise HookError("a checkpoint without active hooks", f"some on {self.name}", "leave their context first")
        return self.held

    def tokenizer(self) -> Any:
        """The model's tokenizer, read alone where the model is not held."""
        return self.held.tokenizer if self.held else self.checkpoint.load_tokenizer(**self.options)

    def release(self) -> None:
        """Let go of the model, so that the next one has its memory."""
        self.held = None
        gc.collect()
