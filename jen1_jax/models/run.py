"""A run: one experiment in one folder, which is all that generating, resuming and forking need.

```
RUN/config.json                   schema, resolved configuration, versions, fingerprints
RUN/autoencoder/checkpoints/  whitening.npz  measured.json  metrics.jsonl  tensorboard/
RUN/diffusion/checkpoints/    metrics.jsonl  tensorboard/
RUN/text/                         tokenizer and layout, or name and hash of a frozen encoder
```
"""

import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from ml_collections import ConfigDict

from jen1_jax import __version__
from jen1_jax.config import from_plain, to_plain
from jen1_jax.files import AnyPath, anywhere, write_text
from jen1_numpy.errors import Refusal

SCHEMA = 1  # of a run folder: raised when an older program could not read a newer folder
# What the record holds besides the schema, and the type of the values there.
_SECTIONS = {"config": object, "versions": str, "fingerprints": str}
# Fields that a part's parameters or its optimiser's state depend on: they may not change once that
# part has been trained.
_FIXED = {
    "autoencoder": ("audio", "autoencoder", "whitening"),
    "diffusion": (
        "audio",
        "autoencoder",
        "whitening",
        "text",
        "unet",
        "data.seconds",
        "diffusion.objective",
        "diffusion.schedule",
        "diffusion.zero_terminal_snr",
        "diffusion.reference_frames",
        "train_diffusion.optimizer",
    ),
}


@dataclass(frozen=True)
class Run:
    """Paths and the record (`config.json`) of one run folder."""

    path: AnyPath

    def __post_init__(self):
        object.__setattr__(self, "path", anywhere(self.path))

    @classmethod
    def open(cls, path: str | os.PathLike) -> "Run":
        """An existing run; raises `Refusal` where there is none."""
        run = cls(anywhere(path))
        _ = run.record
        return run

    @property
    def record_path(self) -> AnyPath:
        return self.path / "config.json"

    @property
    def text(self) -> AnyPath:
        return self.path / "text"

    @property
    def whitening(self) -> AnyPath:
        return self.path / "autoencoder" / "whitening.npz"

    @property
    def measured(self) -> AnyPath:
        return self.path / "autoencoder" / "measured.json"

    def checkpoints(self, part: str) -> AnyPath:
        return self.path / part / "checkpoints"

    def weights(self, part: str) -> AnyPath:
        """The file that a release has instead of checkpoints."""
        return self.path / part / "weights.safetensors"

    @property
    def record(self) -> dict[str, Any]:
        """What `config.json` holds; raises `Refusal` where it is missing, damaged or too new."""
        if not self.record_path.is_file():
            raise Refusal(
                f"There is no run at {self.path}: it has no config.json. "
                "`jen1 train autoencoder` makes one."
            )
        try:
            record = json.loads(self.record_path.read_text())
            schema = _schema(record)
            if schema == SCHEMA:
                _check_record(record)
        except (ValueError, OSError, RecursionError) as error:
            raise Refusal(
                f"{self.record_path} is not the record of a run ({error}); restore it from a copy."
            ) from None
        if schema != SCHEMA:
            versions = record.get("versions")
            wrote = versions.get("jen1-jax") if isinstance(versions, dict) else None
            raise Refusal(
                f"{self.record_path} has the schema {schema}, and this version of jen1-jax reads "
                f"{SCHEMA}; use the version that wrote it ({wrote or 'unknown'})."
            )
        return record

    @property
    def config(self) -> ConfigDict:
        return from_plain(self.record["config"], str(self.record_path))

    def write(self, config: ConfigDict, fingerprints: dict[str, str]) -> "Run":
        """Records configuration and fingerprints, whole or not at all; returns the run."""
        packages = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")
        record = {
            "schema": SCHEMA,
            "config": to_plain(config),
            "versions": {"jen1-jax": __version__} | {name: version(name) for name in packages},
            "fingerprints": fingerprints,
        }
        write_text(self.record_path, json.dumps(record, indent=1))
        return Run(self.path)

    def begin(self, config: ConfigDict, part: str) -> "Run":
        """The run with `config` recorded for training `part`.

        Raises `Refusal` where `config` contradicts what has already been trained here.
        """
        fingerprints = {}
        if self.weights(part).exists():
            raise Refusal(
                f"{self.path} has the released {part}, without the state of its training; train in "
                "another --workdir."
            )
        if self.record_path.exists():
            fingerprints = dict(self.record["fingerprints"])
            trained = [name for name in _FIXED if self._is_trained(name)]
            for name in trained:
                for key, how in differences(to_plain(self.config), to_plain(config), name).items():
                    raise Refusal(
                        f"{self.path} was trained with another `{key}` ({how}); "
                        "give the same configuration, or another --workdir."
                    )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return self.write(config, fingerprints)
        except OSError as error:
            raise Refusal(
                f"The folder {self.path} cannot be written ({error.strerror}); choose another "
                "--workdir."
            ) from None

    def _is_trained(self, part: str) -> bool:
        folder = self.checkpoints(part)
        return self.weights(part).exists() or (folder.is_dir() and any(folder.iterdir()))


def differences(old: dict, new: dict, part: str) -> dict[str, str]:
    """How two configurations differ in the fields that a trained `part` depends on, by field."""
    pairs = {key: (_at(old, key), _at(new, key)) for key in _FIXED[part]}
    return {key: _difference(*pair) for key, pair in pairs.items() if pair[0] != pair[1]}


def _schema(record: Any) -> int:
    """The schema of a record, 0 where it has none; raises `ValueError` for what is no record."""
    if not isinstance(record, dict) or type(record.get("schema", 0)) is not int:
        raise ValueError("it is no object with a whole number as its schema")
    return record.get("schema", 0)


def _check_record(record: dict[str, Any]) -> None:
    """Raises `ValueError` where `record` does not have the form of `config.json`."""
    if record.keys() != {"schema", *_SECTIONS}:
        raise ValueError(f"it must hold schema, {', '.join(_SECTIONS)} and nothing else")
    for name, kind in _SECTIONS.items():
        section = record[name]
        if not isinstance(section, dict) or not all(
            isinstance(value, kind) for value in section.values()
        ):
            raise ValueError(f"its {name} are of another type")


def _at(config: dict, key: str) -> Any:
    for name in key.split("."):
        config = config[name]
    return config


def _difference(old: Any, new: Any) -> str:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return f"{old} there, {new} here"
    changed = [key for key in old | new if old.get(key) != new.get(key)]
    return "; ".join(f"{key}: {old.get(key)} there, {new.get(key)} here" for key in changed)
