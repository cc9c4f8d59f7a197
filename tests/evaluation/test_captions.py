"""The evaluation by held-out captions, of a model that returns the clip of each caption."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from jen1_jax.evaluation import captions
from jen1_jax.evaluation.autoencoder import Clip
from jen1_jax.generation.model import Model
from jen1_numpy.errors import Refusal
from tests.evaluation.test_adherence import RATE, clip

CLIPS = [
    Clip(str(number), clip(number, 0)[: RATE + 100 * number], f"tone {number}")
    for number in range(9)
]
SHORT = Clip("short", CLIPS[0].audio[: RATE // 2], "tone 10")
WITHOUT_CAPTION = Clip("without a caption", CLIPS[0].audio)


class FakeModel(Model):
    """Returns for each caption a clip like that of the caption; its autoencoder is the identity."""

    sample_rate, sampler = RATE, SimpleNamespace(window=470, unet=SimpleNamespace(conditioning=()))
    codec = SimpleNamespace(
        hop=100, encode=lambda audio: audio, decode=lambda latents, samples: latents[:samples]
    )

    def generate(self, prompts, seconds, seeds):
        return [clip(int(prompt.split()[1]), 1)[: round(seconds * RATE)] for prompt in prompts]


@pytest.fixture
def model():
    return object.__new__(FakeModel)  # without a run


def test_music_that_follows_its_captions_has_low_ranks(model, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        captions, "run_page", lambda path, title, sounds, **options: drawn.extend(sounds)
    )
    clips = [SHORT, *CLIPS, WITHOUT_CAPTION, *CLIPS]
    report = captions.evaluate_captions(model, clips, 2 * RATE, 20, tmp_path / "out")
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    window = 470 * 100 / RATE  # shorter than any clip
    assert report["clips"] == 9 and report["seconds"] == pytest.approx(window)
    assert report["rows"]["round trip"]["timbre"]["rank"] == 1
    assert report["rows"]["generated"]["timbre"]["p"] < 0.01
    files = {path.name for path in (tmp_path / "out").glob("*.wav")}
    assert files >= {"0-held-out.wav", "3-generated.wav"}
    assert drawn[0].caption == drawn[1].caption != drawn[2].caption


def test_each_caption_has_one_clip_and_the_choice_does_not_depend_on_the_order():
    some = [SHORT, WITHOUT_CAPTION, *CLIPS, *CLIPS]
    names = lambda clips: [clip.caption for clip in clips]
    assert sorted(names(captions.one_per_caption(some, RATE, 20))) == names(CLIPS)
    few = captions.one_per_caption(some, RATE, 4)
    assert len(few) == 4
    assert all(clip.audio.base is None for clip in few)  # none is a view of its whole batch
    assert names(few) == names(captions.one_per_caption(reversed(some), RATE, 4))


def test_a_model_with_timing_gets_the_position_of_each_clip(model, tmp_path, monkeypatch):
    given = []

    def generate(self, prompts, seconds, seeds, *, start, total):
        given.extend(zip(prompts, start, total, strict=True))
        return [clip(0, 1)[: round(seconds * RATE)] for _ in prompts]

    monkeypatch.setattr(FakeModel, "generate", generate)
    monkeypatch.setattr(FakeModel.sampler.unet, "conditioning", ("timing",))
    monkeypatch.setattr(captions, "run_page", lambda *_, **__: None)
    placed = [replace(clip, start=10.0 * number, total=200.0) for number, clip in enumerate(CLIPS)]
    captions.evaluate_captions(model, placed, 2 * RATE, 20, tmp_path / "out")
    assert sorted(given) == [(clip.caption, clip.start, clip.total) for clip in placed]


def test_too_few_captions_are_refused(model, tmp_path):
    clips = [*CLIPS[:7], SHORT, *CLIPS[:7]]
    with pytest.raises(Refusal, match="at least 8"):
        captions.evaluate_captions(model, clips, 2 * RATE, 48, tmp_path / "out")
    assert not (tmp_path / "out").exists()
