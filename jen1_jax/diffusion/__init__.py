"""Noise schedules, objectives, guidance and samplers: functions of arrays, without a network.

    t -- Schedule.log_snr --> log_snr -- corrupt --> noisy -- (network) --> prediction
    prediction -- Objective.clean --> clean -- Sampler.step --> less noisy

Everything is written in the log signal-to-noise ratio: noisy latents are `alpha * clean + sigma *
noise` with `alpha^2 = sigmoid(log_snr)` and `sigma^2 = sigmoid(-log_snr)` (Kingma et al. 2021). So
schedule, objective and sampler can be exchanged independently of each other.
"""
