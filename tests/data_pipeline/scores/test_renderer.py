import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data_pipeline.scores.reading import read
from data_pipeline.scores.renderer import Renderer
from data_pipeline.scores.rendering import open_soundfont, render
from data_pipeline.sources.midi import DEFAULT_SOUNDFONT
from jen1_numpy.errors import Refusal
from tests.data_pipeline.scores.pieces import C_MAJOR, END, midi, part, write


@pytest.fixture(scope="module")
def apart():
    return Renderer([DEFAULT_SOUNDFONT])


def test_processes_render_what_this_one_would_and_several_at_a_time(apart, tmp_path):
    pieces = [write(tmp_path / f"{i}.mid", part(i, C_MAJOR), part(40 + i, [72])) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(apart.render, path, path.name, DEFAULT_SOUNDFONT) for path in pieces]
    font = open_soundfont(DEFAULT_SOUNDFONT)
    for path, job in zip(pieces, jobs, strict=True):
        np.testing.assert_array_equal(job.result(), render(read(path, path.name), font))


def test_a_score_that_cannot_be_read_is_refused_and_the_next_is_rendered(apart, tmp_path):
    good, bad = write(tmp_path / "a.mid", part(0, C_MAJOR)), tmp_path / "b.mid"
    bad.write_bytes(midi(END))
    with pytest.raises(Refusal, match="no notes"):
        apart.render(bad, "b.mid", DEFAULT_SOUNDFONT)
    assert len(apart.render(good, "a.mid", DEFAULT_SOUNDFONT)) > 4 * 48_000


def test_a_crash_refuses_the_score_and_the_soundfont(tmp_path):
    one = Renderer([])
    os.kill(one._server.pid, signal.SIGSEGV)
    piece = write(tmp_path / "a.mid", part(0, C_MAJOR))
    with pytest.raises(Refusal, match="crashed"):
        one.render(piece, "a.mid", DEFAULT_SOUNDFONT)
    assert one._ask(DEFAULT_SOUNDFONT) is None


def test_the_server_ends_with_the_process_that_asks():
    one = Renderer([])
    one._control.close()
    assert one._server.wait(timeout=60) == 0
