"""``import_vector``: a vector of another tool, with how it is to be added."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..checks import checked
from ..errors import ArgumentError, RecordError, brief, few
from ..models import Model
from ..steering import Steering, Tokens, steer
from ..vectors import InstructionVector
from ..vocabulary import POSITIONS, Site
from .vector_files import Direction
from .vector_formats import read_directions

log = logging.getLogger("ivlens")


@dataclass(frozen=True)
class ImportedVector:
    """A vector of another tool's file, and how that tool adds it, as arguments of ``steer``.

    ``assumed`` names those that the file does not say and that were not given: they are the tool's default.

    Example:
        >>> iv.import_vector(control_vector).assumed
        ('scale', 'position')
    """

    vector: InstructionVector
    layer: int
    scale: float
    position: Tokens
    site: Site
    assumed: tuple[str, ...] = ()

    @checked
    def steer(self, model: Model) -> Steering:
        """``steer`` with this vector.

        Args:
            model: the model to steer.

        Returns:
            A context, see ``steer``.

        Raises:
            MismatchError: the vector has another width, or is of a model that does not fit.

        Example:
            >>> with iv.import_vector(control_vector).steer(model):
            ...     steered = iv.evaluate(model, prompts)
            >>> steered.n
            4
        """
        return steer(model, self.vector, self.layer, self.scale, self.position, self.site)


@checked
def import_vector(
    path: str | Path,
    *,
    layer: int | None = None,
    site: Site | None = None,
    scale: float | None = None,
    position: Tokens | None = None,
) -> ImportedVector:
    """Read a vector of llama.cpp, repeng, EasySteer, lm-eval, steering-vectors or Neuronpedia.

    What kind of file it is shows in its content. Files of ``torch.save`` are read as data: nothing in them is run.

    Args:
        path: a GGUF control vector; a file of ``torch.save`` with what lm-eval's model "steered" loads, a
            ``SteeringVector`` or its ``layer_activations``, or one tensor; or Neuronpedia's JSON.
        layer: which of the file's vectors, by its layer there; or, where the file says none, the layer.
        site: where in the layer (None: what the file says, or its output, to which these tools add).
        scale: factor (None: what the file says, or 1).
        position: see ``steer`` (None: what ivlens wrote into the file, or "all", as these tools add it).

    Returns:
        The vector with layer, scale, position and site; it says which of them are assumed.

    Raises:
        RecordError: no such file, a damaged one, a pickle, or one of another format.
        ArgumentError: the file has several layers, and none was named; or no such layer; or no layer at all.
        UnsupportedError: what the file holds is not added to the residual stream.

    Example:
        >>> happy = iv.import_vector(control_vector, layer=1, scale=0.5)
        >>> happy.layer, happy.site, happy.position
        (1, 'resid_post', 'all')
    """
    path = Path(path)
    found = _chosen(path, read_directions(path), layer)
    facts = _facts(path, found)
    said = {"scale": found.scale, "position": found.position if found.position is not None else facts.get("position")}
    if facts and said["scale"] is None:
        said["scale"] = 1.0  # it is in the values
    given = {"scale": scale, "position": position}
    assumed = tuple(name for name in given if given[name] is None and said[name] is None)
    taken = {name: given[name] if given[name] is not None else said[name] for name in given}
    origin = dict(facts.get("provenance") or {}) | {"imported from": path.name}
    task = found.task or str(facts.get("task") or path.stem)
    vector = InstructionVector(found.values, found.values.new_zeros(0, len(found.values)), (), task, provenance=origin)
    if assumed:
        log.info(f"{path} does not say {' and '.join(assumed)}: all positions and a scale of 1 are assumed")
    at = found.layer if layer is None else layer
    return ImportedVector(
        vector, cast(int, at), 1.0 if taken["scale"] is None else float(cast(float, taken["scale"])),
        "all" if taken["position"] is None else cast(Tokens, taken["position"]), site or found.site, assumed,
    )  # fmt: skip


def _chosen(path: Path, found: list[Direction], layer: int | None) -> Direction:
    """The direction of the layer; the only one where none is named."""
    layers = [each.layer for each in found if each.layer is not None]
    if not layers:
        if layer is None:
            raise ArgumentError(f"layer=, since {path} does not say to which layer's output it is added", "none")
        return found[0]
    if layer is None and len(found) > 1:
        raise ArgumentError(
            f"layer=, one of those in {path}: {few(layers, 60)}", "none",
            "contexts of steer add up, so that several layers are imported one by one",
        )  # fmt: skip
    for each in found:
        if layer in (None, each.layer):
            return each
    raise ArgumentError(f"a layer that {path} has: {few(layers, 60)}", brief(layer))


def _facts(path: Path, found: Direction) -> Mapping[str, Any]:
    """The facts that ivlens wrote beside a vector, checked."""
    facts = found.facts
    position, provenance = facts.get("position"), facts.get("provenance", {})
    listed = position if isinstance(position, list) else [position]
    known = position in (None, *POSITIONS) if isinstance(position, str) or position is None else (
        bool(listed) and all(type(each) is int for each in listed)
    )  # fmt: skip
    if not known or not isinstance(provenance, dict):
        raise RecordError(f"the facts that ivlens writes, in {path}", brief(dict(facts)))
    return facts
