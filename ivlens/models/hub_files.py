"""One file of the Hugging Face hub, where the hub answers within seconds."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

from ..errors import reason

PATIENCE = 4.0  # seconds for the hub's first answer; a name server or a firewall can keep silent for minutes


@dataclass(frozen=True)
class HubFile:
    """A file of a repository of the hub, at a commit."""

    repository: str
    commit: str
    name: str


def hub_file(file: HubFile) -> Path:
    """The path of a hub's file in the hub's own cache, fetched where it is not there.

    Raises:
        ConnectionError: the hub does not answer, as without a network, or has no such file.
        Exception: what else the hub's library meets while fetching.
    """
    where: dict[str, Any] = {"repo_id": file.repository, "filename": file.name, "revision": file.commit}
    try:
        return Path(hf_hub_download(**where, local_files_only=True))
    except FileNotFoundError:
        _ask_once(hf_hub_url(**where))
    return Path(hf_hub_download(**where))


def _ask_once(url: str) -> None:
    """Raise ConnectionError unless the hub says within seconds that the file is there."""
    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            get_hf_file_metadata(url, timeout=PATIENCE)
        except Exception as error:  # of the hub or the network
            answers.append(error)
        else:
            answers.append(None)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    refused = answers[0] if answers else TimeoutError(f"no answer in {PATIENCE:g} seconds")
    if refused is not None:
        raise ConnectionError(reason(refused)) from refused
