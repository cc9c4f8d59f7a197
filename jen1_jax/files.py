"""Writing that leaves a whole folder under its final name, or none."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jen1_numpy.errors import Refusal
from jen1_numpy.files import local


@contextmanager
def whole_folder(path: str | os.PathLike, key: str | None = None) -> Iterator[Path]:
    """A new folder, which is renamed to `path` when the block ends, or deleted if it raises.

    With a `key`, only a Refusal deletes it. A block that is interrupted leaves it as it is, and the
    next block with the same path and key gets it again.

    Raises:
        Refusal: `path` holds something already, or cannot be written, or another process has the
            folder of this path and key.
    """
    target = local(path).resolve()  # of a link to a folder, the folder
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Refusal(f"{path} already exists and is not empty; name another folder.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if key is None:
            folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        else:
            folder = target.with_name(f".{target.name}.{key}")
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise Refusal(
            f"Cannot write into {target.parent} ({error.strerror}); name another folder."
        ) from None
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise Refusal(f"Another command is writing {path}; wait for its end.") from None
    keep = False
    try:
        yield folder
        folder.chmod(0o755)
        os.replace(folder, target)
    except Refusal:
        raise
    except OSError as error:
        keep = key is not None
        raise Refusal(
            f"Writing {path} failed: {error.strerror or error}; if the disk is full, free some "
            "space or name another folder."
        ) from None
    except BaseException:
        keep = key is not None
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
