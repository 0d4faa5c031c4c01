"""Names of tasks, models and methods as names of files."""

import re
from hashlib import sha256

LONGEST = 120  # bytes, which leaves room for suffixes in the 255 that file systems allow


def safe_name(name: str) -> str:
    """``name`` as the name of one file in one folder; an ordinary name stays as it is.

    Letters, digits and ``. _ + - =`` are kept, but no leading dot or hyphen; a name that had to be changed ends in
    ``~`` and a hash of the whole of it, so that different names stay different.
    """
    kept = re.sub(r"[^\w.+=-]+", "-", name).strip(".-").encode("utf-8", "ignore")[:LONGEST].decode("utf-8", "ignore")
    if name and kept == name:
        return name
    return f"{kept or 'name'}~{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
