"""Writers of metrics: the two that ship, and the example of docs/extending.md."""

import re
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from jen1_jax.models.metrics import WRITERS, read_metrics
from jen1_numpy.errors import Refusal

PAGE = Path(__file__).parents[2] / "docs/extending.md"


def test_records_after_the_checkpoint_are_replaced(tmp_path):
    for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        writer = WRITERS["jsonl"](tmp_path / "diffusion", start)
        for step in steps:
            writer.write(step, {"loss": start + step})
        writer.close()
    records = read_metrics(tmp_path / "diffusion" / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert [record["loss"] for record in records] == [1, 2, 5, 6]


def test_an_unknown_writer_is_refused_by_name():
    with pytest.raises(Refusal, match=r"Unknown writer.*'wandb'.*jsonl, tensorboard"):
        _ = WRITERS["wandb"]


def test_the_writer_of_the_example_gets_every_record(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", wandb := Mock())
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    [source] = [block for block in blocks if "wandb" in block]
    exec(compile(source, "wandb.py", "exec"), names := {})
    try:
        config = names["get_config"]().train_diffusion
        assert config.writers == ("jsonl", "tensorboard", "wandb")
        writer = WRITERS["wandb"](tmp_path / "RUN" / "diffusion", 10)
    finally:
        del WRITERS["wandb"]
    writer.write(20, {"loss": 0.5})
    writer.close()
    wandb.init.assert_called_once_with(project="jen1", id="RUN-diffusion", resume="allow")
    run = wandb.init.return_value
    run.log.assert_called_once_with({"loss": 0.5}, step=20)
    run.finish.assert_called_once_with()
