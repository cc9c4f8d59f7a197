"""The evaluation of a model by held-out captions, with a model that plays what it is told."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from jen1_jax.errors import Refusal
from jen1_jax.evaluation import captions
from jen1_jax.evaluation.autoencoder import Clip
from jen1_jax.generation.model import Model
from tests.evaluation.test_adherence import RATE, clip

CLIPS = [
    Clip(str(number), clip(number, 0)[: RATE + 100 * number], f"tone {number}")
    for number in range(9)
]
SHORT, UNTOLD = (
    Clip("short", CLIPS[0].audio[: RATE // 2], "tone 10"),
    Clip("untold", CLIPS[0].audio),
)


class Playing(Model):
    """Each caption gives other music of its clip's kind; the autoencoder changes nothing."""

    sample_rate, sampler = RATE, SimpleNamespace(window=470, unet=SimpleNamespace(conditioning=()))
    codec = SimpleNamespace(
        hop=100, encode=lambda audio: audio, decode=lambda latents, samples: latents[:samples]
    )

    def generate(self, prompts, seconds, seeds):
        return [clip(int(prompt.split()[1]), 1)[: round(seconds * RATE)] for prompt in prompts]


@pytest.fixture
def model():
    return object.__new__(Playing)  # without a run


def test_captions_that_are_followed_rank_first(model, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        captions, "run_page", lambda path, title, sounds, **options: drawn.extend(sounds)
    )
    report = captions.evaluate_captions(
        model, [SHORT, *CLIPS, UNTOLD, *CLIPS], 2 * RATE, 20, tmp_path / "out"
    )
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["clips"] == 9 and report["seconds"] == pytest.approx(
        470 * 100 / RATE
    )  # the window, shorter than any clip
    assert report["rows"]["round trip"]["timbre"]["rank"] == 1
    assert report["rows"]["generated"]["timbre"]["p"] < 0.01
    assert {path.name for path in (tmp_path / "out").glob("*.wav")} >= {
        "0-held-out.wav",
        "3-generated.wav",
    }
    assert drawn[0].caption == drawn[1].caption != drawn[2].caption


def test_each_caption_has_one_clip_and_a_few_are_the_same_few_in_any_order():
    some = [SHORT, UNTOLD, *CLIPS, *CLIPS]
    assert sorted(clip.caption for clip in captions.one_a_caption(some, RATE, 20)) == [
        clip.caption for clip in CLIPS
    ]
    few = captions.one_a_caption(some, RATE, 4)
    assert len(few) == 4 and all(
        clip.audio.base is None for clip in few
    )  # none holds the batch that it came in
    assert [clip.caption for clip in few] == [
        clip.caption for clip in captions.one_a_caption(reversed(some), RATE, 4)
    ]


def test_a_model_that_knows_places_is_asked_for_the_place_of_each_clip(
    model, tmp_path, monkeypatch
):
    asked = []

    def generate(self, prompts, seconds, seeds, *, start, total):
        asked.extend(zip(prompts, start, total, strict=True))
        return [clip(0, 1)[: round(seconds * RATE)] for _ in prompts]

    monkeypatch.setattr(Playing, "generate", generate)
    monkeypatch.setattr(Playing.sampler.unet, "conditioning", ("timing",))
    monkeypatch.setattr(captions, "run_page", lambda *_, **__: None)
    placed = [replace(clip, start=10.0 * number, total=200.0) for number, clip in enumerate(CLIPS)]
    captions.evaluate_captions(model, placed, 2 * RATE, 20, tmp_path / "out")
    assert sorted(asked) == [(clip.caption, clip.start, clip.total) for clip in placed]


def test_too_few_captions_are_refused(model, tmp_path):
    with pytest.raises(Refusal, match="at least 8"):
        captions.evaluate_captions(
            model, [*CLIPS[:7], SHORT, *CLIPS[:7]], 2 * RATE, 48, tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()
