"""The build backend: setuptools', with source archives that are the same bytes for the same SOURCE_DATE_EPOCH.

Its wheels are already; a source archive would have the times at which files were copied.
"""

import gzip
import os
import tarfile
from io import BytesIO
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  (all other hooks of a backend)


def build_sdist(sdist_directory: str, config_settings: dict[str, str] | None = None) -> str:
    """Write the source archive to a folder, its files of one time where SOURCE_DATE_EPOCH is set; return its name."""
    name: str = build_meta.build_sdist(sdist_directory, config_settings)
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        _with_one_time(Path(sdist_directory, name), int(epoch))
    return name


def _with_one_time(path: Path, epoch: int) -> None:
    """Write an archive again: members in the order of their names, with one time, no owner, and plain permissions."""
    with tarfile.open(path) as archive:
        members = sorted(archive.getmembers(), key=lambda member: member.name)
        contents = [file.read() if (file := archive.extractfile(member)) else b"" for member in members]
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for member, content in zip(members, contents, strict=True):
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            archive.addfile(member, BytesIO(content))
