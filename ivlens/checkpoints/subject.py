"""A checkpoint under comparison: its facts, known without loading where its files are unchanged, and its model."""

import gc
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..models import HookedTransformer, model_facts, tokenizer_digest
from ..records import write_text
from .sources import Checkpoint


@dataclass
class Subject:
    """One checkpoint; its model is loaded when a cell first needs it, and held until ``release``."""

    checkpoint: Checkpoint
    load: Callable[[Checkpoint], HookedTransformer]
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
            ledger = _read(self.ledger)
            if mark is None or mark not in ledger:
                model = self.model()
                ledger = _read(self.ledger) | {str(mark): model_facts(model) | {"tokenizer": tokenizer_digest(model)}}
                if mark is None:
                    self.known = ledger["None"]
                    return self.known
                write_text(self.ledger, json.dumps(ledger, indent=1))
            self.known = ledger[mark]
        return self.known

    def model(self) -> HookedTransformer:
        """The model, loaded once.

        Raises:
            SourceError, UnsupportedError, MismatchError, DownloadError: see ``load_model``.
        """
        if self.held is None:
            self.held = self.load(self.checkpoint)
        return self.held

    def release(self) -> None:
        """Let go of the model, so that the next one has its memory."""
        self.held = None
        gc.collect()


def _read(ledger: Path) -> dict[str, Any]:
    try:
        return json.loads(ledger.read_text(encoding="utf-8"))
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
