"""Files that are whole or not there: what is refused as a target, links, damage, one process at a time, names."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ivlens import files
from ivlens.errors import RecordError
from ivlens.files import held, safe_name, write_text
from ivlens.tensor_files import load_facts, load_tensors, save_tensors, seal, unseal

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([True, False]), "step": torch.tensor(3.0),
    "none": torch.zeros(0, 2), "half": torch.ones(2, dtype=torch.bfloat16),
}  # fmt: skip
FACTS = {"record": "X", "n": 3, "words": ["ü", "\udc80", None], "nan": float("inf")}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(
        one[name].dtype == two[name].dtype and torch.equal(one[name], two[name]) for name in one
    )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    tensors, facts = load_tensors(save_tensors(tmp_path / "x", TENSORS, FACTS))
    assert same(tensors, TENSORS)
    assert facts == load_facts(tmp_path / "x") == FACTS


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # an absolute path may be too long for a socket


def device(path: Path) -> None:
    path.symlink_to(os.devnull)


@pytest.mark.parametrize(
    ("make", "kind"), [(fifo, "a FIFO"), (unix_socket, "a socket"), (device, "a device"), (Path.mkdir, "a folder")]
)
def test_what_is_no_file_is_refused_and_stays(tmp_path: Path, make: Any, kind: str) -> None:
    path = tmp_path / "target"
    make(path)
    before = path.lstat()
    for target in (path, tmp_path / "link"):
        with pytest.raises(RecordError, match=f"a file to write at .*; got {kind}; choose another name"):
            write_text(target, "new")
        assert path.lstat().st_mode == before.st_mode
        assert path.lstat().st_ino == before.st_ino
        (tmp_path / "link").exists() or (tmp_path / "link").symlink_to(path)
    with pytest.raises(RecordError, match=f"got {kind}"):
        load_tensors(path)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path, there: bool) -> None:
    real, link, far = tmp_path / "deep" / "real", tmp_path / "link", tmp_path / "far"
    real.parent.mkdir()
    if there:
        real.write_text("old")
        real.chmod(0o600)
    link.symlink_to(Path("deep") / "real")
    far.symlink_to(link)
    assert write_text(far, "new") == far
    assert (far.is_symlink(), link.is_symlink(), real.is_symlink()) == (True, True, False)
    assert real.read_text() == "new"
    assert not there or real.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "far", "link"]


def test_a_circle_of_links_and_impossible_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "one", tmp_path / "file" / "x", tmp_path / "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises(RecordError, match="to write "):
            write_text(path, "new")
    write_text(tmp_path / ("é" * 120), "a long name that fits")


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, Path.replace

    def counted(handle: int) -> None:
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        sync(handle)

    def renamed(source: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", counted)
    monkeypatch.setattr(Path, "replace", renamed)
    write_text(tmp_path / "x", "new")
    assert calls == ["file", "rename", "folder"]


def saved() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return save_tensors(Path(folder) / "x", TENSORS, FACTS).read_bytes()


WHOLE = saved()


@given(at=st.integers(0, 8 * len(WHOLE) - 1))
def test_a_flipped_bit_is_noticed(tmp_path_factory: pytest.TempPathFactory, at: int) -> None:
    path = tmp_path_factory.mktemp("flipped") / "x"
    broken = bytearray(WHOLE)
    broken[at // 8] ^= 1 << at % 8
    path.write_bytes(broken)
    for unsealed in (False, True):
        try:
            tensors, facts = load_tensors(path, unsealed=unsealed)
        except RecordError:
            continue
        assert same(tensors, TENSORS)  # a space of padding that became another blank
        assert facts == FACTS


@given(start=st.integers(0, len(WHOLE)), stop=st.integers(0, len(WHOLE)), put=st.binary(max_size=40))
def test_bytes_that_are_cut_out_or_put_in_are_noticed(
    tmp_path_factory: pytest.TempPathFactory, start: int, stop: int, put: bytes
) -> None:
    path = tmp_path_factory.mktemp("cut") / "x"
    path.write_bytes(broken := WHOLE[:start] + put + WHOLE[stop:])
    try:
        tensors, facts = load_tensors(path, unsealed=True)
    except RecordError:
        return
    assert broken == WHOLE or (same(tensors, TENSORS) and facts == FACTS)


def test_a_file_without_a_digest_is_read_only_where_that_is_allowed(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": TENSORS["a"]}, tmp_path / "old", metadata={"ivlens": json.dumps(FACTS)})
    assert load_tensors(tmp_path / "old", unsealed=True)[1] == FACTS
    with pytest.raises(RecordError, match="unreadable"):
        load_tensors(tmp_path / "old")
    for header in ("[1, 2]", "[" * 100_000, "5", "null", "{}x"):
        save_file({"a": TENSORS["a"]}, tmp_path / "odd", metadata={"ivlens": header})
        with pytest.raises(RecordError, match="unreadable"):
            load_facts(tmp_path / "odd")


@given(at=st.integers(0, 10**6), put=st.binary(max_size=3))
def test_a_changed_line_is_not_believed(at: int, put: bytes) -> None:
    facts = {"step": 3, "loss": 0.1, "name": "ü"}
    line = seal(facts).encode()
    assert unseal(line) == facts
    at %= len(line)
    assert unseal(line[:at] + put + line[at + 1 :]) in (None, facts)
    assert unseal(b"5") is unseal(b"\xff") is unseal(b"{}") is unseal("[" * 10**5) is None


HOLD = """
import sys, time
from ivlens.files import held
with held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_refused_until_this_one_ends(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(RecordError, match=f"no one else works in, for {folder}; got .*another process"), held(folder):
        pass
    process.kill()  # and leaves its lock file
    process.wait()
    with held(folder), held(folder):  # the same thread may hold it twice
        pass


def test_another_thread_is_refused(tmp_path: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            with held(tmp_path):
                pass
        except RecordError as error:
            refused.append(str(error))

    with held(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1


def test_a_folder_that_cannot_be_made_cannot_be_held(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RecordError, match="choose a folder to write to"), held(tmp_path / "file" / "out"):
        pass


@pytest.mark.parametrize("name", ["antonym", "französisch", "shift-1", "a_b", "v1.2", "a=b+c"])
def test_ordinary_names_are_kept(name: str) -> None:
    assert safe_name(name) == name


@given(names=st.lists(st.text(st.characters(codec=None), max_size=300), min_size=2, max_size=6, unique=True))
def test_no_name_is_a_path_and_different_names_stay_different(names: list[str]) -> None:
    parts = [safe_name(name) for name in names]
    assert len(set(parts)) == len(parts)
    for part in parts:
        assert os.path.basename(part) == part
        assert part not in ("", ".", "..")
        assert part[0] != "."
        assert len(os.fsencode(part)) <= files.LONGEST + 9
        assert "\0" not in part


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/passwd", "..", ".", "", "a/b", "a\\b", ".hidden", "x" * 10**5, "\udc80", "a\n"]
)
def test_names_that_would_be_paths_become_names(name: str, tmp_path: Path) -> None:
    path = write_text(tmp_path / safe_name(name), "x")
    assert path.parent == tmp_path
    assert [each.name for each in tmp_path.iterdir()] == [safe_name(name)]
