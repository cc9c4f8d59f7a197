"""Properties of `generate` that hold whatever the model has learned."""

import logging
from dataclasses import replace

import jax
import numpy as np
import pytest

from jen1_numpy.errors import Refusal
from tests import tiny
from tests.generation import RATE


def test_generate_gives_stereo_of_the_length_asked_for(tiny_model):
    for seconds in (0.05, tiny.SECONDS, 0.3):  # within a window, one window, several
        audio = tiny_model.generate("two tones", seconds)
        assert audio.shape == (round(seconds * RATE), 2) and audio.dtype == np.float32
        assert np.isfinite(audio).all() and 0 < np.abs(audio).max() <= 1


def test_seeds_reproduce_and_differ(tiny_model):
    first, again, other = (tiny_model.generate("two tones", 0.1, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other, atol=1e-3)


def test_prompt_and_guidance_reach_the_music(tiny_model):
    """With random weights, since the tiny model has hardly begun to use its text."""
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


def test_an_empty_prompt_is_unconditional_and_logged(tiny_model, caplog):
    with caplog.at_level(logging.INFO, "jen1_jax"):
        empty = tiny_model.generate("  ", 0.1, guidance_scale=3.0)
    assert "unconditional" in caplog.text
    np.testing.assert_allclose(
        empty, tiny_model.generate("two tones", 0.1, guidance_scale=0.0), atol=1e-5
    )


def test_a_prompt_beyond_the_limit_is_cut_and_logged(tiny_model, caplog):
    with caplog.at_level(logging.INFO, "jen1_jax"):
        tiny_model.generate("two tones " * 30, 0.05)
    assert "longer than 16 tokens" in caplog.text


def test_a_negative_prompt_changes_the_music_where_there_is_guidance(tiny_model, caplog):
    plain, other = (
        tiny_model.generate("two tones", 0.1, guidance_scale=3.0, negative_prompt=text)
        for text in ("", "slow noise")
    )
    assert not np.array_equal(plain, other) and "no effect" not in caplog.text
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


def test_a_batch_of_prompts_seconds_and_seeds_gives_each_piece_as_alone(tiny_model):
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


def test_arrays_are_sequences(tiny_model):
    several = tiny_model.generate(
        np.array(["two tones", "slow noise"]), np.array([0.05, 0.1]), np.arange(2)
    )
    for piece, again in zip(
        several, tiny_model.generate(["two tones", "slow noise"], [0.05, 0.1], [0, 1]), strict=True
    ):
        np.testing.assert_array_equal(piece, again)


def test_a_new_duration_and_a_new_number_of_steps_compile_no_network(tiny_model, caplog):
    generate = lambda seconds, steps: tiny_model.generate("two tones", seconds, steps=steps)
    generate(0.32, 4)  # the largest that is decoded at once, in a power of two of frames
    compiled = lambda: [
        record.message for record in caplog.records if record.message.startswith("Compiling")
    ]
    with caplog.at_level(logging.WARNING, "jax"), jax.log_compiles():
        assert len(generate(0.27, 4)) == round(0.27 * RATE)
        assert not compiled()
        generate(0.27, 3)
        assert not [message for message in compiled() if "jit(step)" in message]
        jax.jit(lambda x: x + 1)(1)
    assert compiled()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e7, "long"])
def test_absurd_lengths_are_refused(tiny_model, song, seconds, unchecked):
    with pytest.raises(Refusal, match="seconds cannot be generated"):
        tiny_model.generate("two tones", seconds)
    with pytest.raises(Refusal, match="seconds cannot be generated"):
        tiny_model.extend(song, seconds)


def test_prompts_and_seeds_of_another_type_are_refused(tiny_model, unchecked):
    with pytest.raises(Refusal, match="None is not a prompt"):
        tiny_model.generate([None], 0.1)
    with pytest.raises(Refusal, match="is not a seed"):
        tiny_model.generate("two tones", 0.1, "first")
