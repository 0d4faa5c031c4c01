"""A checkpoint under comparison: its facts, known without loading where its files are unchanged, and its model."""

import gc
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..models import HookedTransformer, model_facts, tokenizer_digest
from ..records import write_text
from .sources import Checkpoint


@dataclass
class Subject:
    """One checkpoint; its model is loaded when a cell first needs it, and held until ``release``.

    ``options`` go to ``load_model``; ``ledger`` is the folder of facts, a file for each state of a checkpoint's files.
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
        """The model's facts and its tokenizer's hash: those of the last time, while the files are the same."""
        if not self.known:
            mark = _fingerprint(self.checkpoint)
            kept = None if mark is None else self.ledger / f"{sha256(mark.encode()).hexdigest()[:16]}.json"
            self.known = {} if kept is None else _read(kept)
            if not self.known:
                model = self.model()
                self.known = model_facts(model) | {"tokenizer": tokenizer_digest(model)}
                if kept is not None:
                    write_text(kept, json.dumps(self.known, indent=1))
        return self.known

    def model(self) -> HookedTransformer:
        """The model, loaded once.

        Raises:
            SourceError, UnsupportedError, MismatchError, DownloadError: see ``load_model``.
        """
        if self.held is None:
            self.held = self.checkpoint.load(**self.options)
        return self.held

    def tokenizer(self) -> Any:
        """The model's tokenizer, read alone where the model is not held."""
        return self.held.tokenizer if self.held else self.checkpoint.load_tokenizer(**self.options)

    def release(self) -> None:
        """Let go of the model, so that the next one has its memory."""
        self.held = None
        gc.collect()


def _read(facts: Path) -> dict[str, Any]:
    try:
        return json.loads(facts.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _fingerprint(checkpoint: Checkpoint) -> str | None:
    """Names, sizes and times of a local source's files; None for what can change unseen (objects, hub names)."""
    folders = [checkpoint.source] if checkpoint.adapter is None else [checkpoint.source, checkpoint.adapter]
    marks = []
    for each in folders:
        if not isinstance(each, (str, Path)) or not Path(each).expanduser().exists():
            return None
        path = Path(each).expanduser().resolve()
        files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
        marks.append([str(path), *((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)])
    return json.dumps(marks)
