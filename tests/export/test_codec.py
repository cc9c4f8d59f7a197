"""The PyTorch autoencoder and codec equal ours, from the same parameters."""

from functools import partial

import jax
import numpy as np
import pytest
import torch

from jen1_jax.autoencoder import codec as jax_codec
from jen1_jax.autoencoder import spectrum
from jen1_jax.autoencoder.whitening import Moments, fit_whitening
from jen1_numpy.errors import Refusal
from jen1_torch import codec as torch_codec
from jen1_torch.autoencoder import Autoencoder
from jen1_torch.codec import Codec, Whitening, fingerprint
from jen1_torch.spectrum import Layout
from tests.autoencoder.testing import FIELDS, build
from tests.export.testing import distance, loaded

RATE, FRAMES = 48_000, 24
AUDIO = 1e-3  # -60 dB
ONE = dict(window=512, strides=(128, 2), phase_iterations=2)
TWO = dict(window=1024, short_window=256, quietest=-100.0, strides=(256, 2), phase_iterations=2)
KINDS = {
    "snake": {},
    "elu, no weight norm": dict(activation="elu", weight_norm=False),
    "causal": dict(causal=True),
    "one window, causal": ONE | dict(causal=True),
    "two windows": TWO,
}
one_of_each = pytest.mark.parametrize("changes", [{}, TWO], ids=["samples", "levels"])


def twins(**changes):
    """(model, params) of ours, and the PyTorch module with these parameters."""
    model, params = build(**changes)
    return model, params, loaded(Autoencoder(**FIELDS | changes), params)


def music(samples: int, batch: int = 2) -> np.ndarray:
    """Tones at different places between left and right, and a little noise."""
    t, rng = np.arange(samples) / RATE, np.random.default_rng(0)
    audio = 0.02 * rng.standard_normal((batch, samples, 2))
    for frequency in (220, 330, 1230, 4100, 9000):
        tone = np.sin(2 * np.pi * frequency * t + rng.uniform(0, 6, (batch, 1)))
        audio += 0.15 * tone[..., None] * rng.uniform(0, 1, (batch, 1, 2))
    return audio.astype(np.float32)


def latents_of(frames: int, channels: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, frames, channels)).astype(np.float32)


def beginning(samples: int) -> np.ndarray:
    """Where the first third of audio is known, [batch, samples, 1]."""
    return np.broadcast_to(np.arange(samples)[:, None] < samples // 3, (2, samples, 1))


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_the_autoencoder_equals_ours(changes):
    """With an example that is padded; the networks alone, and then the audio."""
    model, params, twin = twins(**changes)
    assert (twin.hop, twin.encoder_reach) == (model.hop, model.encoder_reach)
    assert twin.decoder_reach == model.decoder_reach
    audio, latents = music(FRAMES * model.hop), latents_of(FRAMES, 6)
    valid = np.ones((2, FRAMES, 1), np.float32)
    valid[1, 15:] = 0
    known = beginning(audio.shape[1])
    loudest = np.linspace(1.2, 1.4, model.layout.bands, dtype=np.float32)

    @jax.jit
    def ours(audio, latents, valid, known):
        autoencoder = model.bind({"params": params})
        return (
            autoencoder.encode(audio, valid),
            autoencoder.decoder(latents, valid),
            autoencoder.decode(latents, valid),
            autoencoder.decode(latents, valid, spectrum.Around(audio, known), loudest),
        )

    encoded, levels, decoded, limited = ours(audio, latents, valid, known)
    audio, latents, valid, known, loudest = map(
        torch.tensor, (audio, latents, valid, known, loudest)
    )
    assert distance(twin.encode(audio, valid), encoded) < 1e-5
    assert distance(twin.decoder.network(latents, valid), levels) < 1e-5
    limit = AUDIO if model.window else 1e-5
    assert distance(twin.decode(latents, valid), decoded) < limit
    assert distance(twin.decode(latents, valid, (audio, known), loudest), limited) < limit
    assert (distance(limited, decoded) > 0.1) == bool(model.window)


@pytest.fixture(scope="module", params=[ONE, TWO], ids=["one window", "two windows"])
def layouts(request):
    fields = {name: request.param.get(name, 0) for name in ("window", "short_window")}
    fields["quietest"] = request.param.get("quietest", -80.0)
    return spectrum.Layout(**fields), Layout(**fields)


def test_levels_and_a_short_search_for_phases_equal_ours(layouts):
    ours, twin = layouts
    audio = music(32 * ours.hop)
    levels = np.asarray(jax.jit(spectrum.analyse, static_argnums=1)(audio, ours))
    assert distance(twin.analyse(torch.tensor(audio)), levels) < 1e-5
    valid, known = np.ones((2, 32, 1), np.float32), beginning(audio.shape[1])
    valid[1, 20:] = 0
    synthesise = jax.jit(spectrum.synthesise, static_argnums=(2, 3))
    to_torch = lambda x: torch.tensor(np.asarray(x))
    for around in (None, spectrum.Around(audio, known)):
        expected = synthesise(levels, valid, ours, 4, around)
        given = around and tuple(map(to_torch, around))
        result = twin.synthesise(to_torch(levels), to_torch(valid), 4, given)
        assert distance(result, expected) < AUDIO


def test_a_long_search_comes_as_close_to_the_levels_as_ours(layouts):
    """Its steps amplify rounding, so that the phases themselves differ in the end."""
    ours, twin = layouts
    audio = torch.tensor(music(32 * ours.hop))
    levels, valid = twin.analyse(audio), torch.ones(2, 32, 1)
    synthesise = jax.jit(spectrum.synthesise, static_argnums=(2, 3))
    error = lambda audio: distance(twin.analyse(audio), levels)
    expected = synthesise(levels.numpy(), valid.numpy(), ours, 32)
    expected = error(torch.tensor(np.asarray(expected)))
    assert error(twin.synthesise(levels, valid, 32)) == pytest.approx(expected, rel=0.02)
    assert error(twin.synthesise(levels, valid, 4)) > 1.1 * expected


def codecs(**changes):
    """Ours and the PyTorch one; some directions of the latents are 300 times weaker than others."""
    model, params, twin = twins(**changes)
    rng = np.random.default_rng(1)
    latents = rng.normal(size=(200, 6)) @ np.diag(np.geomspace(1, 1 / 300, 6)) + 1
    whitening = fit_whitening(Moments.of(latents), keep=0.9, floor=1e-9)
    loudest = torch.full((model.layout.bands,), 1.5) if model.window else None
    ours = jax_codec.Codec(
        model, params, whitening, RATE, loudest if loudest is None else loudest.numpy(), 3
    )
    theirs = Whitening(*whitening.basis.shape)
    theirs.load_state_dict({name: torch.tensor(x) for name, x in whitening.arrays().items()})
    return ours, Codec(twin, theirs, RATE, loudest, 3)


@one_of_each
@pytest.mark.parametrize("frames", [5, 100], ids=["short", "chunks, around known audio"])
def test_the_codec_equals_ours(changes, frames, monkeypatch):
    ours, twin = codecs(**changes)
    for module in (jax_codec, torch_codec):
        monkeypatch.setattr(module, "CHUNK_SECONDS", 32 * ours.hop / RATE)
    names = ("k", "hop", "frame_rate", "encoder_reach", "decoder_reach", "margin", "sample_rate")
    assert [getattr(twin, name) for name in names] == [getattr(ours, name) for name in names]
    lengths = range(1, 70)
    assert [*map(twin._chunk, lengths)] == [*map(ours._chunk, lengths)]
    audio = music(frames * ours.hop - 7)[0]
    latents, expected = twin.encode(audio), ours.encode(audio)
    assert latents.shape == (frames, ours.k) and latents.dtype == torch.float32
    assert distance(latents, expected) < 1e-5
    around = None if frames == 5 else (audio, np.arange(len(audio)) < len(audio) // 3)
    decoded = twin.decode(latents, around)
    assert decoded.shape == (frames * ours.hop, 2) and decoded.dtype == np.float32
    limit = AUDIO if changes else 1e-5
    assert distance(decoded, ours.decode(expected, around=around)) < limit


def test_latents_of_another_codec_are_refused():
    with pytest.raises(Refusal, match="have 4 channels and this autoencoder's have 5"):
        codecs()[1].decode(np.zeros((3, 4), np.float32))


def test_part_of_a_hop_and_unknown_activations_are_refused():
    with pytest.raises(Refusal, match="9 samples are not a multiple of the hop 8"):
        Autoencoder(**FIELDS).encode(torch.zeros(1, 9, 2))
    with pytest.raises(Refusal, match="activation 'relu': choose one of snake, elu"):
        Autoencoder(**FIELDS | dict(activation="relu"))


@one_of_each
def test_the_fingerprint_is_ours_and_covers_all_that_latents_depend_on(changes):
    ours, twin = codecs(**changes)
    mark = partial(fingerprint, twin.autoencoder, twin.whitening)
    assert mark(RATE, ours.hop) == ours.fingerprint
    marks = {ours.fingerprint, mark(RATE + 1, ours.hop), mark(RATE, ours.hop + 1)}
    for tensor in (twin.autoencoder.encoder.Conv1d_0.bias, twin.whitening.scale):
        tensor[0] += 1
        marks.add(mark(RATE, ours.hop))
    twin.autoencoder.decoder.Conv1d_0.bias[0] += 1
    marks.add(mark(RATE, ours.hop))
    assert len(marks) == 5


@one_of_each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_that_of_the_networks_alone(changes, dtype):
    twin = twins(**changes)[2]
    audio, latents = torch.tensor(music(FRAMES * twin.hop)), torch.tensor(latents_of(FRAMES, 6))
    encoded, decoded = twin.encode(audio), twin.decoder.network(latents, None)
    twin.to(dtype)
    limit = 20 * torch.finfo(dtype).eps
    assert 1e-5 < distance(twin.encode(audio), encoded) < limit
    halved = twin.decoder.network(latents, None)
    assert 1e-5 < distance(halved, decoded) < limit and halved.dtype == torch.float32
    if changes:
        layout, valid = twin.decoder.layout, torch.ones(*halved.shape[:2], 1)
        expected = layout.synthesise(halved.clamp(max=layout.loudest), valid, 2)
        assert torch.equal(twin.decode(latents), expected)


def test_whitening_keeps_its_digits_in_half_precision():
    whitening = codecs()[1].whitening
    latents = torch.tensor(latents_of(8, 6))
    expected = whitening(latents)
    whitening.half()
    assert torch.equal(whitening(latents), expected)
    assert all(buffer.dtype == torch.float64 for buffer in whitening.buffers())


SMALL = TWO | dict(dilations=(1,), phase_iterations=1)  # traced in a few seconds


@pytest.mark.parametrize("changes", [dict(dilations=(1,)), SMALL], ids=["samples", "levels"])
def test_encoder_and_decoder_can_be_exported(changes):
    """The decoder of levels with its search for phases, and any batch."""
    twin = twins(**changes)[2]
    audio, latents = torch.tensor(music(4 * twin.hop)), torch.tensor(latents_of(4, 6))
    for module, x in ((twin.encoder, audio), (twin.decoder, latents)):
        batch = {0: torch.export.Dim("batch")}
        program = torch.export.export(module, (x,), dynamic_shapes=(batch,))
        x = torch.cat([x, x.flip(0)])[:3]
        torch.testing.assert_close(program.module()(x), module(x))


def test_encoder_and_decoder_compile_to_one_graph_each():
    twin = twins(**SMALL)[2]
    audio, latents = torch.tensor(music(4 * twin.hop)), torch.tensor(latents_of(4, 6))
    for module, x in ((twin.encoder, audio), (twin.decoder, latents)):
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), module(x))
