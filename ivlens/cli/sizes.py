"""What a run takes of memory and disk, said before it begins where that is large."""

import argparse
import logging
import re
import shutil
import tempfile
from math import prod
from operator import attrgetter
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..models import HookedTransformer, export_bytes
from ..models.shapes import config_file
from ..training import TrainingConfig
from ..training.trainable import weights_to_train
from .loading import given

LARGE = 1e9  # bytes, from which a size is said
STATE = 3  # a run's state is as many times as large as what it trains: both moments of the optimiser, and the weights
log = logging.getLogger("ivlens")


def say_training(model: HookedTransformer, config: TrainingConfig, folder: Path) -> None:
    """Say what a run of training takes, and warn where the disk has less."""
    state, exported = run_bytes(model, config)
    _say_run(model, config, folder, 2 * state + exported, state + exported)  # the state before is kept while training


def say_sequence(model: HookedTransformer, config: TrainingConfig, folder: Path, runs: int) -> None:
    """Say what a sequence of tasks takes, or all ``runs`` of an ablation, whose models are not exported.

    A task's states are dropped when its weights are kept, and these when those after the next task are.
    """
    state, exported = run_bytes(model, config)
    weights = state // STATE
    kept = runs * weights + (exported if runs == 1 else 0)
    _say_run(model, config, folder, max(2 * state + (runs + 1) * weights, kept), kept)


def _say_run(model: HookedTransformer, config: TrainingConfig, folder: Path, disk: int, kept: int) -> None:
    """Say what training takes of memory, and of disk while it runs and afterwards, where that is large."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if config.lora is not None or weights * 4 < LARGE:
        return
    log.info(
        f"training all weights takes up to {_gigabytes(4 * weights)} of memory for weights, gradients and optimiser, "
        f"and up to {_gigabytes(disk)} in {folder}, {_gigabytes(kept)} of it when the run is done"
    )
    _warn_of_full(folder, disk, "--lora or --layers write less")


def run_bytes(model: HookedTransformer, config: TrainingConfig) -> tuple[int, int]:
    """Bytes of one state of a run without LoRA, and of the model that it exports."""
    names = weights_to_train(model, config)
    trained = (attrgetter(name)(model) for name in names)
    state = STATE * sum(weight.numel() * weight.element_size() for weight in trained)
    return state, export_bytes(model, names)


def say_comparison(options: argparse.Namespace) -> None:
    """Say what a comparison of checkpoints takes."""
    weights, matrices = weight_bytes(options)
    if weights + matrices < LARGE:
        return
    log.info(
        f"one model is in memory at a time, {_gigabytes(weights)} of weights; {_gigabytes(matrices)} of the base's "
        f"matrices are written into {options.out}, with which further checkpoints are compared"
    )
    _warn_of_full(options.out, matrices, "choose another --out")


def say_repair(options: argparse.Namespace) -> None:
    """Say what a repair takes: both models in temporary files, and what it hands over."""
    weights, matrices = weight_bytes(options)
    if 2 * weights < LARGE:
        return
    temporary, kept = Path(tempfile.gettempdir()), weights if options.export == "hf" else 0
    written = kept + (matrices if options.diagnose else 0)
    into_out = f", and up to {_gigabytes(written)} into {options.out}, {_gigabytes(kept)} of it when the run is done"
    if not written:
        into_out = ""
    log.info(
        f"one model is in memory at a time, {_gigabytes(weights)} of weights; up to {_gigabytes(2 * weights)} are "
        f"written into {temporary} for the time of the run{into_out}"
    )
    _warn_of_full(temporary, 2 * weights, "set TMPDIR to a folder on another disk")
    _warn_of_full(options.out, written, "choose another --out, or --export adapter or none")


def weight_bytes(options: argparse.Namespace) -> tuple[int, int]:
    """Bytes of the base's weights as they will be loaded, and of the matrices of its layers among them.

    They are known from the headers of a local or cached model's files; 0 where there are none.
    """
    config, dtype = config_file(options.base), given(options, "load_model")["dtype"]
    size = 4 if dtype is None else dtype.itemsize
    weights = matrices = 0
    for file in config.parent.glob("*.safetensors") if config else ():
        try:
            with safe_open(file, "pt") as tensors:
                shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):  # loading the model reports what is wrong
            continue
        weights += size * sum(map(prod, shapes.values()))
        in_layers = (shape for name, shape in shapes.items() if len(shape) > 1 and re.search(r"\.\d+\.", name))
        matrices += size * sum(map(prod, in_layers))
    return weights, matrices


def _warn_of_full(folder: Path, count: int, do: str) -> None:
    """Warn where a disk has less free than will be written."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if free < count:
        log.warning(f"{folder} has {_gigabytes(free)} free; {do}")


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
