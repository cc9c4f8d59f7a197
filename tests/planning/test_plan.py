"""What cannot be planned is refused in one sentence, before anything is compiled."""

import sys

import pytest

from jen1_jax.cli import main

PLAN = ("plan", "--config", "jen1", "--topology")


def refusal(capsys, *arguments: str) -> str:
    assert main([*PLAN, *arguments]) == 3
    return capsys.readouterr().err


def test_without_the_compiler_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    assert "jen1-jax[plan]" in refusal(capsys, "v5e:4x4")


def test_an_unknown_chip_is_refused(capsys):
    assert "v5e, v5p, v6e" in refusal(capsys, "v9:4x4")


def test_a_file_that_cannot_be_written_is_refused(capsys):
    assert "no folder" in refusal(capsys, "v5e:4x4", "--json", "there/is/none.json")


def test_shapes_that_do_not_exist_or_fit_are_refused(capsys):
    pytest.importorskip("libtpu", reason="the TPU's compiler comes with the extra `plan`")
    assert "knows no topology 'v5e:3x5'" in refusal(capsys, "v5e:3x5")
    assert "does not fit 4 devices" in refusal(capsys, "v5e:2x2", "--config.mesh.axes.fsdp=3")
    assert "cannot be split" in refusal(capsys, "v5e:2x2", "--config.train_diffusion.batch_size=6")
