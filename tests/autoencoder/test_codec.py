"""The codec: chunks equal the whole, any length works, the fingerprint covers the encoder."""

import dataclasses

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jen1_jax.autoencoder import codec as codec_module
from jen1_jax.autoencoder.codec import CHUNK_SECONDS, Codec
from jen1_jax.autoencoder.whitening import Moments, fit_whitening
from jen1_numpy.errors import Refusal
from tests.autoencoder.testing import build

SAMPLE_RATE = 48_000


def build_codec(**changes) -> Codec:
    model, params = build(**changes)
    whitening = fit_whitening(
        Moments.of(np.random.default_rng(1).normal(size=(200, 6)) + 1), keep=0.9, floor=1e-5
    )
    return Codec(model, params, whitening, SAMPLE_RATE)


@pytest.fixture(scope="module", params=[False, True], ids=["centred", "causal"])
def codec(request):
    return build_codec(causal=request.param)


@pytest.fixture
def short_chunks(monkeypatch):
    """Chunks of 32 frames instead of 10 s."""
    monkeypatch.setattr(codec_module, "CHUNK_SECONDS", 32 * 8 / SAMPLE_RATE)


def audio_of(samples):
    return (0.3 * np.random.default_rng(samples).standard_normal((samples, 2))).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 100, 256, 257, 1000])
def test_any_length_equals_the_whole_file(codec, short_chunks, samples):
    audio, frames = audio_of(samples), -(-samples // 8)
    padded = np.pad(audio, ((0, frames * 8 - samples), (0, 0)))[None]
    apply = lambda x, method: np.asarray(
        codec.model.apply({"params": codec.params}, jnp.asarray(x), method=method)
    )
    latents = codec.encode(audio)
    assert latents.shape == (frames, codec.k) and latents.dtype == np.float32
    np.testing.assert_allclose(
        latents, codec.whitening.apply(apply(padded, "encode"))[0], atol=1e-4
    )
    decoded = codec.decode(latents, samples)
    assert decoded.shape == (samples, 2)
    np.testing.assert_allclose(
        decoded, apply(codec.whitening.invert(latents[None]), "decode")[0, :samples], atol=1e-4
    )


def test_a_clip_is_one_chunk_of_few_shapes_and_little_padding():
    codec = build_codec()
    codec = dataclasses.replace(codec, sample_rate=150 * codec.hop)  # the paper's frame rate
    whole = round(CHUNK_SECONDS * codec.frame_rate)
    chunks = {frames: codec._chunk(frames) for frames in range(1, 2 * whole)}
    assert len(set(chunks.values())) <= 12 + whole.bit_length()
    for frames, chunk in chunks.items():
        assert chunk == whole if frames >= whole else frames <= chunk <= min(2 * frames, whole)
    clip = round(10.24 * codec.frame_rate)
    assert chunks[clip] == clip and chunks[clip + clip // 16] <= 1.13 * clip


def test_chunks_need_their_margin(codec, short_chunks, monkeypatch):
    """With one frame less around them, chunks differ from the whole."""
    audio = audio_of(1000)
    whole = codec.encode(audio)
    monkeypatch.setattr(Codec, "encoder_reach", property(lambda self: self.model.encoder_reach - 1))
    assert np.abs(dataclasses.replace(codec).encode(audio) - whole).max() > 1e-5


class Smearing:
    """Latents are the audio's frames, to which shares of their neighbours are added."""

    hop, k, encoder_reach = 4, 2, 3

    def encode(self, clips):
        frames = clips[:, ::4]
        at = lambda shift: np.roll(np.pad(frames, ((0, 0), (4, 4), (0, 0))), shift, axis=1)[:, 4:-4]
        return (
            frames + 0.3 * at(-1) + 0.2 * at(1) + 0.03 * (at(-2) + at(2)) + 0.01 * (at(-3) + at(3))
        )


@pytest.mark.parametrize("limit, margin", [(0.005, 3), (0.015, 2), (0.05, 1), (0.25, 1), (0.4, 0)])
def test_the_margin_is_where_silence_behind_a_border_changes_more_than_the_limit(
    monkeypatch, limit, margin
):
    monkeypatch.setattr(codec_module, "DISTURBED", limit)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    clips = np.random.default_rng(0).standard_normal((200, 80, 2)).astype(np.float32)
    assert codec_module.measure_margin(Smearing(), [*clips, clips[0, :6]]) == margin
    assert codec_module.measure_margin(Smearing(), [clips[0, :6]]) == 3  # nothing to measure on


def test_a_prefix_has_the_latents_of_the_whole_file_except_in_its_margin(codec):
    audio = audio_of(1000)
    whole, prefix = codec.encode(audio), codec.encode(audio[: 60 * 8])
    safe = 60 - codec.margin
    np.testing.assert_allclose(prefix[:safe], whole[:safe], atol=1e-5)
    if not codec.model.causal:  # the margin is not larger than needed
        assert np.abs(prefix[safe] - whole[safe]).max() > 1e-5


def test_one_compilation_serves_all_long_files(codec, short_chunks):
    fresh = dataclasses.replace(codec)
    for samples in (300, 555, 1000):
        fresh.decode(fresh.encode(audio_of(samples)))
    assert fresh._encode._cache_size() == fresh._decode._cache_size() == 1


def test_a_memory_map_is_read_chunk_by_chunk_with_progress(codec, short_chunks, tmp_path):
    audio = audio_of(1000)
    audio.tofile(tmp_path / "audio.f32")
    mapped = np.memmap(tmp_path / "audio.f32", np.float32, "r", shape=audio.shape)
    reported = []
    latents = codec.encode(mapped, lambda done, total: reported.append((done, total)))
    np.testing.assert_array_equal(latents, codec.encode(audio))
    assert reported == [(0, 125), (32, 125), (64, 125), (96, 125), (125, 125)]
    reported.clear()
    codec.decode(latents, progress=lambda done, total: reported.append(done))
    assert reported == [0, 32, 64, 96, 125]


def test_batches_equal_single_files(codec):
    batch = np.stack([audio_of(100), 2 * audio_of(100)])
    together = codec.encode(batch)
    np.testing.assert_allclose(together, [codec.encode(audio) for audio in batch], atol=1e-5)
    np.testing.assert_allclose(
        codec.decode(together, 100), [codec.decode(z, 100) for z in together], atol=1e-5
    )


def test_latents_with_other_channels_are_refused(codec):
    with pytest.raises(Refusal, match="7 channels"):
        codec.decode(np.zeros((4, 7), np.float32))


def test_fingerprint_depends_on_the_encoder_whitening_rate_and_hop_only(codec):
    def nudge(part):
        leaves, tree = jax.tree.flatten(codec.params[part])
        return codec.params | {
            part: jax.tree.unflatten(tree, [np.nextafter(leaves[0], 9), *leaves[1:]])
        }

    now = codec.fingerprint
    assert len(now) == 64
    assert dataclasses.replace(codec).fingerprint == now
    assert dataclasses.replace(codec, params=nudge("decoder")).fingerprint == now
    others = [
        dataclasses.replace(codec, params=nudge("encoder")),
        dataclasses.replace(codec, sample_rate=44_100),
        dataclasses.replace(codec, model=codec.model.clone(strides=(8, 2))),
        *(
            dataclasses.replace(
                codec, whitening=dataclasses.replace(codec.whitening, **{name: array * 1.01})
            )
            for name, array in codec.whitening.arrays().items()
        ),
    ]
    prints = [other.fingerprint for other in others]
    assert len({now, *prints}) == len(prints) + 1


@pytest.mark.slow
def test_what_follows_the_valid_samples_does_not_count(codec):
    """An example that ends within a batch of longer ones has the latents that it has alone."""
    audio = np.stack([audio_of(160), audio_of(161)[:160]])
    found = codec.encode(audio, valid_samples=np.array([160, 60]))
    np.testing.assert_allclose(found[0], codec.encode(audio[0]), atol=1e-5)
    alone = codec.encode(np.pad(audio[1, :60], ((0, 4), (0, 0))))  # to whole hops
    silenced = audio[1].copy()
    silenced[60:64] = 0  # within the last hop, what follows is still read
    found = codec.encode(silenced[None], valid_samples=np.array([60]))[0]
    np.testing.assert_allclose(found[:8], alone, atol=1e-5)
