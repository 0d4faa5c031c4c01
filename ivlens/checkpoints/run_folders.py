"""Folders of whole training runs: the checkpoints that the Trainer of transformers, or what builds on it, left there.

TRL, LLaMA-Factory and Axolotl save ``checkpoint-N`` after N steps, models or adapters, and at the end the last model
in the run's folder itself.
"""

import filecmp
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..models.model_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG

STEP = re.compile(r"checkpoint-(\d+)")


class NamedSource(NamedTuple):
    """A checkpoint's source, its name where it was given one, and the number of the source that it comes from."""

    name: str | None
    source: Any
    number: int = 0


def with_runs(sources: Mapping[str, Any] | Sequence[Any]) -> list[NamedSource]:
    """The sources in order; the folder of a run stands for its checkpoints by their steps, then what itself holds.

    A run's checkpoints are called after it and the step, as in ``run-100``. What the folder holds is left out where it
    is the last checkpoint again.
    """
    pairs = list(sources.items()) if isinstance(sources, Mapping) else [(None, source) for source in sources]
    found: list[NamedSource] = []
    for number, (name, source) in enumerate(pairs):
        saved = checkpoints_of_run(source) if isinstance(source, (str, Path)) else {}
        own = name or (Path(source).expanduser().resolve().name if saved else None)
        found += [NamedSource(f"{own}-{step}", folder, number) for step, folder in saved.items()]
        if not saved or _holds_another(Path(source).expanduser(), [*saved.values()][-1]):
            found.append(NamedSource(own, source, number))
    return found


def checkpoints_of_run(folder: str | Path) -> dict[int, Path]:
    """The checkpoints in a run's folder by their steps, in order; empty for any other source."""
    path = Path(folder).expanduser()
    if not str(folder).strip() or not path.is_dir():
        return {}
    steps = {int(match[1]): each for each in path.iterdir() if (match := STEP.fullmatch(each.name))}
    return {step: steps[step] for step in sorted(steps) if _is_model(steps[step])}


def run_of(folder: Path) -> Path | None:
    """The run's folder of one of its checkpoints, None for any other folder."""
    return folder.absolute().parent if STEP.fullmatch(folder.name) else None


def _is_model(folder: Path) -> bool:
    return (folder / CONFIG).is_file() or (folder / ADAPTER_CONFIG).is_file()


def _holds_another(run: Path, last: Path) -> bool:
    """Whether a run's folder holds a model or adapter of its own, with other weights than its last checkpoint."""
    if not _is_model(run):
        return False
    weights = [*run.glob("model*.safetensors"), *run.glob(ADAPTER_WEIGHTS)]
    same = [(last / each.name).is_file() and filecmp.cmp(each, last / each.name, shallow=False) for each in weights]
    return not weights or not all(same)
