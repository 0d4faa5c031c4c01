"""Files of torch.save are read as torch reads them, and what would run code is refused and not run."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import ivlens as iv
from ivlens.integrations.torch_archive import Plain, read_torch_archive

VALUES = torch.arange(12.0).reshape(3, 4)
HELD: list[Any] = [
    VALUES,
    VALUES.T,
    VALUES[1, 1:3],
    VALUES.double(),
    VALUES.half(),
    VALUES.bfloat16(),
    {"layers.3": {"action": "add", "steering_coefficient": -1.5, "bias": None, "flag": True, "n": 70000}},
    {3: VALUES[0], 4: VALUES[1]},
    [1, [2.5, "three"], (), (4,), (5, 6), (7, 8, 9), (1, 2, 3, 4), 2**40, -(2**70), "é"],
]


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and one.equal(other)
    if isinstance(one, dict):
        return [*one] == [*other] and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("held", HELD, ids=lambda held: type(held).__name__)
@pytest.mark.parametrize("protocol", [2, 4])
def test_it_reads_what_torch_reads(tmp_path: Path, held: Any, protocol: int) -> None:
    torch.save(held, tmp_path / "held.pt", pickle_protocol=protocol)
    assert equal(read_torch_archive(tmp_path / "held.pt"), torch.load(tmp_path / "held.pt", weights_only=False))


@dataclass
class SteeringVector:
    """As in the package steering-vectors."""

    layer_activations: dict[int, Tensor]
    layer_type: str = "decoder_block"


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> type[SteeringVector]:
    """The class under the name that the package gives it."""
    module = ModuleType("steering_vectors.steering_vector")
    monkeypatch.setattr(SteeringVector, "__module__", module.__name__)
    module.SteeringVector = SteeringVector  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "steering_vectors", ModuleType("steering_vectors"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return SteeringVector


def test_steering_vectors_files_are_read_without_the_package(
    tmp_path: Path, library: type[SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = {1: VALUES[0].clone(), 3: VALUES[1].clone()}
    torch.save(library(layers), tmp_path / "vector.pt")
    torch.save(layers, tmp_path / "layers.pt")
    torch.save(library(layers, "mlp"), tmp_path / "mlp.pt")
    for name in ("steering_vectors", "steering_vectors.steering_vector"):
        monkeypatch.delitem(sys.modules, name)
    for name in ("vector.pt", "layers.pt"):
        found = iv.import_vector(tmp_path / name, layer=3)
        assert found.vector.values.equal(layers[3])
        assert (found.layer, found.site, found.assumed) == (3, "resid_post", ("scale", "position"))
    with pytest.raises(iv.UnsupportedError, match="decoder_block"):
        iv.import_vector(tmp_path / "mlp.pt", layer=3)
    assert not [name for name in sys.modules if name.startswith("steering_vectors")]


def test_a_bare_tensor_needs_its_layer(tmp_path: Path) -> None:
    torch.save(VALUES[0], tmp_path / "v.pt")
    with pytest.raises(iv.ArgumentError, match="layer="):
        iv.import_vector(tmp_path / "v.pt")
    assert iv.import_vector(tmp_path / "v.pt", layer=2).vector.values.equal(VALUES[0])
    torch.save(VALUES, tmp_path / "v.pt")
    with pytest.raises(iv.RecordError, match=r"\(3, 4\)"):
        iv.import_vector(tmp_path / "v.pt", layer=2)


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"action": "clamp"}, "added"),
        ({"head_index": 3}, "added"),
        ({"steering_coefficient": "2"}, "steering_coefficient"),
        ({"steering_vector": VALUES}, r"\[d_model\]"),
        ({"steering_vector": VALUES[0].long()}, "tensors of"),
        ({"ivlens": "{"}, "JSON"),
    ],
)
def test_what_lm_eval_does_otherwise_is_refused(tmp_path: Path, entry: dict[str, Any], match: str) -> None:
    whole = {"action": "add", "steering_vector": VALUES[0], "steering_coefficient": 2.0} | entry
    torch.save({"layers.3": whole}, tmp_path / "v.pt")
    with pytest.raises(iv.IvlensError, match=match):
        iv.import_vector(tmp_path / "v.pt")


def test_a_hook_point_within_a_layer_is_refused(tmp_path: Path) -> None:
    entry = {"action": "add", "steering_vector": VALUES[0]}
    for name in ("layers.3", "h.3", "model.layers.3", "gpt_neox.layers.3"):
        torch.save({name: entry}, tmp_path / "v.pt")
        found = iv.import_vector(tmp_path / "v.pt")
        assert (found.layer, found.scale, found.position) == (3, 1.0, "all")
    torch.save({"layers.3.self_attn": entry}, tmp_path / "v.pt")
    with pytest.raises(iv.UnsupportedError, match="is a layer"):
        iv.import_vector(tmp_path / "v.pt")


class Touches:
    """What a hostile file holds: a call that Python's own reader would make."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"layers.1": Touches(trace)}, tmp_path / "v.pt")
    with pytest.raises(iv.RecordError, match=r"torch\.save"):
        iv.import_vector(tmp_path / "v.pt")
    assert not trace.exists()
    torch.load(tmp_path / "v.pt", weights_only=False)
    assert trace.exists()  # as it would have been


def test_objects_of_classes_keep_their_fields(tmp_path: Path, library: type[SteeringVector]) -> None:
    torch.save(library({}), tmp_path / "v.pt")
    found = read_torch_archive(tmp_path / "v.pt")
    assert found == Plain("steering_vectors.steering_vector SteeringVector", found.fields)
    assert found.fields == {"layer_activations": {}, "layer_type": "decoder_block"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("fuzz") / "v.pt"
    torch.save({"layers.3": {"action": "add", "steering_vector": VALUES[0], "steering_coefficient": 2.0}}, path)
    return path.with_name("changed.pt"), path.read_bytes()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 9),
)
def test_damaged_files_give_an_error_of_ivlens_or_the_vector(
    whole: tuple[Path, bytes], changes: list[tuple[int, int]], cut: int
) -> None:
    path, content = whole
    damaged = bytearray(content[: len(content) - cut * 100])
    for at, byte in changes:
        damaged[at % len(damaged)] = byte
    path.write_bytes(damaged)
    try:
        found = iv.import_vector(path)
    except iv.IvlensError:
        return
    assert found.vector.values.shape == (4,)
