"""Loudness, clipping and what else is measured of one recording."""

import numpy as np
import pytest

from data_pipeline.judging import Judge
from data_pipeline.judging.loudness import k_weighting

RATE = 48_000


def sine(decibels, seconds, rate=RATE, frequency=1000.0):
    time = np.arange(round(seconds * rate)) / rate
    wave = 10 ** (decibels / 20) * np.sin(2 * np.pi * frequency * time)
    return np.stack([wave, wave], axis=-1).astype(np.float32)


def judge(audio, rate=RATE, cut=10_007):
    judge = Judge(rate, audio.shape[1])
    for start in range(0, len(audio), cut):
        judge.add(audio[start : start + cut])
    return judge.verdict()


def noise(samples, channels=2, seed=0):
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal((samples, channels))).astype(np.float32)


def test_the_filter_has_the_coefficients_of_the_recommendation_at_48_khz():
    shelf, high_pass = k_weighting(48_000)
    bs1770 = [1.53512485958697, -2.69169618940638, 1.19839281085285, 1]
    np.testing.assert_allclose(shelf, [*bs1770, -1.69065929318241, 0.73248077421585], rtol=1e-12)
    np.testing.assert_allclose(high_pass, [1, -2, 1, 1, -1.99004745483398, 0.99007225036621])


# EBU Tech 3341 (2016), table 1: level in dBFS and seconds of each stretch, what a meter must show.
EBU = {
    1: ([(-23, 20)], -23),
    2: ([(-33, 20)], -33),
    3: ([(-36, 10), (-23, 60), (-36, 10)], -23),
    4: ([(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)], -23),
    5: ([(-26, 20), (-20, 20.1), (-26, 20)], -23),
}


@pytest.mark.parametrize("case", EBU)
def test_the_loudness_of_the_ebu_signals(case):
    stretches, lufs = EBU[case]
    audio = np.concatenate([sine(*stretch) for stretch in stretches])
    assert judge(audio).loudness == pytest.approx(lufs, abs=0.1)


@pytest.mark.parametrize("rate", [4_000, 11_025, 44_100, 192_000, 768_000])
def test_the_loudness_is_that_of_any_sample_rate(rate):
    assert judge(sine(-23, 2, rate), rate, cut=rate).loudness == pytest.approx(-23, abs=0.2)


def test_mono_is_as_loud_as_two_equal_channels():
    audio = sine(-23, 2)
    assert judge(audio[:, :1]).loudness == pytest.approx(judge(audio).loudness)


def test_the_verdict_does_not_depend_on_how_the_recording_is_cut():
    audio = noise(RATE // 2).clip(-0.1, 0.1)
    whole, parts = judge(audio, cut=len(audio)), judge(audio, cut=7)
    assert whole.loudness == pytest.approx(parts.loudness, abs=1e-6)
    assert whole.clipped == parts.clipped > 0


def test_what_is_short_or_silent_has_no_loudness():
    assert judge(sine(-23, 0.39)).loudness is None
    assert judge(sine(-80, 2)).loudness is None
    assert judge(np.zeros((0, 2), np.float32)).loudness is None


@pytest.mark.parametrize("gain", [1, 0.5, -0.5])
def test_the_share_of_clipped_samples_is_counted_at_any_gain(gain):
    audio = 0.3 * noise(RATE)
    audio[1000:1100] = 0.3
    audio[2000:2050, 0] = -0.3
    audio[3000:3002] = 0.3  # too short a run
    assert judge(gain * audio).clipped == 250 / audio.size
    audio[[4000, 4001]] = [[0.31], [-0.31]]  # the full scale, which the runs do not reach
    assert judge(gain * audio).clipped == 0


def test_silence_is_not_clipped():
    verdict = judge(np.zeros((RATE, 2), np.float32))
    assert verdict.silent and verdict.clipped == 0 and verdict.peak == 0


@pytest.mark.parametrize("gain", [1, 0.5, 0, -1])
def test_a_channel_that_is_a_multiple_of_the_other_is_mono(gain):
    audio = noise(RATE, channels=1)
    stereo = np.concatenate([audio, gain * audio], axis=1)
    assert judge(stereo).mono and judge(stereo[:, ::-1]).mono
    rounded = np.round(stereo * 32767) / 32767
    assert judge(rounded.astype(np.float32)).mono
    assert not judge(stereo + 0.01 * noise(RATE, seed=1)).mono


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_is_found(bad):
    audio = noise(RATE)
    assert judge(audio).finite
    audio[RATE // 2, 1] = bad
    assert not judge(audio).finite
