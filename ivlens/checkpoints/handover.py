"""What a repair gives away: the model, a PEFT adapter of the base, a config for mergekit."""

import copy
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..checks import Count, checked
from ..errors import MismatchError, UnsupportedError
from ..models import (
    PACKAGED,
    Model,
    WeightKind,
    WeightPart,
    adapter_stack,
    hugging_face_state,
    low_rank_adapter,
    note_repair,
    provenance,
    weight_layout,
    write_adapter,
    written_parts,
)
from ..records import Repair
from ..records.repair import BASE, TUNED
from .mixing import Fractions, MixedWeights, mixed_weights
from .run_folders import NamedSource
from .sources import name_sources, two_checkpoints

SOURCE = ("source", "revision", "adapter", "weights_sha256")  # facts that say which model it is
MERGEKIT = """\
# Written by ivlens: base_model + weight * (model - base_model), a weight for each layer's attention and MLP.
merge_method: task_arithmetic
base_model: {base}
models:
  - model: {tuned}
    parameters:
      weight:
{weights}
parameters:
  normalize: false
dtype: float32
out_dtype: {dtype}
"""


@checked
def repaired_model(base: Any, tuned: Any, record: Repair, **options: Any) -> Model:
    """The model that a repair chose, for ``export_hf`` or further use.

    Args:
        base: the base of the repair.
        tuned: its tuned model; a model object is not changed.
        record: what ``repair`` returned.
        options: options of ``load_model``, as they were for the repair.

    Returns:
        The tuned model with the record's fractions of its change; its provenance says so.

    Raises:
        MismatchError: the models are not those of the repair.
        SourceError, UnsupportedError, DownloadError: a model cannot be loaded.

    Example:
        >>> iv.repaired_model(model, tuned, repaired).cfg.n_layers == model.cfg.n_layers
        True
    """
    own = isinstance(tuned, (str, Path))  # loaded here, for nobody else
    with tempfile.TemporaryDirectory() as scratch, _models_of(record, base, tuned, options, scratch, own) as mixed:
        mixed.mix(_fractions(record))
        model = mixed.model if own else copy.deepcopy(mixed.model)
        note_repair(model, _facts(record))
    return model


@checked
def export_repaired_adapter(
    base: Any, tuned: Any, record: Repair, folder: str | Path, *, rank: Count = 64, **options: Any
) -> Path:
    """Write what a repair keeps of the change as a PEFT adapter of the base, where that has low rank.

    Each linear layer's change is factorised, exactly up to the rounding of the weights. Of a tuned model that was
    trained with LoRA the adapter has LoRA's rank, scaled by the record's fractions.

    Args:
        base: the base of the repair.
        tuned: its tuned model.
        record: what ``repair`` returned.
        folder: a new or empty folder, or an earlier export, which is replaced as a whole.
        rank: of the adapter, at most.
        options: options of ``load_model``, as they were for the repair.

    Returns:
        The folder, which PEFT loads onto the base.

    Raises:
        UnsupportedError: naming weights whose change has another rank, or is not in a layer's linear modules.
        MismatchError: the models are not those of the repair.
        SourceError, DownloadError: a model cannot be loaded.
        RecordError: the folder cannot be written, or holds something other than an earlier export.

    Example:
        >>> folder = iv.export_repaired_adapter(model, tuned, repaired, tmp_path / "adapter")
        >>> (folder / "adapter_config.json").is_file()
        True
    """
    with tempfile.TemporaryDirectory() as scratch, _models_of(record, base, tuned, options, scratch, False) as mixed:
        settings, tensors = _adapter(mixed, _fractions(record), rank, scratch)
        made_of = _made_of(record)[BASE]
        hooked = {"base_weights_sha256": made_of["weights_sha256"]} if made_of["engine"] == "hooked" else {}
        settings["base_model_name_or_path"] = made_of["source"]
        return write_adapter(folder, settings, tensors, provenance(mixed.model, repair=_facts(record), **hooked))


@checked
def check_adapter(base: Any, tuned: Any, *, rank: Count = 64, **options: Any) -> None:
    """Check that an adapter of the base can hold all that changed, before a repair is searched for.

    Args:
        base: the base of the repair.
        tuned: its tuned model.
        rank: of the adapter, at most.
        options: options of ``load_model``.

    Raises:
        UnsupportedError: naming a weight whose change has another rank, or is not in a layer's linear modules.
        MismatchError: the tuned model is not a checkpoint of the base.
        SourceError, DownloadError: a model cannot be loaded.
    """
    with tempfile.TemporaryDirectory() as scratch:
        first, second = two_checkpoints(base, tuned, options, Path(scratch))
        with mixed_weights(first, second, Path(scratch)) as mixed:
            _adapter(mixed, Fractions.uniform(mixed.model.cfg.n_layers, 1.0), rank, scratch)


def _adapter(mixed: MixedWeights, kept: Fractions, rank: int, scratch: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """PEFT's settings and tensors of what is kept of the change; the base's weights lie in ``scratch`` meanwhile."""
    mixed.mix(Fractions.uniform(mixed.model.cfg.n_layers, 0.0))
    path = Path(scratch, "before.safetensors")
    save_file({name: each.contiguous() for name, each in hugging_face_state(mixed.model).items()}, path)
    mixed.mix(kept)
    with safe_open(path, "pt") as file:
        before = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    return low_rank_adapter(weight_layout(mixed.model), before, hugging_face_state(mixed.model), rank)


@checked
def mergekit_config(model: Model, record: Repair, base: str, tuned: str) -> str:
    """The same repair for mergekit: its method task_arithmetic, with a weight for each layer's attention and MLP.

    Args:
        model: what ``repaired_model`` returned, for the names of its weights.
        record: what ``repair`` returned.
        base: the base as mergekit reads it, a folder or a hub name.
        tuned: the tuned model likewise.

    Returns:
        The text of a YAML file for ``mergekit-yaml``.

    Raises:
        UnsupportedError: names of weights do not tell attention from MLPs.

    Example:
        >>> print(iv.mergekit_config(model, repaired, "base", "tuned").splitlines()[1])
        merge_method: task_arithmetic
    """
    weights = [
        f"        - filter: {_text(each)}\n          value: [{', '.join(map(_number, getattr(record, kind).tolist()))}]"
        for each, kind in _filters(written_parts(model)).items()
    ]
    weights.append(f"        - value: {_number(record.rest)}")
    dtype = str(model.cfg.dtype).removeprefix("torch.")
    names = {"base": _text(base), "tuned": _text(tuned)}
    return MERGEKIT.format(**names, weights="\n".join(weights), dtype=dtype)


def mergekit_names(base: str, tuned: str) -> tuple[str, str]:
    """What mergekit calls a base and a tuned model: a packaged one is its folder, an adapter is named with its base.

    Raises:
        UnsupportedError: several adapters, of which mergekit takes one.
    """
    named = PACKAGED[base].folder if base in PACKAGED and not Path(base).exists() else base
    (source,) = name_sources([NamedSource(TUNED, tuned)], base)
    if source.adapter is not None:
        if len(adapter_stack(source.adapter)) > 1:
            do = "write the model with its adapters as a folder, by export_hf, and give that"
            raise UnsupportedError("a model and one adapter, for mergekit", "adapters one on the other", do)
        return str(named), f"{named}+{source.adapter}"
    return str(named), str(source.source) + (f"@{source.revision}" if source.revision else "")


def _text(text: str) -> str:
    """A text in YAML, of which JSON is a part but for letters beyond 16 bits."""
    return '"' + "".join(json.dumps(each)[1:-1] if ord(each) < 0x7F else f"\\U{ord(each):08x}" for each in text) + '"'


def _number(value: float) -> str:
    """A number in YAML, which has 1e-05 for a text."""
    return np.format_float_positional(value, trim="0")


@contextmanager
def _models_of(
    record: Repair, base: Any, tuned: Any, options: Mapping[str, Any], scratch: str, own: bool
) -> Iterator[MixedWeights]:
    """The two models of a repair, mixed; the tuned one stays as it is then if it is its ``own``.

    Raises:
        MismatchError: they are other models.
    """
    first, second = two_checkpoints(base, tuned, options, Path(scratch))
    made = _made_of(record)
    with mixed_weights(first, second, Path(scratch), restore=not own) as mixed:
        for name, checkpoint in ((BASE, first), (TUNED, second)):
            ours, theirs = (each["weights_sha256"][:12] for each in (checkpoint.facts, made[name]))
            if ours != theirs:
                do = "give the models that were repaired"
                raise MismatchError(f"the {name} model of the repair, {theirs}", ours, do)
        yield mixed


def _fractions(record: Repair) -> Fractions:
    return Fractions(tuple(record.attention.tolist()), tuple(record.mlp.tolist()), record.rest)


def _made_of(record: Repair) -> dict[str, Any]:
    """The facts of the base and of the tuned model."""
    return {BASE: record.provenance["settings"]["base"], TUNED: record.provenance["model"]}


def _facts(record: Repair) -> dict[str, Any]:
    """What was put back, and from which base into which model."""
    return {
        **{role: {name: facts.get(name) for name in SOURCE} for role, facts in _made_of(record).items()},
        "step": record.step, "undone": record.undone, "attention": record.attention.tolist(),
        "mlp": record.mlp.tolist(), "rest": record.rest,
    }  # fmt: skip


def _filters(parts: Mapping[str, WeightPart]) -> dict[str, WeightKind]:
    """Parts of names that only the weights of attention, or of MLPs, have: ".self_attn." in a Llama's.

    Raises:
        UnsupportedError: the first filter that a name contains is not always that of its part.
    """
    filters: dict[str, WeightKind] = {}
    for name, part in parts.items():
        if part.layer is not None:
            inside = name.partition(f".{part.layer}.")[2]
            filters[f".{inside.partition('.')[0]}."] = part.kind
    for name, part in parts.items():
        kind = next((kind for text, kind in filters.items() if text in name), "rest")
        if kind != part.kind:
            raise UnsupportedError("names that tell attention from MLPs", name, "use export_hf instead")
    return filters
