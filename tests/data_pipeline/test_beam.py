"""Apache Beam prepares the same data set as a process pool."""

from dataclasses import replace

import pytest

from data_pipeline import beam
from jen1_jax.files import Unfinished
from jen1_numpy.errors import Refusal
from tests.data_pipeline.recordings import Recordings, prepared
from tests.data_pipeline.test_resume import content, finished_ids

# Not DirectRunner, which looks for a program on the network first.
HERE = ["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"]
TWO = [*HERE, "--direct_num_workers=2", "--direct_running_mode=multi_processing"]
PORTABLE = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """The data set of the processes of this machine. A recording kills the process it is in."""
    folder = tmp_path_factory.mktemp("pool")
    source = Recordings(folder / "log", harm=(("7", "kill"),))
    return folder / "out", prepared(source, folder / "out", jobs=2)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [TWO, PORTABLE], ids=["two processes", "as Flink and Spark"])
def test_beam_gives_the_same_data_set(pool, tmp_path, flags):
    source = Recordings(tmp_path / "log", harm=(("7", "kill"),))
    report = prepared(source, tmp_path / "out", beam=flags)
    assert replace(report, out=pool[1].out) == pool[1]
    assert report.rejected["crashed the decoder"] == 1
    assert content(tmp_path / "out") == content(pool[0])


@pytest.mark.slow
def test_a_pipeline_that_fails_costs_no_finished_unit_and_a_pool_may_go_on(
    pool, tmp_path, monkeypatch
):
    source, out = Recordings(tmp_path / "log", harm=(("7", "kill"),)), tmp_path / "out"
    original = beam.local.prepare_units

    def fails(plan, units, jobs):
        if units[0].number == 3:
            raise OSError("worker lost")
        return original(plan, units, jobs)

    with monkeypatch.context() as patch, pytest.raises(Exception, match="worker lost"):
        patch.setattr(beam.local, "prepare_units", fails)
        prepared(source, out, beam=HERE)
    finished, before = finished_ids(tmp_path), len(source.rendered())
    assert finished
    report = prepared(source, out, jobs=2)
    assert not finished & {*source.rendered()[before:]}
    assert replace(report, out=pool[1].out) == pool[1] and content(out) == content(pool[0])


def test_unknown_flags_are_refused_and_nothing_is_deleted(tmp_path):
    with pytest.raises(Unfinished, match="Unexpected pipeline runner"):
        prepared(Recordings(tmp_path / "log"), tmp_path / "out", beam=["--runner=Wrong"])
    assert list(tmp_path.glob(".out.*"))


def test_workers_that_do_not_share_the_folder_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(beam.local, "prepare_units", lambda *_, **__: ())
    with pytest.raises(Refusal, match=r"6 of 6 units are not in .* workers must share"):
        prepared(Recordings(tmp_path / "log"), tmp_path / "out", beam=HERE)


def test_a_limit_of_hours_is_refused(tmp_path):
    with pytest.raises(Refusal, match="leave out --beam or --limit-hours"):
        prepared(Recordings(tmp_path / "log"), tmp_path / "out", beam=HERE, limit_hours=1)
