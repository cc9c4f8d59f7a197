"""`jen1 data validate`, `withdraw` and `trace` from the command line."""

import json
import shutil

import pytest

from data_pipeline.layout import info, pieces
from data_pipeline.shard_data import ShardData
from jen1_jax.cli import main
from jen1_jax.models.run import Run
from tests import tiny


@pytest.fixture
def data(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "data")


def test_validate_exits_with_3_until_the_data_are_repaired(data, tmp_path, capsys):
    command = ["data", "validate", str(data)]
    assert main(command) == 0
    path = info(str(data)).shard("train", 0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert main([*command, "--json", str(tmp_path / "report.json")]) == 3
    assert "2 problems, listed above; --repair drops" in capsys.readouterr().err
    assert main([*command, "--json", str(tmp_path / "absent" / "report.json")]) == 3
    assert "There is no folder for" in capsys.readouterr().err
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["problems"]) == 2 and report["kind"] == "waveform"
    assert main([*command, "--repair"]) == 0
    assert "1 clips dropped" in capsys.readouterr().out
    assert main(command) == 0
    shutil.rmtree(data / "pieces")
    assert main([*command, "--repair"]) == 3
    assert "copy it again" in capsys.readouterr().err


def test_withdraw_takes_ids_and_a_file_with_ids(data, tmp_path, capsys):
    one, other = [row["id"] for row in pieces(str(data))][:2]
    (tmp_path / "names.txt").write_text(f"{other}\n")
    command = ["data", "withdraw", str(data), one, "--file", str(tmp_path / "names.txt")]
    assert main([*command, "--reason", "by letter"]) == 0
    lines = (data / "withdrawn.txt").read_text().splitlines()
    assert {line.partition("\t")[0] for line in lines} == {one, other}
    assert all(line.endswith("\tby letter") for line in lines)
    assert main(["data", "withdraw", str(data), "nothing"]) == 3
    assert "nothing" in capsys.readouterr().err


@pytest.mark.slow
def test_trace_reads_the_order_from_the_record_of_a_run(data, tiny_run, tmp_path, capsys):
    from jen1_jax.training.autoencoder import train_autoencoder

    run, config = Run(tmp_path / "run"), tiny.config()
    config.train_autoencoder.steps = 4
    shards = ShardData(str(data), 4, config.seed, crop=3072)
    train_autoencoder(config, run, shards, progress=lambda text: None)
    row = next(row for row in pieces(str(data)) if row["split"] == "train")
    command = ["data", "trace", row["id"], "--run", str(run.path)]
    assert main([*command, "--json", str(tmp_path / "trace.json")]) == 0
    found = json.loads((tmp_path / "trace.json").read_text())["autoencoder"]
    steps = sorted(step for those in found["epochs"].values() for step in those)
    places, batches = range(row["first"], row["first"] + row["clips"]), shards.batches(0)
    assert found["until"] == 4 and steps == [
        step for step in range(4) for place in next(batches)["index"] if place in places
    ]
    moved = shutil.move(data, tmp_path / "moved")
    assert main(command) == 3 and main([*command, "--data", str(moved)]) == 0
    assert main(["data", "trace", "x", "--run", str(tiny_run)]) == 3
    assert "nothing is traced" in capsys.readouterr().err
