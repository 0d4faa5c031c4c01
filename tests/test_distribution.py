"""What is released: wheel and source archive are the same bytes each time, valid, and work where they are installed."""

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest
from packaging.metadata import Metadata

import ivlens

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
NEEDED = ("pyproject.toml", "sdist_backend.py", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")
BUILD = "import sdist_backend as backend; backend.build_wheel({0!r}); backend.build_sdist({0!r})"
KINDS = {".py", ".json", ".txt", ".html", ".css", ".svg", ".typed"}
DATA_FILES = f"""
import ivlens, pathlib
ivlens.load_task("antonym")
folder = pathlib.Path(ivlens.__file__).parent
print(folder, len([path for path in folder.rglob("*") if path.suffix in {sorted(KINDS)}]))
"""


def build(folder: Path, epoch: str | None = "1767225600") -> Path:
    """The folder of a wheel and a source archive, built in a copy of the tree."""
    shutil.copytree(ROOT / "ivlens", folder / "tree" / "ivlens", ignore=shutil.ignore_patterns("__pycache__"))
    for name in NEEDED:
        shutil.copy(ROOT / name, folder / "tree" / name)
    environment = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    environment |= {"SOURCE_DATE_EPOCH": epoch} if epoch else {}
    code = BUILD.format(str(folder / "dist"))
    (folder / "dist").mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=folder / "tree", env=environment, capture_output=True, check=True)
    return folder / "dist"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("first"))


def hashes(dist: Path) -> dict[str, str]:
    return {path.suffix: sha256(path.read_bytes()).hexdigest() for path in dist.iterdir()}


def test_building_twice_gives_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    again = build(tmp_path)
    assert {*hashes(dist)} == {".whl", ".gz"}
    assert hashes(again) == hashes(dist)
    other = build(tmp_path / "other", epoch="1767225800")
    assert not {*hashes(other).values()} & {*hashes(dist).values()}


def test_the_source_archive_builds_the_same_wheel(dist: Path, tmp_path: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path, filter="data")
    assert not any("/tests/" in name for name in names)
    (tree,) = tmp_path.iterdir()
    code = f"import sdist_backend; sdist_backend.build_wheel({str(tmp_path)!r})"
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1767225600"}
    subprocess.run([sys.executable, "-c", code], cwd=tree, env=environment, capture_output=True, check=True)
    assert next(tmp_path.glob("*.whl")).read_bytes() == next(dist.glob("*.whl")).read_bytes()


def test_the_metadata_is_valid(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        (info,) = [name for name in archive.getnames() if name.count("/") == 1 and name.endswith("PKG-INFO")]
        text = archive.extractfile(info).read()  # type: ignore[union-attr]
    found = Metadata.from_email(text, validate=True)
    assert (found.name, str(found.version)) == ("ivlens", ivlens.__version__)
    assert found.description_content_type == "text/markdown"
    assert email.message_from_bytes(text).get_payload().strip().startswith("# ")  # type: ignore[union-attr]
    pytest.importorskip("twine")
    checked = [sys.executable, "-m", "twine", "check", "--strict", *map(str, dist.iterdir())]
    assert subprocess.run(checked, capture_output=True, text=True, check=True).stdout.count("PASSED") == 2


def test_what_is_installed_from_the_wheel_runs_and_finds_its_data(dist: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / Path(sysconfig.get_path("scripts")).relative_to(sys.prefix) / Path(sys.executable).name
    site = tmp_path / "venv" / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))  # what ivlens needs is not installed again
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet"]
    install.append("--ignore-installed")  # ivlens itself may be among the packages that are not installed again
    subprocess.run([*install, next(dist.glob("*.whl"))], check=True, capture_output=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def ran(*command: str | Path) -> str:
        done = subprocess.run([*command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    assert ran(python.parent / "ivlens", "--version").split()[-1] == ivlens.__version__
    where, n = ran(python, "-c", DATA_FILES).split()
    assert Path(where).is_relative_to(site)
    assert int(n) == len([path for path in (ROOT / "ivlens").rglob("*") if path.suffix in KINDS])
