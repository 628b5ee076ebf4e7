"""Where bytes go out: one way to write a file whole or not at all."""

import os
from pathlib import Path

from cnn.errors import CheckpointError


def write_atomically(path, payload):
    """Write bytes under a temporary name, flush them to the disk, then rename over ``path``."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error
