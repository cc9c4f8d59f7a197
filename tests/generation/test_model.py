"""What holds for generated audio whatever the model has learned."""

import logging
from dataclasses import fields, replace

import jax
import jaxtyping
import numpy as np
import pytest

import jen1_jax
from jen1_jax import tasks
from jen1_jax.autoencoder.codec import Codec
from jen1_jax.errors import Refusal
from jen1_jax.generation.model import EXTEND_FADE, INPAINT_FADE
from jen1_jax.generation.sampling import Sampler
from tests import tiny

RATE = 48_000
TINY = tiny.SECONDS


@pytest.fixture(scope="module")
def song():
    t = np.arange(round(0.2 * RATE)) / RATE
    return (0.4 * np.sin(2 * np.pi * np.array([440, 660]) * t[:, None])).astype(np.float32)


def test_generate_gives_stereo_of_the_length_asked_for(tiny_model):
    for seconds in (0.05, TINY, 0.3):  # within a window, one window, several
        audio = tiny_model.generate("two tones", seconds)
        assert audio.shape == (round(seconds * RATE), 2) and audio.dtype == np.float32
        assert np.isfinite(audio).all() and 0 < np.abs(audio).max() <= 1


def test_seeds_reproduce_and_differ(tiny_model):
    first, again, other = (tiny_model.generate("two tones", 0.1, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other, atol=1e-3)


def test_prompt_and_guidance_reach_the_music(tiny_model):
    """Of a model that hears its text well: the tiny one has hardly begun to."""
    rng = np.random.default_rng(0)
    shaken = jax.tree.map(
        lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape).astype(np.float32),
        tiny_model.sampler.params,
    )
    model = replace(tiny_model, sampler=replace(tiny_model.sampler, params=shaken))
    plain = model.generate("a low tone on the left", 0.1, guidance_scale=1.0)
    change = lambda prompt, scale: (
        np.std(model.generate(prompt, 0.1, guidance_scale=scale) - plain) / np.std(plain)
    )
    assert change("a low tone on the left", 1.0) == 0
    assert change("slow noise", 1.0) > 0.01 and change("a low tone on the left", 4.0) > 0.01


def test_an_empty_prompt_is_unconditional_and_says_so(tiny_model, caplog):
    with caplog.at_level(logging.INFO, "jen1_jax"):
        empty = tiny_model.generate("  ", 0.1, guidance_scale=3.0)
    assert "unconditional" in caplog.text
    np.testing.assert_allclose(
        empty, tiny_model.generate("two tones", 0.1, guidance_scale=0.0), atol=1e-5
    )


def test_a_prompt_beyond_the_limit_is_cut_and_says_so(tiny_model, caplog):
    with caplog.at_level(logging.INFO, "jen1_jax"):
        tiny_model.generate("two tones " * 30, 0.05)
    assert "longer than 16 tokens" in caplog.text


def test_inpaint_leaves_everything_outside_the_spans_alone(tiny_model, song):
    spans = [(0.03, 0.06), (0.1, 0.15)]
    result = tiny_model.inpaint(song, spans, "two tones", seed=1)
    changed = np.any(result != song, axis=1)
    inside = np.zeros(len(song), bool)
    for start, end in spans:
        inside[round(start * RATE) : round(end * RATE)] = True
    assert result.shape == song.shape and not changed[~inside].any()
    fade = round(INPAINT_FADE * RATE) // 2
    for start, end in spans:  # made anew in the middle, and no jump where it begins and ends
        assert changed[round(start * RATE) + fade : round(end * RATE) - fade].mean() > 0.99
        for edge in (round(start * RATE), round(end * RATE)):
            jump = np.abs(np.diff(result[edge - 2 : edge + 2], axis=0)).max()
            assert jump < 2 * np.abs(np.diff(song, axis=0)).max()


def test_inpaint_does_not_depend_on_what_the_hole_held(tiny_model, song):
    other = song.copy()
    middle = slice(round(0.06 * RATE) + 960, round(0.11 * RATE) - 960)  # away from the cross-fades
    other[middle] = np.random.default_rng(0).uniform(-1, 1, other[middle].shape)
    first, second = (
        tiny_model.inpaint(audio, [(0.06, 0.11)], "two tones") for audio in (song, other)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "spans",
    [
        [(0.06, 0.08), (0.08, 0.11)],
        [(0.06, 0.09), (0.07, 0.11)],
        [(0.06, 0.11), (0.07, 0.08)],
        np.array([[0.06, 0.08], [0.08, 0.11]]),
    ],
)
def test_spans_that_meet_are_one_span(tiny_model, song, spans):
    one, several = (
        tiny_model.inpaint(song, which, "two tones") for which in ([(0.06, 0.11)], spans)
    )
    np.testing.assert_array_equal(several, one)


def test_what_lies_between_two_spans_stays_however_little_it_is(tiny_model, song):
    result = tiny_model.inpaint(song, [(0.06, 0.0803), (0.0805, 0.11)], "two tones")
    between = slice(round(0.0803 * RATE), round(0.0805 * RATE))
    np.testing.assert_array_equal(result[between], song[between])
    assert (result != song).any(axis=1).mean() > 0.2


def test_a_file_shorter_than_the_margins_is_inpainted_too(tiny_model, song):
    short = song[: 3 * 64 + 10]
    assert tiny_model.inpaint(short, [(0.001, 0.002)], "two tones").shape == short.shape


def test_extend_adds_seconds_and_keeps_the_original(tiny_model, song):
    result = tiny_model.extend(song, 0.1, "two tones", seed=1)
    assert result.shape == (len(song) + round(0.1 * RATE), 2)
    kept = len(song) - round(EXTEND_FADE * RATE)
    np.testing.assert_array_equal(result[:kept], song[:kept])
    assert np.abs(result[len(song) :]).max() > 0


def test_extend_fades_into_audio_that_is_decoded_anew(tiny_model, song, monkeypatch):
    """Audio with free phases jumps where known audio ends: that must be where the fade begins, not where it is over."""
    seen, decode = [], type(tiny_model)._decode
    monkeypatch.setattr(
        type(tiny_model),
        "_decode",
        lambda self, *given: seen.append(given[1]) or decode(self, *given),
    )
    tiny_model.extend(song, 0.05, "two tones")
    [(audio, known)] = seen
    fade = round(EXTEND_FADE * RATE)
    assert len(audio) == len(known) and known[:-fade].all() and not known[-fade:].any()


def test_extend_goes_on_from_the_end_of_the_audio_alone(tiny_model, song):
    """What lies more than a window before the end cannot matter, but for its length: long files cost no more than short ones."""
    untimed = replace(tiny_model.sampler, unet=tiny_model.sampler.unet.clone(conditioning=()))
    model = replace(tiny_model, sampler=untimed)
    long = np.concatenate([np.zeros((RATE, 2), np.float32), song])
    np.testing.assert_allclose(
        model.extend(long, 0.05, "two tones")[len(long) :],
        model.extend(long[RATE // 2 + 7 :], 0.05, "two tones")[-round(0.05 * RATE) :],
        atol=1e-5,
    )


def test_mono_and_other_rates_are_converted_and_said(tiny_model, caplog):
    t = np.arange(4410) / 44_100
    mono = 0.4 * np.sin(2 * np.pi * 440 * t).astype(np.float32)
    with caplog.at_level(logging.INFO, "jen1_jax"):
        result = tiny_model.extend(mono, 0.05, "two tones", sample_rate=44_100)
    assert "mono" in caplog.text and "44100" in caplog.text
    assert len(result) == 4800 + 2400


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e7])
def test_absurd_lengths_are_refused(tiny_model, song, seconds):
    with pytest.raises(Refusal, match="seconds cannot be made"):
        tiny_model.generate("two tones", seconds)
    with pytest.raises(Refusal, match="seconds cannot be made"):
        tiny_model.extend(song, seconds)


@pytest.mark.parametrize(
    ("spans", "says"),
    [
        ([(0.1, 0.3)], "not inside the audio of 0.20 s"),
        ([(-0.1, 0.1)], "not inside"),
        ([(0.1, 0.1)], "not inside"),
        ([(0.1, 0.05)], "not inside"),
        ([(float("nan"), 0.1)], "not inside"),
        ([], "at least one span"),
        ([(0.0, 0.2)], "whole audio"),
        ([(0.0, 0.1), (0.05, 0.2)], "whole audio"),
        ([(0.01, 0.19)], r"inpaints 0\.10 s at once"),
        ([(0.01, 0.1), (0.1, 0.19)], r"inpaints 0\.10 s at once"),
        (
            [(0.01, 0.1003), (0.1005, 0.19)],
            r"inpaints 0\.10 s at once",
        ),  # apart by less than a latent frame
        (
            [(0.05, 0.15)],
            r"comes to 0\.1\d s, but this model inpaints 0\.10 s at once",
        ),  # 75 frames of 76, but for the margins
    ],
)
def test_spans_that_make_no_sense_are_refused(tiny_model, song, spans, says):
    with pytest.raises(Refusal, match=says):
        tiny_model.inpaint(song, spans)


@pytest.mark.parametrize(
    ("audio", "says"),
    [
        (np.zeros((0, 2)), "no samples"),
        (np.full((9600, 2), np.nan), "NaN"),
        (np.zeros((9600, 3)), "shape"),
        (np.zeros((2, 9600)), "shape"),
        (np.zeros((40, 2)), "too short"),
        (np.zeros((9600, 2), np.int16), "int16; give floating-point"),
    ],
)
def test_audio_that_cannot_be_used_is_refused(tiny_model, audio, says):
    with pytest.raises(Refusal, match=says):
        tiny_model.extend(audio, 0.05)


def test_a_batch_of_prompts_seconds_and_seeds_makes_each_piece_as_alone(tiny_model):
    prompts, seconds, seeds = ["two tones", "slow noise", ""], [0.05, 0.3, 0.1], [3, 4, 5]
    together = tiny_model.generate(prompts, seconds, seeds)
    for piece, prompt, length, seed in zip(together, prompts, seconds, seeds, strict=True):
        assert len(piece) == round(length * RATE)
        np.testing.assert_allclose(piece, tiny_model.generate(prompt, length, seed), atol=1e-4)
    several = tiny_model.generate("two tones", 0.05, [3, 8])
    np.testing.assert_allclose(several[0], together[0], atol=1e-4)
    assert not np.allclose(several[0], several[1], atol=1e-3)
    with pytest.raises(Refusal, match="as many of each"):
        tiny_model.generate(prompts, [0.1, 0.2])


def test_a_new_duration_compiles_nothing(tiny_model, caplog):
    make = lambda seconds: tiny_model.generate("two tones", seconds)
    make(0.32)  # the largest that is decoded at once, in a power of two of frames
    with caplog.at_level(logging.WARNING, "jax"), jax.log_compiles():
        assert len(make(0.27)) == round(0.27 * RATE)
        assert not [
            record.message for record in caplog.records if record.message.startswith("Compiling")
        ]
        jax.jit(lambda x: x + 1)(1)
    assert "Compiling" in caplog.text


def test_a_run_can_be_sampled_otherwise_than_it_says(tiny_run, tiny_model):
    plain = tiny_model.generate("two tones", 0.1)
    other = jen1_jax.load(
        tiny_run, sampler="heun", sample_steps=np.int64(3), guidance_interval=(0.0, 0.5)
    )
    assert (
        other.config.diffusion.sampler == "heun"
        and other.config.diffusion.guidance_interval == (0.0, 0.5)
    )
    assert not np.array_equal(other.generate("two tones", 0.1), plain)
    for settings, says in (
        ({"objective": "v"}, "no setting of sampling; those are diffusion.sampler"),
        ({"sampler": "plms"}, "'plms'.*ddim"),
        ({"sampler": "heun", "eta": 0.5}, "for the sampler ddim"),
        ({"sample_steps": 2.5}, "holds a int"),
        ({"guidance_interval": (0.5, 0.2)}, "two rising times"),
        ({"guidance_interval": (0, "a")}, "two rising times"),
        ({"sample_steps": 0}, "at least 1"),
    ):
        with pytest.raises(Refusal, match=says):
            jen1_jax.load(tiny_run, **settings)


def test_a_run_with_a_task_of_its_own_is_sampled_without_it(tiny_run, monkeypatch):
    monkeypatch.delitem(tasks.TASKS, "continuation")  # known only where it was trained
    assert jen1_jax.load(tiny_run).generate("two tones", 0.1).shape == (4800, 2)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"steps": 0}, "0 steps"),
        ({"steps": 2.5}, "2.5 steps"),
        ({"steps": "4"}, "'4' steps"),
        ({"guidance_scale": "2"}, "scale must be a finite number, and '2' is not"),
    ],
)
def test_what_cannot_be_sampled_with_is_refused(tiny_model, options, says, monkeypatch):
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # as outside the tests, nothing checks annotations
    with pytest.raises(Refusal, match=says):
        tiny_model.generate("two tones", 0.1, **options)


def test_a_negative_prompt_changes_the_music_where_there_is_guidance(tiny_model, caplog):
    plain, other = (
        tiny_model.generate("two tones", 0.1, guidance_scale=3.0, negative_prompt=text)
        for text in ("", "slow noise")
    )
    assert not np.array_equal(plain, other)
    with caplog.at_level(logging.INFO, "jen1_jax"):
        tiny_model.generate("two tones", 0.1, guidance_scale=1.0, negative_prompt="slow noise")
    assert "no effect" in caplog.text


@pytest.mark.parametrize(
    "scale, expected", [(2.0, ["", "a low tone", "two tones"]), (1.0, ["a low tone", "two tones"])]
)
def test_each_prompt_is_tokenised_once_and_the_negative_one_only_with_guidance(
    tiny_model, monkeypatch, scale, expected
):
    seen = []
    tokenize, truncated = type(tiny_model.text).tokenize, type(tiny_model.text.tokenizer).truncated
    note = lambda function: (
        lambda self, texts: (
            seen.extend([texts] if isinstance(texts, str) else texts) or function(self, texts)
        )
    )
    monkeypatch.setattr(type(tiny_model.text), "tokenize", note(tokenize))
    monkeypatch.setattr(type(tiny_model.text.tokenizer), "truncated", note(truncated))
    tiny_model.generate(["two tones", "a low tone", "two tones"], 0.05, guidance_scale=scale)
    assert sorted(seen) == expected


def test_a_variation_is_as_long_as_the_audio_and_less_of_it_with_more_strength(tiny_model, song):
    round_trip = tiny_model.codec.decode(tiny_model.codec.encode(song), len(song))
    made = {
        strength: tiny_model.vary(song, "two tones", strength, seed=1) for strength in (0.02, 0.9)
    }
    off = {strength: np.abs(audio - round_trip).mean() for strength, audio in made.items()}
    assert all(audio.shape == song.shape for audio in made.values()) and off[0.02] < off[0.9] / 3
    for strength in (0, 1.5, float("nan")):
        with pytest.raises(Refusal, match="strength"):
            tiny_model.vary(song, strength=strength)


class Louder(Codec):
    """Decodes with an offset, and beyond full scale."""

    def decode(self, *args, **kwargs):
        audio = super().decode(*args, **kwargs)
        return 9 * audio / np.abs(audio).max() + np.float32(20)


def test_what_is_added_to_given_audio_has_no_offset_and_does_not_clip(tiny_model, song, caplog):
    codec = tiny_model.codec
    model = replace(
        tiny_model, codec=Louder(**{part.name: getattr(codec, part.name) for part in fields(codec)})
    )
    loud = song / np.abs(song).max() * np.float32(1.2)  # given audio stays what it is, even so
    start, end, fade = round(0.06 * RATE), round(0.11 * RATE), round(INPAINT_FADE * RATE)
    for make in (lambda: model.inpaint(loud, [(0.06, 0.11)]), lambda: model.extend(loud, 0.1)):
        caplog.clear()
        with caplog.at_level(logging.INFO, "jen1_jax"):
            made = make()
        assert "had an offset" in caplog.text and "peaked at" in caplog.text
        if len(made) == len(loud):
            np.testing.assert_array_equal(
                np.delete(made, np.s_[start:end], axis=0), np.delete(loud, np.s_[start:end], axis=0)
            )
            assert np.abs(made[start + fade : end - fade]).max() <= 1
        else:
            kept = len(loud) - round(EXTEND_FADE * RATE)
            np.testing.assert_array_equal(made[:kept], loud[:kept])
            assert (
                np.abs(made[len(loud) :]).max() <= 1
                and np.abs(made[len(loud) :].mean(axis=0)).max() < 0.1
            )


def test_audio_that_is_not_finite_is_refused(tiny_model, song):
    class Diverged(Sampler):
        def fill(self, plans, *_, **__):
            return [np.full_like(plan.given, np.nan) for plan in plans]

    sampler = tiny_model.sampler
    model = replace(
        tiny_model,
        sampler=Diverged(sampler.unet, {}, sampler.config, sampler.window, sampler.frame_rate),
    )
    for make in (
        lambda: model.generate("two tones", 0.1),
        lambda: model.vary(song),
        lambda: model.inpaint(song, [(0.06, 0.11)]),
        lambda: model.extend(song, 0.1),
    ):
        with pytest.raises(Refusal, match="losses"):
            make()


def test_arrays_are_sequences(tiny_model):
    several = tiny_model.generate(
        np.array(["two tones", "slow noise"]), np.array([0.05, 0.1]), np.arange(2)
    )
    for piece, again in zip(
        several, tiny_model.generate(["two tones", "slow noise"], [0.05, 0.1], [0, 1]), strict=True
    ):
        np.testing.assert_array_equal(piece, again)


def test_what_is_of_another_kind_is_refused(tiny_model, song, monkeypatch):
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # as outside the tests, nothing checks annotations
    for spans in ((0.1, 0.15), 0.1, [("a", "b")], [(0.1, 0.12, 0.15)]):
        with pytest.raises(Refusal, match="not pairs"):
            tiny_model.inpaint(song, spans)
    for arguments, negative, says in (
        (("two tones", "long"), "", "seconds cannot be made"),
        (("two tones", 0.1, 1.5), "", "is no seed; give a whole number"),
        (("two tones", 0.1, "first"), "", "is no seed; give a whole number"),
        (([None], 0.1), "", "no prompt"),
        (("two tones", 0.1), ["slow noise"], "one negative prompt"),
    ):
        with pytest.raises(Refusal, match=says):
            tiny_model.generate(*arguments, negative_prompt=negative)


def test_what_is_made_is_told_where_in_its_piece_it_lies(tiny_model, song):
    """The piece that results is meant: a continued file with what is added, of which only the end is read."""
    asked, modes = [], []

    class Recorder(Sampler):
        def fill(self, plans, *_, causal, **__):
            modes.append(causal)
            asked.extend((plan.start, plan.total) for plan in plans)
            return [plan.given for plan in plans]

    sampler = tiny_model.sampler
    model = replace(
        tiny_model,
        sampler=Recorder(sampler.unet, {}, sampler.config, sampler.window, sampler.frame_rate),
    )
    assert sampler.frame_rate == RATE / 64
    model.generate("two tones", [0.05, 0.3])
    model.vary(song)
    model.inpaint(song, [(0.06, 0.11)])
    model.extend(song, 0.1)
    model.extend(np.concatenate([song] * 5), 0.1)
    model.extend(song, 0.1, start=30.0)
    model.vary(song, start=30.0, total=60.0)
    model.generate("two tones", 0.05, total=60.0)
    seconds = (
        (sampler.window + 2 * model.codec.margin) * 64 / RATE
    )  # that an encoder reads of a long file
    expected = [
        (0, 0.05),
        (0, 0.3),
        (0, 0.2),
        (0, 0.2),
        (0.2 - min(seconds, 0.2), 0.3),
        (1 - seconds, 1.1),
    ]
    expected += [(30.2 - min(seconds, 0.2), 30.3), (30, 60), (0, 60)]
    np.testing.assert_allclose(asked, expected, atol=1e-6)
    assert modes == [
        None,
        None,
        False,
        True,
        True,
        True,
        None,
        None,
    ]  # inpaint looks ahead, extend does not


@pytest.mark.parametrize(
    "place, says",
    [
        ({"start": -1}, "Nothing starts -1 seconds"),
        ({"start": "1"}, "Nothing starts '1' seconds"),
        ({"start": float("inf")}, "Nothing starts inf seconds"),
        ({"start": 5, "total": 4}, "4 seconds in total ends before what is made, at 5.10 s"),
        ({"total": float("nan")}, "nan seconds in total"),
        ({"total": "60"}, "'60' seconds in total"),
    ],
)
def test_places_that_are_in_no_piece_are_refused(tiny_model, place, says, monkeypatch):
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # as outside the tests, nothing checks annotations
    with pytest.raises(Refusal, match=says):
        tiny_model.generate("two tones", 0.1, **place)


def test_a_model_without_timing_is_asked_for_no_place(tiny_model):
    untimed = replace(tiny_model.sampler, unet=tiny_model.sampler.unet.clone(conditioning=()))
    for place in ({"start": 1.0}, {"total": 60.0}):
        with pytest.raises(Refusal, match=r"without unet\.timing"):
            replace(tiny_model, sampler=untimed).generate("two tones", 0.1, **place)


def test_the_trained_network_hears_where_it_is(tiny_model):
    plan = tiny_model._nothing(4800)
    plans = [plan, plan, replace(plan, start=30.0), replace(plan, total=60.0)]
    once, again, *others = tiny_model._fill(plans, ["two tones"] * 4, [1] * 4, "", None, None)
    np.testing.assert_allclose(once, again, atol=1e-5)
    for other in others:
        assert np.abs(other - once).max() > 1e-4
