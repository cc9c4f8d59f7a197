"""Paths on this machine and in an object store, and writing that leaves whole files or none.

`anywhere` gives a path that reads and writes like pathlib's. gs:// is the one scheme that is known,
by etils.epath with gcsfs (extra `gcs`). These libraries repeat a request that failed, with longer
and longer pauses, six times.

A store has no locks and no renaming. There an upload is atomic, and a folder counts as whole when
it has its record, which is uploaded last. `upload` never replaces an object, so that of two writers
of one folder one is refused.
"""

import base64
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

# The processes that train do not import TensorFlow, whose reader epath would choose otherwise.
os.environ.setdefault("EPATH_USE_TF", "0")

import fsspec
from etils import epath

from jen1_numpy import files
from jen1_numpy.errors import Refusal
from jen1_numpy.files import local

AnyPath: TypeAlias = Path | epath.Path
_LIBRARIES = ("gcsfs", "google", "requests", "aiohttp")  # whose errors mean that the store failed
RECORDS = ("config.json", "dataset_info.json")  # of a run and of a data set
PAGE = 1000  # objects of one request for a listing, which is the most that a store gives


class StoreError(OSError):
    """A store has refused a request, or has not answered it although it was repeated."""


class Unfinished(Refusal):
    """A folder could not be written to its end; the next call with its path and key goes on."""


def anywhere(path: str | os.PathLike) -> AnyPath:
    """`path` on this machine or in a bucket of Google Cloud Storage (gs://BUCKET/...).

    Raises `Refusal` for any other URL, and for gs:// where gcsfs is not installed.
    """
    text = os.fspath(path)
    if not text.startswith("gs://"):
        return local(text)
    _store()
    return epath.Path(text)


@contextmanager
def fetched(path: AnyPath) -> Iterator[Path]:
    """A local path to a file or a folder: `path` itself, or a copy that lasts as long as the block.

    For what can only read local files: libsndfile, safetensors, tokenizers.
    """
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        with _answered(path):
            _store().get(str(path), str(copy), recursive=path.is_dir())
        yield copy


def listing(folder: AnyPath) -> Iterator[tuple[str, int]]:
    """Name within `folder` and size in bytes of each file in it and in its folders, sorted by name
    within each of them. Of a store it holds one page in memory at a time.
    """
    top = str(folder).rstrip("/")
    if isinstance(folder, Path):
        for where, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(where, name)
                yield os.path.relpath(path, top), os.stat(path).st_size
        return
    # `walk` of fsspec would leave out folders that cannot be listed.
    bucket, _, inner = top.removeprefix("gs://").partition("/")
    prefix, token = f"{inner}/" if inner else "", {}
    query = dict(prefix=prefix, maxResults=PAGE, fields="items(name,size),nextPageToken")
    while True:
        with _answered(folder):
            page = _store().call("GET", "b/{}/o", bucket, json_out=True, **query, **token)
        for item in page.get("items", ()):
            if not item["name"].endswith("/"):  # some programs store such an object for a folder
                yield item["name"].removeprefix(prefix), int(item["size"])
        if "nextPageToken" not in page:
            return
        token = {"pageToken": page["nextPageToken"]}


def kind(path: AnyPath) -> str | None:
    """What `path` is: "file", "directory" or "other", such as a pipe; None if there is nothing.

    Unlike `is_file` and `is_dir` of a path in a store, it raises OSError if the store fails.
    """
    if isinstance(path, Path):
        known = "directory" if path.is_dir() else "file" if path.is_file() else "other"
        return known if path.exists() else None
    try:
        with _answered(path):
            return _store().info(str(path))["type"]
    except FileNotFoundError:
        return None


def download(source: AnyPath, target: Path) -> None:
    """Copies an object to a local file. Raises FileNotFoundError if there is none."""
    with _answered(source):
        _store().get_file(str(source), str(target), concurrency=1)


def beginning(path: AnyPath, most: int) -> bytes:
    """At most so many bytes of an object. Raises FileNotFoundError if there is none."""
    with _answered(path), _store().open(str(path), "rb") as file:
        return file.read(most)


@contextmanager
def filled(folder: AnyPath) -> Iterator[Path]:
    """A local folder to write into: `folder` itself, or a new one.

    The files of a new one replace those of the same name in `folder` when the block ends, unless it
    raises.
    """
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as new:
        local_folder = Path(new) / folder.name
        local_folder.mkdir()
        yield local_folder
        with _answered(folder):
            for name, _ in listing(local_folder):
                _store().put_file(str(local_folder / name), str(folder / name))


def upload(source: Path, target: AnyPath) -> None:
    """Copies the local file `source` to the object `target`, which must not exist yet.

    If it exists with the same content, as after a lost answer or an interrupted command, that is
    enough. Raises `FileExistsError` if it has another content: another command writes there.
    """
    with _answered(target):
        try:
            _store().put_file(str(source), str(target), mode="create")
        except FileExistsError:
            with source.open("rb") as file:
                ours = base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()
            if _store().info(str(target)).get("md5Hash") != ours:
                raise FileExistsError(f"{target} exists with another content") from None


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A local path to write to, which becomes `path` when the block ends, unless it raises."""
    where = anywhere(path)
    if isinstance(where, Path):
        with files.whole_file(where) as partial:
            yield partial
        return
    with tempfile.TemporaryDirectory() as folder:
        partial = Path(folder) / where.name
        yield partial
        with _answered(where):
            _store().put_file(str(partial), str(where))


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file (UTF-8), whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(path: str | os.PathLike, key: str | None = None) -> Iterator[Path]:
    """A new local folder, which becomes `path` when the block ends, or is deleted if it raises.

    With a `key`, only a Refusal that is not Unfinished deletes it. A block that is interrupted
    leaves it as it is, and the next block with the same path and key gets it again. In a store the
    records of runs and of data sets are uploaded last, and the local folder needs space for all of
    the files.

    Raises:
        Refusal: `path` holds something already, or cannot be written, or another process has the
            folder of this path and key.
        Unfinished: the disk is full, or a store fails.
    """
    where, target = anywhere(path), local_place(path)
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
        for left in folder.rglob("*.partial"):  # of a `whole_file` that was killed
            left.unlink()
        yield folder
        if isinstance(where, Path):
            folder.chmod(0o755)
            os.replace(folder, target)
        else:
            names = [name for name, _ in listing(folder)]
            for name in sorted(names, key=lambda name: (name in RECORDS, name)):
                upload(folder / name, where / name)
    except Refusal as refusal:
        keep = key is not None and isinstance(refusal, Unfinished)
        raise
    except FileExistsError as error:
        raise Refusal(f"Another command has written to {path} ({error}); name another.") from None
    except StoreError as error:
        keep = key is not None
        raise Unfinished(
            f"{str(error).rstrip('.')}; {path} is not written: give the same command again."
        ) from None
    except OSError as error:
        keep = key is not None
        raise Unfinished(
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


def local_place(path: str | os.PathLike) -> Path:
    """The local path beside which the folder `path` is made: of one in a store, in $TMPDIR.

    Raises:
        Refusal: `path` holds something already.
        Unfinished: its store does not answer.
    """
    where = anywhere(path)
    if isinstance(where, Path):
        place = where.resolve()  # of a link to a folder, the folder
        taken = place.exists() and (not place.is_dir() or any(place.iterdir()))
    else:
        name = hashlib.sha256(str(where).encode()).hexdigest()[:16]
        place = Path(tempfile.gettempdir()) / f"jen1-{os.getuid()}-{name}"
        try:
            taken = kind(where) == "file" or any(kind(where / record) for record in RECORDS)
        except OSError as error:
            raise Unfinished(f"{str(error).rstrip('.')}; nothing was written.") from None
    if taken:
        raise Refusal(f"{path} already exists and is not empty; name another folder.")
    return place


def _store() -> Any:
    """The file system of gs://.

    It remembers no listings: they would not show what another process has written since.
    """
    try:
        import gcsfs  # noqa: F401
    except ImportError:
        raise Refusal(
            "gs:// needs gcsfs, which is not installed; install the extra `gcs` "
            "(pip install 'jen1-jax[gcs]')."
        ) from None
    for scheme in ("gs", "gcs"):  # epath's file system has the same settings
        fsspec.config.conf.setdefault(scheme, {})["use_listings_cache"] = False
    return fsspec.filesystem("gcs", finalize_on_close=True)


@contextmanager
def _answered(path: AnyPath) -> Iterator[None]:
    """Raises `StoreError` with one sentence where the store has refused a request to the end."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except Exception as error:
        theirs = type(error).__module__.partition(".")[0] in _LIBRARIES
        # gcsfs raises OSError, without a number, for a request that is forbidden.
        if not theirs and not (isinstance(error, OSError) and error.errno is None):
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(
            f"The object store did not do what was asked for {path}: {said}"
        ) from error
