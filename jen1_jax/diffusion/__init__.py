"""Noise schedules, objectives, guidance and samplers: pure functions of arrays that know no network.

    t --Schedule.log_snr--> log_snr --corrupt--> noisy --(network)--> prediction --Objective.clean, .noise--> sampler step

Everything is written in the log signal-to-noise ratio: a noisy latent is `alpha * clean + sigma * noise` with
`alpha^2 = sigmoid(log_snr)` and `sigma^2 = sigmoid(-log_snr)` (Kingma et al. 2021), so that schedule, objective and sampler can
each be exchanged without the others noticing.
"""
