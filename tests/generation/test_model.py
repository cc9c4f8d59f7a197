"""Loading a model, varying audio, and what holds for all ways of generating."""

import logging
from dataclasses import fields, replace

import numpy as np
import pytest

import jen1_jax
from jen1_jax import tasks
from jen1_jax.autoencoder.codec import Codec
from jen1_jax.generation.sampling import LatentSampler
from jen1_numpy.errors import Refusal
from jen1_numpy.generation import EXTEND_FADE, INPAINT_FADE
from jen1_numpy.prompts import embed_prompts
from tests.generation import RATE


def test_a_run_can_be_sampled_with_other_settings_than_its_own(tiny_run, tiny_model):
    plain = tiny_model.generate("two tones", 0.1)
    other = jen1_jax.load(
        tiny_run, sampler="heun", sample_steps=np.int64(3), guidance_interval=(0.0, 0.5)
    )
    settings = other.config.diffusion
    assert settings.sampler == "heun" and settings.guidance_interval == (0.0, 0.5)
    assert not np.array_equal(other.generate("two tones", 0.1), plain)
    for settings, message in (
        ({"objective": "v"}, "no setting of sampling; those are diffusion.sampler"),
        ({"sampler": "plms"}, "'plms'.*ddim"),
        ({"sampler": "heun", "eta": 0.5}, "for the sampler ddim"),
        ({"sample_steps": 2.5}, "holds a int"),
        ({"guidance_interval": (0.5, 0.2)}, "two rising times"),
        ({"guidance_interval": (0, "a")}, "two rising times"),
        ({"sample_steps": 0}, "at least 1"),
    ):
        with pytest.raises(Refusal, match=message):
            jen1_jax.load(tiny_run, **settings)


def test_a_run_with_a_task_of_its_own_is_sampled_without_it(tiny_run, monkeypatch):
    monkeypatch.delitem(tasks.TASKS, "continuation")  # registered only where it was trained
    assert jen1_jax.load(tiny_run).generate("two tones", 0.1).shape == (4800, 2)


def test_a_variation_keeps_the_length_and_less_of_the_audio_with_more_strength(tiny_model, song):
    round_trip = tiny_model.codec.decode(tiny_model.codec.encode(song), len(song))
    varied = {
        strength: tiny_model.vary(song, "two tones", strength, seed=1) for strength in (0.02, 0.9)
    }
    distance = {strength: np.abs(audio - round_trip).mean() for strength, audio in varied.items()}
    assert all(audio.shape == song.shape for audio in varied.values())
    assert distance[0.02] < distance[0.9] / 3
    for strength in (0, 1.5, float("nan")):
        with pytest.raises(Refusal, match="strength"):
            tiny_model.vary(song, strength=strength)


def all_methods(model, song, **options):
    """Each method with the same options, as functions without arguments."""
    return (
        lambda: model.generate("two tones", 0.1, **options),
        lambda: model.vary(song, **options),
        lambda: model.inpaint(song, [(0.06, 0.11)], **options),
        lambda: model.extend(song, 0.1, **options),
    )


def test_every_method_checks_its_options(tiny_model, song):
    for method in all_methods(tiny_model, song, steps=0):
        with pytest.raises(Refusal, match="0 steps"):
            method()
    for method in all_methods(tiny_model, song, guidance=2.0):
        with pytest.raises(TypeError, match="'guidance'"):
            method()


class Louder(Codec):
    """Decodes with an offset, and beyond full scale."""

    def decode(self, *args, **kwargs):
        audio = super().decode(*args, **kwargs)
        return 9 * audio / np.abs(audio).max() + np.float32(20)


def test_new_audio_beside_given_audio_has_no_offset_and_does_not_clip(tiny_model, song, caplog):
    codec = tiny_model.codec
    louder = Louder(**{part.name: getattr(codec, part.name) for part in fields(codec)})
    model = replace(tiny_model, codec=louder)
    loud = song / np.abs(song).max() * np.float32(1.2)  # given audio stays as it is, even so
    start, end, fade = round(0.06 * RATE), round(0.11 * RATE), round(INPAINT_FADE * RATE)

    def run(method):
        caplog.clear()
        with caplog.at_level(logging.INFO, "jen1_jax"):
            result = method()
        assert "had an offset" in caplog.text and "peaked at" in caplog.text
        return result

    inpainted = run(lambda: model.inpaint(loud, [(0.06, 0.11)]))
    outside = lambda audio: np.delete(audio, np.s_[start:end], axis=0)
    np.testing.assert_array_equal(outside(inpainted), outside(loud))
    assert np.abs(inpainted[start + fade : end - fade]).max() <= 1
    extended = run(lambda: model.extend(loud, 0.1))
    kept = len(loud) - round(EXTEND_FADE * RATE)
    np.testing.assert_array_equal(extended[:kept], loud[:kept])
    added = extended[len(loud) :]
    assert np.abs(added).max() <= 1 and np.abs(added.mean(axis=0)).max() < 0.1


def with_sampler(model, kind):
    """The model with a sampler of another class."""
    parts = {part.name: getattr(model.sampler, part.name) for part in fields(model.sampler)}
    return replace(model, sampler=kind(**parts))


def test_audio_that_is_not_finite_is_refused(tiny_model, song):
    class Diverged(LatentSampler):
        def sample(self, requests, *_, **__):
            return [np.full_like(request.latents, np.nan) for request in requests]

    for method in all_methods(with_sampler(tiny_model, Diverged), song):
        with pytest.raises(Refusal, match="losses"):
            method()


def test_the_sampler_gets_the_place_of_the_music_in_its_piece(tiny_model, song):
    """The piece is the whole result: the given file and what is added, of which the end is read."""
    places, modes = [], []

    class Recorder(LatentSampler):
        def sample(self, requests, *_, causal, **__):
            modes.append(causal)
            places.extend((request.start, request.total) for request in requests)
            return [request.latents for request in requests]

    model = with_sampler(tiny_model, Recorder)
    assert model.sampler.frame_rate == RATE / 64
    model.generate("two tones", [0.05, 0.3])
    model.vary(song)
    model.inpaint(song, [(0.06, 0.11)])
    model.extend(song, 0.1)
    model.extend(np.concatenate([song] * 5), 0.1)
    model.extend(song, 0.1, start=30.0)
    model.vary(song, start=30.0, total=60.0)
    model.generate("two tones", 0.05, total=60.0)
    # of a long file that are encoded
    seconds = (model.sampler.window + 2 * model.codec.margin) * 64 / RATE
    expected = [
        (0, 0.05),
        (0, 0.3),
        (0, 0.2),
        (0, 0.2),
        (0.2 - min(seconds, 0.2), 0.3),
        (1 - seconds, 1.1),
    ]
    expected += [(30.2 - min(seconds, 0.2), 30.3), (30, 60), (0, 60)]
    np.testing.assert_allclose(places, expected, atol=1e-6)
    # inpaint looks ahead, extend does not
    assert modes == [None, None, False, True, True, True, None, None]


def test_a_model_without_timing_takes_no_place(tiny_model):
    untimed = replace(tiny_model.sampler, unet=tiny_model.sampler.unet.clone(conditioning=()))
    for place in ({"start": 1.0}, {"total": 60.0}):
        with pytest.raises(Refusal, match='without the conditioner "timing"'):
            replace(tiny_model, sampler=untimed).generate("two tones", 0.1, **place)


def test_the_place_reaches_the_network(tiny_model):
    request = tiny_model._request(4800)
    requests = [request, request, replace(request, start=30.0), replace(request, total=60.0)]
    prompts = embed_prompts(tiny_model.prompts, ["two tones"] * 4, "", True)
    once, again, *others = tiny_model.sampler.sample(
        requests, prompts, seeds=[1] * 4, steps=4, guidance_scale=3.0
    )
    np.testing.assert_allclose(once, again, atol=1e-5)
    for other in others:
        assert np.abs(other - once).max() > 1e-4


def test_an_exception_from_progress_ends_the_call(tiny_model):
    def stop(doing, done, total):
        if doing == "sampling" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(tiny_model, progress=stop).generate("two tones", 0.1)
