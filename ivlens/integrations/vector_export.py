"""``export_vector``: a vector to another tool, and what it loses there."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..checks import checked
from ..errors import ArgumentError, brief
from ..models import Model, check_export
from ..records import ConditionComparison
from ..stats import Interval, paired_drop
from ..steering import Tokens, compare_conditions, steer
from ..tasks import Prompt
from ..vectors import InstructionVector
from ..vocabulary import Site
from .vector_files import Steered
from .vector_formats import FORMATS, VectorFormatName

PLAIN, STEERED, EXPORTED = "no vector", "as steered", "at all positions"
log = logging.getLogger("ivlens")


@dataclass(frozen=True)
class VectorExport:
    """What ``export_vector`` wrote, and what the vector does there; its text says it in words.

    ``comparison`` has the validation prompts without the vector, as it is steered, and as the other tool adds it; None
    where there was nothing to measure. ``remarks`` say what the file does not.

    Example:
        >>> made = iv.export_vector(model, vector, tmp_path / "v.gguf", 1, 2.0, "last", "resid_post",
        ...     format="gguf", validation=prompts)
        >>> made.comparison.n, made.lost.value <= 1
        (4, True)
    """

    path: Path
    format: str
    comparison: ConditionComparison | None = None
    remarks: tuple[str, ...] = ()

    @property
    def lost(self) -> Interval | None:
        """Accuracy as steered minus accuracy as exported, with its 95% interval; None where it was not measured."""
        if self.comparison is None:
            return None
        correct = dict(zip(self.comparison.conditions, self.comparison.correct, strict=True))
        return paired_drop(correct[STEERED], correct[EXPORTED])

    def __str__(self) -> str:
        return "; ".join([f"{self.path}: {FORMATS[self.format].tools}", *self.remarks, *self._measured()])  # type: ignore[index]

    def _measured(self) -> list[str]:
        if self.comparison is None or (lost := self.lost) is None:
            return []
        shares = ", ".join(f"{self.comparison.accuracy(each):.1%} {each}" for each in self.comparison.conditions)
        interval = f"{lost.value:.1%}, 95% interval {lost.low:.1%} to {lost.high:.1%}"
        return [f"correct of {self.comparison.n} validation prompts: {shares}; lost: {interval}"]


@checked
@torch.no_grad()
def export_vector(
    model: Model,
    vector: InstructionVector,
    path: str | Path,
    layer: int,
    scale: float = 1.0,
    position: Tokens = "last",
    site: Site = "resid_pre",
    *,
    format: VectorFormatName,
    validation: Sequence[Prompt] | None = None,
) -> VectorExport:
    """Write a vector for another tool, after measuring what it loses there.

    Most tools add a vector at all positions of a prompt and of what follows. Where it was to be added elsewhere, the
    export first measures it as it was meant and as the tool adds it, on ``validation``, and says what is lost.

    Args:
        model: the model that it steers.
        vector: the vector.
        path: the file to write, which is replaced; for "hf" a new or empty folder, or an earlier export.
        layer: see ``steer``.
        scale: see ``steer``; where the format has no field for it, it is in the values.
        position: see ``steer``.
        site: see ``steer``; the input of a layer is written as the output of the one before where a tool counts so.
        format: "gguf", a control vector for llama.cpp (``--control-vector``) and repeng; "easysteer", the same with
            EasySteer's metadata; "lm-eval", for its model "steered" (``steer_path``); "neuronpedia", the fields of a
            new vector; "hf", the model as a Hugging Face folder with the vector in a bias.
        validation: prompts to measure on, such as ``task.prompts(20, shots=0, instruction=False, split="validation")``;
            needed where the tool adds the vector elsewhere than ``position`` says.

    Returns:
        The path, and what was measured; ``print`` says it in words.

    Raises:
        ArgumentError: no validation prompts where they are needed, or see ``steer``.
        UnsupportedError: the format cannot say the layer or the site, or the family has no bias that takes the vector.
        MismatchError: see ``steer``.
        RecordError: the file cannot be written.

    Example:
        >>> made = iv.export_vector(model, vector, tmp_path / "v.gguf", 1, 2.0, "all", "resid_post", format="gguf")
        >>> iv.import_vector(made.path).layer
        1
    """
    kind = FORMATS[format]
    as_steered = steer(model, vector, layer, scale, position, site)
    steered = Steered(model, vector, layer, scale, position, site)
    kind.check(steered)
    if kind.folder:
        check_export(Path(path))
    if kind.everywhere and position != "all" and not validation:
        raise ArgumentError(
            f"validation=prompts, since {kind.tools} adds a vector at all positions, not at {brief(position)}", "none",
            "pass validation=task.prompts(20, shots=0, instruction=False, split='validation'), or position='all'",
        )  # fmt: skip
    comparison = None
    if validation:
        everywhere = steer(model, vector, layer, scale, "all", site)
        conditions: dict[str, Any] = {PLAIN: None, STEERED: as_steered, EXPORTED: everywhere}
        settings = {
            name: value for name, value in steered.facts().items() if name not in ("task", "measured", "provenance")
        }
        comparison = compare_conditions(
            model, {name: (validation, context) for name, context in conditions.items()}, task=vector.task, **settings
        )
        measured = {name: comparison.accuracy(name) for name in conditions} | {"n": comparison.n}
        steered = replace(steered, measured=measured)
    kind.write(steered, Path(path))
    made = VectorExport(Path(path), format, comparison, tuple(_remarks(steered, format)))
    log.info(str(made))
    return made


def _remarks(steered: Steered, format: VectorFormatName) -> list[str]:
    """What a reader of the file has to know."""
    kind, said = FORMATS[format], []
    if not kind.everywhere:
        said.append(f"its request has to say at which positions: here {brief(steered.position)}")
    if not kind.exact and steered.vector.values.dtype == torch.float64:
        said.append("values are rounded to float32")
    if format == "neuronpedia":
        said.append("modelId to be set to the model's name there, strength_multiplier of requests to 1")
    return said
