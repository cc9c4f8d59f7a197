"""From the same noise, generation in PyTorch gives the audio of ours; and what it refuses."""

import copy
from dataclasses import replace

import jax
import numpy as np
import pytest
import torch

from jen1_jax.config import to_plain
from jen1_jax.generation.model import Model
from jen1_jax.models.diffusion import check_sampling
from jen1_numpy.errors import Refusal
from jen1_numpy.tokenizer import SentencePiece
from jen1_torch.autoencoder import Autoencoder
from jen1_torch.codec import Codec, Whitening
from jen1_torch.conditioning import CONDITIONERS, Conditioner
from jen1_torch.generation import Generation
from jen1_torch.t5 import T5Encoder
from jen1_torch.text import TrainedText
from jen1_torch.unet import UNet
from tests.export.testing import loaded
from tests.generation import RATE

pytestmark = pytest.mark.slow  # our sampler is compiled

LIMIT = 1e-5  # -100 dB
# 0.2 s of two tones, one in each channel
TIMES = np.arange(round(0.2 * RATE)) / RATE
SONG = (0.4 * np.sin(2 * np.pi * np.array([440, 660]) * TIMES[:, None])).astype(np.float32)
TEXT = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")


class Twin(Generation):
    """Our model in PyTorch."""

    device = torch.device("cpu")

    def __init__(self, model):
        self.config = to_plain(model.config)
        fields = lambda section, *others: {
            name: value for name, value in self.config[section].items() if name not in others
        }
        autoencoder = Autoencoder(**fields("autoencoder", "mask_rate", "mask_unit", "dtype"))
        whitening = Whitening(len(model.codec.whitening.mean), model.codec.k)
        whitening.load_state_dict(
            {name: torch.tensor(array) for name, array in model.codec.whitening.arrays().items()}
        )
        self.codec = Codec(
            loaded(autoencoder, model.codec.params), whitening, RATE, margin=model.codec.margin
        )
        unet = UNet(
            out_channels=model.codec.k,
            conditioning={"timing": 128},
            **fields("unet", "conditioning", "remat", "scan", "dtype"),
        )
        self.unet = loaded(unet, model.sampler.params)
        text = T5Encoder(**{name: self.config["text"][name] for name in TEXT})
        tokenizer = SentencePiece(model.run.text, self.config["text"]["max_length"])
        self.prompts = TrainedText(tokenizer, loaded(text, model.text_params))
        self.whole_windows = model.sampler.whole_windows

    def with_settings(self, **changes):
        """The model with other fields in the section `diffusion` of its configuration."""
        other = copy.copy(self)
        other.config = self.config | {"diffusion": self.config["diffusion"] | changes}
        return other


@pytest.fixture(scope="module")
def models(small_run):
    """A small model with random parameters besides the trained ones, and its twin."""
    model = Model.load(small_run.path)
    rng = np.random.default_rng(0)
    shake = lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32)
    sampler = replace(model.sampler, params=jax.tree.map(shake, model.sampler.params))
    ours = replace(model, sampler=sampler)
    return ours, Twin(ours)


def our_noise(model, *seeds):
    """The noise from which our model starts each window of the pieces with these seeds."""
    return lambda piece, window: model.sampler.noise(seeds[piece], window)


def difference(audio, expected):
    """The RMS of the difference, relative to that of `expected`."""
    assert audio.shape == expected.shape and audio.dtype == np.float32
    return np.sqrt(np.mean((audio - expected) ** 2) / np.mean(expected**2))


METHODS = {
    "generate": lambda model, **options: model.generate("two tones", 0.3, **options),
    "inpaint": lambda model, **options: model.inpaint(
        SONG, [(0.06, 0.11), (0.15, 0.17)], "slow noise", **options
    ),
    "extend": lambda model, **options: model.extend(SONG, 0.1, "slow noise", start=2.0, **options),
    "vary": lambda model, **options: model.vary(SONG, "two tones", 0.7, **options),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_same_noise_gives_the_same_audio(models, name):
    """The parts that are generated, which another prompt or other noise changes much more."""
    ours, twin = models
    generate, noise = METHODS[name], our_noise(ours, 3)
    expected = generate(ours, seed=3, guidance_scale=3.0, steps=6)
    audio = generate(twin, noise=noise, guidance_scale=3.0, steps=6)
    changed = slice(None)
    if name == "extend":
        changed = slice(len(SONG), None)
    if name == "inpaint":
        changed = ~(expected == SONG).all(axis=1)
        np.testing.assert_array_equal(audio[~changed], SONG[~changed])
    assert difference(audio[changed], expected[changed]) < LIMIT
    for options in ({"guidance_scale": 3.1}, {"noise": our_noise(ours, 4)}):
        options = {"noise": noise, "guidance_scale": 3.0, "steps": 6} | options
        other = generate(twin, **options)
        assert difference(other[changed], expected[changed]) > 1e-3


def test_settings_of_sampling_count_alike(models):
    """Also in a window with context, which guidance does not count."""
    ours, twin = models
    changes = dict(
        sampler="dpm_solver",
        times="logit_normal",
        guidance_interval=(0.2, 0.8),
        guidance_rescale=0.5,
        guidance_limit=0.3,
        guidance_parallel=0.5,
        reference_frames=64,
    )
    config = ours.config.diffusion.copy_and_resolve_references().unlock()
    config.update(changes)
    ours = replace(ours, sampler=replace(ours.sampler, diffusion=config))
    plain = twin.generate("slow noise", 0.2, noise=our_noise(ours, 0), steps=5)
    expected = ours.generate("slow noise", 0.2, steps=5)
    audio = twin.with_settings(**changes).generate(
        "slow noise", 0.2, noise=our_noise(ours, 0), steps=5
    )
    assert difference(audio, expected) < LIMIT
    assert difference(plain, expected) > 1e-3


@pytest.mark.parametrize("name", ["inpaint", "extend"])
def test_the_decoder_is_given_the_same_audio_around(models, monkeypatch, name):
    """As models of levels need it, whose decoder continues its phases."""
    given = []
    for model, owner, method in zip(models, (Model, Codec), ("_decode", "decode"), strict=True):
        decode = getattr(owner, method)

        def noted(self, latents, around, decode=decode):
            given.append(around)
            return decode(self, latents, around)

        monkeypatch.setattr(owner, method, noted)
        METHODS[name](model, steps=1)
    ours, theirs = given[: len(given) // 2], given[len(given) // 2 :]
    assert len(ours) == (2 if name == "inpaint" else 1)
    for (audio, known), (our_audio, our_known) in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(audio, our_audio)
        np.testing.assert_array_equal(known, our_known)
        assert known.any() and not known.all()


def test_a_batch_gives_what_our_model_gives_for_each_piece_alone(models):
    """With places and lengths of their own, and a list of noise in the order of sampling."""
    ours, twin = models
    prompts, seconds, starts = ["two tones", "slow noise", ""], [0.1, 0.3, 0.2], [0, 30.0, 5]
    options = dict(total=60.0, negative_prompt="a low tone on the left", guidance_scale=2.5)
    order = [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (2, 2), (1, 3)]
    noise = [our_noise(ours, 1, 2, 3)(piece, window) for piece, window in order]
    pieces = twin.generate(prompts, seconds, start=starts, noise=noise, **options)
    places = zip(prompts, seconds, (1, 2, 3), starts, strict=True)
    for audio, (prompt, length, seed, start) in zip(pieces, places, strict=True):
        expected = ours.generate(prompt, length, seed, start=start, **options)
        assert difference(audio, expected) < LIMIT
    with pytest.raises(Refusal, match="noise ends before window"):
        twin.generate(prompts, seconds, noise=noise[:-1])
    with pytest.raises(Refusal, match=r"window 0 of piece 1 has the shape \[5, 6\]; .* \[96, 6\]"):
        twin.generate(prompts, seconds, noise=lambda piece, _: noise[0][: 5 if piece else 96])


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_seed_reproduces_the_music_also_in_a_batch(models, sampler):
    twin = models[1].with_settings(sampler=sampler)
    first, again, other = (twin.generate("two tones", 0.3, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert difference(other, first) > 0.1
    _, in_batch = twin.generate("two tones", 0.3, [4, 3])
    np.testing.assert_allclose(in_batch, first, atol=1e-5)


def test_ddpm_draws_other_noise_in_every_step(models):
    twin, noise = models[1], our_noise(models[0], 0)
    once, other = (
        twin.with_settings(sampler="ddpm").generate("two tones", 0.1, seed, noise=noise)
        for seed in (1, 2)
    )
    assert difference(other, once) > 0.1


def test_the_music_in_half_precision_is_nearly_the_same(models):
    _, twin = models
    half = copy.copy(twin)
    half.unet = copy.deepcopy(twin.unet).to(torch.bfloat16)
    expected = twin.generate("two tones", 0.1)
    assert 1e-4 < difference(half.generate("two tones", 0.1), expected) < 0.2


def test_progress_is_reported_before_every_step_and_can_end_the_call(models):
    twin, calls = copy.copy(models[1]), []
    twin.progress = lambda *frames: calls.append(frames)
    twin.generate("two tones", 0.2, steps=2)  # windows with 96, 48 and 6 new frames
    assert calls == [(done, 150) for done in (0, 48, 96, 120, 144, 147)]

    def stop(done, total):
        raise KeyboardInterrupt

    twin.progress = stop
    with pytest.raises(KeyboardInterrupt):
        twin.generate("two tones", 0.1)


class Tempo(Conditioner):
    """A conditioner of a user."""

    names = ("tempo",)
    null_rate = 0.5

    def given(self, value):
        return {"tempo": float(value)}

    def features(self, values):
        return values["tempo"][:, None] / 100


def test_a_user_can_add_a_conditioner(models, monkeypatch):
    twin, seen = copy.copy(models[1]), []

    class Listening(torch.nn.Module):
        frames_multiple = twin.unet.frames_multiple

        def forward(self, noisy, *inputs):
            seen.append(inputs[-1])
            return noisy

    twin.unet = Listening()
    twin.config = twin.config | {"unet": twin.config["unet"] | {"conditioning": ["tempo"]}}
    with pytest.raises(Refusal, match=r"The conditioner 'tempo' .* is unknown; known are timing"):
        twin.generate("two tones", 0.1)
    monkeypatch.setitem(CONDITIONERS, "tempo", Tempo())
    twin.generate("two tones", 0.1, [0, 1], guidance_scale=1, conditions=[{"tempo": 90}, {}])
    assert list(seen[0]) == ["tempo"]
    np.testing.assert_allclose(seen[0]["tempo"], [[0.9], [0.0]])


def test_settings_with_which_nothing_can_be_sampled_are_refused_alike(models):
    ours, twin = models
    for changes in (
        dict(sampler="plms"),
        dict(objective="noise"),
        dict(guidance_interval=(0.5, 0.2)),
        dict(guidance_interval=(0.0, "1")),
        dict(reference_frames=-1),
        dict(sample_steps=0),
        dict(guidance_rescale=1.5),
        dict(guidance_limit=-1.0),
    ):
        config = ours.config.diffusion.copy_and_resolve_references().unlock()
        config.update(changes)
        with pytest.raises(Refusal) as expected:
            check_sampling(config)
        with pytest.raises(Refusal) as refusal:
            twin.with_settings(**changes).generate("two tones", 0.1)
        assert str(refusal.value) == str(expected.value)
