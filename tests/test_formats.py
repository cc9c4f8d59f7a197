"""What an earlier version has written is read by this one (tests/fixtures/make.py)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import jen1_jax
from data_pipeline.shard_data import ShardData
from jen1_jax.models.run import Run
from jen1_numpy.errors import Refusal
from tests import tiny

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fixtures")
    for name in ("run", "data"):
        shutil.unpack_archive(FIXTURES / f"{name}.zip", folder)
    return folder


@pytest.mark.slow
def test_a_run_loads_and_generates(unpacked):
    model = jen1_jax.load(unpacked / "run")
    audio = model.generate("two tones", seconds=0.1)
    assert audio.shape == (4800, 2) and np.isfinite(audio).all()
    assert model.codec.fingerprint == model.run.record["fingerprints"]["autoencoder"]


def test_a_data_set_is_read(unpacked):
    data = ShardData(str(unpacked / "data"), 2, seed=0)
    assert set(data.captions()) <= set(tiny.CAPTIONS)
    batch = next(data.batches(0))
    assert batch["audio"].shape == (2, 4800, 2) and 3e3 < np.abs(batch["audio"]).max() < 13e3


def test_a_run_of_another_schema_is_refused_with_the_version_that_wrote_it(unpacked, tmp_path):
    record = json.loads((unpacked / "run/config.json").read_text())
    record |= {"schema": 2, "versions": {"jen1-jax": "9.1"}, "new": {}}
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(Refusal, match=r"schema 2, and this version .* reads 1; .*\(9\.1\)"):
        Run.open(tmp_path)


@pytest.mark.parametrize("schema", [None, "1", True, 1.0])
def test_a_record_without_a_number_as_its_schema_is_refused(unpacked, tmp_path, schema):
    record = json.loads((unpacked / "run/config.json").read_text()) | {"schema": schema}
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(Refusal, match="a whole number as its schema"):
        Run.open(tmp_path)


def test_a_run_from_before_schemas_is_refused_as_one_of_another_version(unpacked, tmp_path):
    record = json.loads((unpacked / "run/config.json").read_text())
    del record["schema"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(Refusal, match=r"schema 0, .* use the version that wrote it"):
        Run.open(tmp_path)
