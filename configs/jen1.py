"""JEN-1 as published (arXiv 2308.04729): 48 kHz stereo, 320-fold autoencoder, 746 M U-Net, FLAN-T5-large.

Every other configuration starts from this one and changes fields; this file lists them all.

Cost: the paper trained 200,000 steps of 512 on 8 A100. Command: `jen1 train diffusion --config jen1 --workdir runs/jen1`.
Result to expect: the paper reports FAD 2.0, KL 1.29, CLAP .33 on MusicCaps. Not measured with this code. In a
small, short training its latents gave no music though the loss fell; those of `jen1_levels` gave some (docs/decisions.md).
Values marked (inferred) are not in the paper as numbers. Features that are off have no mark, and neither do settings of the
machine: precision, remat, scan, prefetch, logs, checkpoints, mesh. docs/model.md explains choices where the paper is silent.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.audio = dict(sample_rate=48_000)
    config.autoencoder = dict(
        strides=(
            1,
            2,
            4,
            5,
            8,
        ),  # (inferred) strides[0] is the stem's; the product is the hop: 320 samples, 150 Hz
        channels=(32, 64, 128, 256, 512),  # (inferred) width after each stride
        dilations=(1, 3, 9),  # (inferred) one residual unit each, at every level
        compress=1,  # (inferred) a residual unit is so many times narrower inside
        kernel_size=7,  # (inferred) of the stem and the head
        latent_channels=128,
        activation="snake",  # (inferred) or "elu"
        weight_norm=True,  # (inferred)
        mask_rate=0.05,  # of latent frames, set to zero before the decoder in training
        mask_unit="frame",  # (inferred) or "element"
        causal=False,
        # Above 0, the encoder reads STFT levels of windows so many samples long instead of samples, and the decoder writes them:
        # latents without phase. strides[0] is then a quarter of it.
        window=0,
        phase_iterations=0,  # with a window: steps of the search for the phases of what is decoded
        dtype="float32",  # of the arithmetic, the discriminators' too; or "bfloat16". Parameters and losses are float32
    )
    config.whitening = dict(
        keep=0.9, floor=1e-5
    )  # floor: (inferred) smallest variance of a direction, relative to the largest
    config.text = dict(
        encoder="google/flan-t5-large",  # (inferred: large) folder or hub name, used frozen; "" trains a small one with the model
        max_length=128,  # (inferred) tokens
        dtype="bfloat16",  # of the arithmetic, and of a frozen encoder's weights; or "float32". float16 overflows
        # the small one's layout; with `encoder` set, its own config.json rules
        vocab_size=512,
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_heads=4,
    )
    config.unet = dict(
        channels=256,  # (inferred), as the next six; together they come to 744 M parameters, the paper counts 746 M
        multipliers=(
            4,
            4,
            4,
            5,
            5,
        ),  # the first is the full rate's: channels * multipliers[0] >= 2 * latent channels kept
        factors=(1, 2, 2, 4),
        num_blocks=(2, 2, 2, 2),
        attentions=(
            0,
            3,
            3,
            5,
            4,
        ),  # transformer blocks after each level; the last is the bottleneck's
        head_dim=128,
        ff_multiplier=2,
        text_features=1024,
        null_text="self_attention",  # what stands for no text: an example's own frames; or a learned "token"
        conditioning=(),  # ("timing",): the network is told where in its piece an example lies
        dtype="bfloat16",
        remat="full",  # or "products", "none"
        scan=True,  # compile a run of equal blocks once and loop over it
    )
    config.diffusion = dict(
        schedule="linear",  # or "scaled_linear", "cosine", "rectified_flow"
        num_steps=1000,
        beta_start=0.0015,
        beta_end=0.0195,
        zero_terminal_snr=False,  # the noisy end is noise and nothing else; not with epsilon
        objective="epsilon",  # or "v", "x0", "rectified_flow"
        times="uniform",  # or "logit_normal", of training
        times_mean=0.0,  # of the normal distribution behind logit_normal; above 0: more noise
        times_std=1.0,
        min_snr_gamma=0.0,  # 5: the min-SNR weighting of the loss; 0: none
        null_text_rate=0.2,  # share of examples trained without their text, for guidance
        sampler="ddim",  # or "ddpm", "euler", "heun", "dpm_solver"
        eta=0.0,  # of ddim: the share of the noise that is drawn anew in a step
        sample_steps=200,
        guidance_scale=2.0,
        guidance_interval=(0.0, 1.0),  # times at which there is guidance
        guidance_rescale=0.0,  # share of the way back to the unguided latent's standard deviation
        guidance_parallel=1.0,  # weight of guidance along the latent itself; 0: adaptive projected guidance
        guidance_limit=0.0,  # most that guidance adds, root mean square in whitened units; 0: no limit
    )
    config.tasks = dict(
        # A task's share of each batch: more of it makes its gradient less noisy, and does not make it count more.
        ratios=dict(text_to_music=1.0, inpainting=1.0, continuation=1.0),
        # How much a task's mean loss counts in the sum. The paper adds them up.
        weights=dict(text_to_music=1.0, inpainting=1.0, continuation=1.0),
        min_generated=0.2,  # inpainting and continuation generate this much of the length at least, and
        max_generated=0.8,
        max_spans=3,  # (inferred)
        loss_on="all",  # (inferred) or "generated"
    )
    config.data = dict(
        dir="",  # prepared shards; "" means RUN/data for the autoencoder and RUN/latents for diffusion
        seconds=10.24,  # (inferred) of a window: what generation samples at once; of longer latents training takes random windows
        # (inferred) Share of the diffusion examples that are cut to a random length, so that padding is nothing new where a piece
        # shorter than a window is asked for. At 0 such a piece is sampled as a whole window and cut.
        short_rate=0.1,
        limit=0,  # train diffusion on this many clips only; 0: all. What cannot learn 8 clips by heart has a fault
        prefetch=2,  # batches
    )
    config.train_autoencoder = dict(  # (inferred), all of it: the paper has the kinds of losses and an EMA, no numbers
        steps=400_000,
        batch_size=64,
        seconds=0.68,  # length of the random crop
        learning_rate=1e-4,
        warmup_steps=1000,
        betas=(0.8, 0.99),
        weight_decay=1e-2,
        clip=1.0,
        ema_decay=0.999,
        microbatches=1,
        losses=dict(
            waveform=1.0,
            stft=1.0,
            mel=1.0,
            levels=0.0,
            kl=0.0,
            adversarial=0.1,
            feature_matching=5.0,
        ),  # 0 leaves a term out
        stft_windows=(2048, 1024, 512, 256, 128),  # of the losses stft and mel
        adversary=dict(  # as the loss weights, from public codecs
            loss="hinge",  # or "least_squares"
            windows=(2048, 1024, 512),
            channels=32,
            start=20_000,  # step at which the discriminator begins to learn and to be heard; its losses reach their
            ramp=10_000,  # weights over so many steps
        ),
        log_every=100,
        checkpoint_every=5000,
        keep_checkpoints=2,
    )
    config.train_diffusion = dict(
        steps=200_000,
        batch_size=512,
        learning_rate=3e-5,
        warmup_steps=0,
        betas=(0.9, 0.95),
        weight_decay=0.1,
        clip=1.0,
        ema_decay=0.9999,  # (inferred)
        microbatches=1,
        log_every=100,
        checkpoint_every=2000,
        keep_checkpoints=2,
    )
    config.mesh = dict(
        axes=dict(data=-1, fsdp=1, tensor=1),  # -1: all devices that are left
        # the first pattern found in a parameter's path decides its sharding, dimension by dimension from the last backwards;
        # an axis that does not divide the dimension is left out
        rules=((r"kernel|embedding", ("tensor", "fsdp")),),
    )
    return config.lock()
