"""JEN-1 as published: 48 kHz stereo, 150 Hz latents, a U-Net of 746 M parameters, FLAN-T5-large.

Paper: arXiv 2308.04729. This file lists all fields; every other preset starts from it and changes
some of them. "(inferred)" marks a value that the paper does not state as a number. There is no such
mark on features that are switched off, nor on settings of the machine (precision, remat, scan,
prefetch, logs, checkpoints, mesh). docs/model.md explains the choices that the paper leaves open.

Trains: the autoencoder of samples, then the diffusion model on its latents.
Cost: the paper trained 200,000 steps of 512 examples on 8 A100.
Command: `jen1 train diffusion --config jen1 --workdir runs/jen1`.
Result to expect: the paper reports FAD 2.0, KL 1.29 and CLAP .33 on MusicCaps. Not measured with
this code. In a small, short training its latents gave no music, although the loss fell; those of
`jen1_levels` gave some (docs/decisions.md).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # of parameters, batches and noise
    config.audio = dict(sample_rate=48_000)  # Hz
    config.autoencoder = dict(
        # (inferred) Downsampling of each level. strides[0] is the stem's. The product is the hop:
        # 320 samples, so 150 latent frames a second.
        strides=(1, 2, 4, 5, 8),
        channels=(32, 64, 128, 256, 512),  # (inferred) width after each stride
        dilations=(1, 3, 9),  # (inferred) at every level, one residual unit for each of these
        compress=1,  # (inferred) the inside of a residual unit is narrower by this factor
        kernel_size=7,  # (inferred) of the stem and the head
        latent_channels=128,  # before whitening
        activation="snake",  # (inferred) or "elu"
        weight_norm=True,  # (inferred) normalise the weights of the convolutions
        mask_rate=0.05,  # share of the latents set to zero before the decoder in training
        mask_unit="frame",  # (inferred) what is set to zero: whole frames, or each "element"
        causal=False,  # no output depends on later audio
        # 0: the autoencoder reads and writes samples. Above 0: it reads and writes STFT levels of
        # windows of this many samples, so that the latents hold no phase. strides[0] is then a
        # quarter of it.
        window=0,
        # With a window: levels above 50 / short_window of the sample rate (2.3 kHz for 1024) have
        # this window instead, which divides the long one, so that attacks are sharp. 0: none have.
        short_window=0,
        quietest=-80.0,  # with a window: dB re full scale; quieter bands count as silence
        phase_iterations=0,  # with a window: steps of the search for phases in decoding
        # Of the arithmetic, also in the discriminators; or "bfloat16". Parameters and losses are
        # float32.
        dtype="float32",
    )
    config.whitening = dict(
        keep=0.9,  # share of the whitened channels that is kept, the strongest first
        floor=1e-5,  # (inferred) smallest variance of a direction, relative to the largest
    )
    config.text = dict(
        # (inferred: large) The frozen encoder's folder or hub name. "": a small encoder is trained
        # with the U-Net.
        encoder="google/flan-t5-large",
        max_length=128,  # (inferred) tokens
        # Of the arithmetic, and of a frozen encoder's weights; or "float32". float16 overflows.
        dtype="bfloat16",
        # The layout of the small encoder. A frozen encoder has its own config.json instead.
        vocab_size=512,  # pieces
        d_model=128,  # width
        d_kv=32,  # width of an attention head
        d_ff=256,  # width of the feed-forward layer
        num_layers=2,  # transformer blocks
        num_heads=4,  # attention heads
    )
    config.unet = dict(
        # The fields from channels to ff_multiplier are (inferred). With them the U-Net has 744 M
        # parameters; the paper counts 746 M.
        channels=256,  # unit of the widths
        # Width of each level, in units of channels. Level 0 runs at the full rate and needs
        # channels * multipliers[0] >= 2 * the latent channels that are kept.
        multipliers=(4, 4, 4, 5, 5),
        factors=(1, 2, 2, 4),  # how many times slower each level runs than the one before
        num_blocks=(2, 2, 2, 2),  # residual blocks of each level
        attentions=(0, 3, 3, 5, 4),  # transformer blocks of each level; the last: the bottleneck's
        head_dim=128,  # width of an attention head
        ff_multiplier=2,  # width of a feed-forward layer, relative to its level
        text_features=1024,  # width of the text embedding
        null_text="self_attention",  # replaces the text where there is none; or a learnt "token"
        # Vectors besides the text. ("timing",): where in its piece an example lies.
        conditioning=(),
        # Divide queries and keys by their RMS in each head, and scale them by learnt factors (Henry
        # et al. 2020; Dehghani et al. 2023). It limits the logits of attention.
        qk_norm=False,
        dtype="bfloat16",  # of the arithmetic; or "float32"
        remat="full",  # what the backward pass computes again; or "products", "none"
        scan=True,  # compile a run of equal blocks once and loop over it
    )
    config.diffusion = dict(
        schedule="linear",  # of the noise; or "scaled_linear", "cosine", "rectified_flow"
        num_steps=1000,  # of the linear schedules
        beta_start=0.0015,  # first noise variance of the linear schedules
        beta_end=0.0195,  # last noise variance of the linear schedules
        zero_terminal_snr=False,  # time 1 is pure noise; not with the objective epsilon
        objective="epsilon",  # what the U-Net predicts; or "v", "x0", "rectified_flow"
        times="uniform",  # distribution of the times in training; or "logit_normal"
        times_mean=0.0,  # of the normal distribution behind logit_normal; above 0: more noise
        times_std=1.0,  # of the same distribution
        # Above 0: the schedule is that of examples of this many latent frames, and n frames get a
        # log-SNR that is lower by log(n / reference_frames), in training and in sampling. 0: all
        # lengths have the same schedule.
        reference_frames=0,
        min_snr_gamma=0.0,  # 5: the min-SNR weighting of the loss; 0: none
        null_text_rate=0.2,  # share of examples trained without their text, for guidance
        sampler="ddim",  # or "ddpm", "euler", "heun", "dpm_solver"
        eta=0.0,  # of ddim: share of the noise that is drawn again in a step
        sample_steps=200,  # of the sampler
        guidance_scale=2.0,  # 1: no guidance
        guidance_interval=(0.0, 1.0),  # times at which there is guidance
        # How far the standard deviation is brought back to that without guidance; 1: all the way.
        guidance_rescale=0.0,
        # Weight of the part of guidance that is parallel to the latents; 0: adaptive projected
        # guidance.
        guidance_parallel=1.0,
        # Largest root mean square of what guidance adds, in whitened units; 0: no limit.
        guidance_limit=0.0,
    )
    config.tasks = dict(
        # Share of each batch. A larger share makes the gradient of a task less noisy; it does not
        # make the task count more.
        ratios=dict(text_to_music=1.0, inpainting=1.0, continuation=1.0),
        # Factor of a task's mean loss in the total loss. The paper adds them up.
        weights=dict(text_to_music=1.0, inpainting=1.0, continuation=1.0),
        # Share of the text-to-music examples in the causal mode; the others are bidirectional.
        text_to_music_causal=0.5,
        min_generated=0.2,  # smallest share of the length that these two tasks generate
        max_generated=0.8,  # largest share
        max_spans=3,  # (inferred) of inpainting
        loss_on="all",  # (inferred) frames that the loss counts; or "generated"
    )
    config.data = dict(
        # Prepared shards. "": RUN/data for the autoencoder and RUN/latents for diffusion.
        dir="",
        # (inferred) Length of a window, which generation samples at once. From longer latents,
        # training takes random windows.
        seconds=10.24,
        # (inferred) Share of the diffusion examples that is cut to a random length, so that the
        # model knows padding when a shorter piece is requested. 0: such a piece is sampled as a
        # whole window and cut.
        short_rate=0.1,
        # The diffusion model learns only this many clips; 0: all. A model that cannot memorise 8
        # clips has a fault.
        limit=0,
        # A .jsonl, .csv or .tsv file with other captions for clips or recordings. "": that of the
        # data set (captions.jsonl in its folder), if it has one.
        captions="",
        # Where `dir` names several data sets with commas between them: how many of sum(shares)
        # consecutive examples come from each. (): one of each.
        shares=(),
        # A damaged clip is left out, and its place in the batch has no weight. More damaged clips
        # than this end the training.
        most_damaged=100,
        prefetch=2,  # batches read ahead
    )
    # All of train_autoencoder is (inferred): the paper names the kinds of losses and an EMA, and
    # gives no numbers.
    config.train_autoencoder = dict(
        steps=400_000,
        batch_size=64,
        seconds=0.68,  # length of the random crop
        # Share of the crops whose sign is flipped in both channels. STFT levels (autoencoder.window
        # above 0) do not depend on the sign.
        polarity_flip=0.0,
        channel_swap=0.0,  # share of the crops whose channels are swapped
        # Smallest and largest gain of a crop in dB, drawn evenly in dB. Latents of levels depend on
        # the gain as others do.
        gain_db=(0.0, 0.0),
        learning_rate=1e-4,  # the largest
        warmup_steps=1000,  # over which the learning rate rises
        # Share of the steps after the warm-up over which the learning rate falls linearly to 0 at
        # the last step; before, it is constant.
        decay_share=1.0,
        betas=(0.8, 0.99),  # of AdamW
        weight_decay=1e-2,  # of AdamW
        clip=1.0,  # largest norm of the gradient
        # The largest decay of the average of the parameters. After t updates the decay is at most
        # (1 + t) / (10 + t). 0: no average is kept.
        ema_decay=0.999,
        microbatches=1,  # parts of a batch that are processed one after the other
        losses=dict(  # weights; 0 leaves a loss out
            waveform=1.0,
            stft=1.0,
            mel=1.0,
            levels=0.0,
            width=0.0,
            kl=0.0,
            adversarial=0.1,
            feature_matching=5.0,
        ),
        stft_windows=(2048, 1024, 512, 256, 128),  # of the losses stft and mel, in samples
        adversary=dict(  # values of public codecs, like the weights of the losses
            loss="hinge",  # or "least_squares"
            windows=(2048, 1024, 512),  # samples; one discriminator for each
            channels=32,  # width of a discriminator
            start=20_000,  # step at which the discriminators and their losses begin
            ramp=10_000,  # steps until their losses have their full weights
        ),
        # A run or a release whose parameters to begin with, as far as they have the same path and
        # shape. "": fresh ones.
        init_from="",
        # Regular expressions. Parameters are trained if one of them is found in their path, such as
        # decoder/... , and else frozen. (): all are trained. The discriminators always are.
        trained=(),
        # True: go on with another batch size, seed or data than the checkpoint's, after as many
        # examples as it has seen. False: refuse that.
        remap_data=False,
        # A step is skipped whose gradient norm is more than this factor above the mean of the last
        # 100, about. 0: no step is skipped for its norm.
        largest_jump=10.0,
        # After so many skipped steps in a row the newest checkpoint comes back, and training goes
        # on with the data that follow.
        roll_back_after=50,
        # Seconds without the end of a step after which the process writes its stacks and ends, so
        # that it can be started again; the first step may take four times as long. 0: never.
        hang_after=1800,
        log_every=100,  # steps
        writers=("jsonl", "tensorboard"),  # of the metrics
        # Steps (the first, and how many) of which RUN/autoencoder/profile gets a trace.
        profile=(0, 0),
        checkpoint_every=5000,  # steps
        keep_checkpoints=2,  # the newest ones
        keep_every=0,  # steps: of every so many a checkpoint is kept for good; 0: of none
    )
    config.train_diffusion = dict(
        steps=200_000,
        batch_size=512,
        # As in train_autoencoder, for data of waveforms. Clips keep their channels whose text
        # names a side.
        polarity_flip=0.0,
        gain_db=(0.0, 0.0),
        channel_swap=0.0,
        # Or "muon" for the matrices between the U-Net's first and last layer and in a text encoder
        # that is trained, with AdamW for the rest. Its steps are as large as AdamW's.
        optimizer="adamw",
        learning_rate=3e-5,  # the largest
        warmup_steps=0,  # over which the learning rate rises
        decay_share=1.0,  # as in train_autoencoder
        betas=(0.9, 0.95),  # of AdamW
        weight_decay=0.1,  # of the matrices, with either optimiser
        clip=1.0,  # largest norm of the gradient
        ema_decay=0.9999,  # (inferred) as in train_autoencoder
        microbatches=1,  # parts of a batch that are processed one after the other
        init_from="",  # as in train_autoencoder
        trained=(),  # as in train_autoencoder; paths begin with unet/ or text/
        # Kernels with one of these expressions in their path are gathered once a step instead of in
        # each pass, in bfloat16, and stay whole on every device until its end. So are their
        # gradients rounded, whatever mesh.reduce_dtype is. For a U-Net of this type:
        # ("(residual|transformer).*kernel",) are nearly all of it.
        gather_once=(),
        remap_data=False,  # as in train_autoencoder
        # From here to profile: as in train_autoencoder.
        largest_jump=10.0,
        roll_back_after=50,
        hang_after=1800,
        log_every=100,
        writers=("jsonl", "tensorboard"),
        profile=(0, 0),
        # Steps between demos of every task, made of a held-out clip. 0: none.
        demos_every=10_000,
        checkpoint_every=2000,  # steps
        # The newest ones. The one with the lowest held-out loss is kept besides.
        keep_checkpoints=2,
        keep_every=0,  # as in train_autoencoder
    )
    config.mesh = dict(
        # Devices along each axis; -1: all that are left. All of `data` and `fsdp` split the batch.
        # Parameters, their averages and the optimiser's state are split over `fsdp` and `tensor`,
        # and copied along `data`. With more devices than a kernel has rows to split (some hundred),
        # or with several TPU slices, raise `data`.
        axes=dict(data=1, fsdp=-1, tensor=1),
        # (pattern, axes): the first pattern that is found in a parameter's path decides how the
        # parameter is split. The axes are for its dimensions, the last dimension first. An axis
        # that does not divide its dimension is left out.
        rules=((r"kernel|embedding", ("tensor", "fsdp")),),
        # In which devices sum the gradients of kernels: "bfloat16" halves the traffic.
        reduce_dtype="float32",
    )
    return config.lock()
