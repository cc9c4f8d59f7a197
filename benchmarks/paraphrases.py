"""Requests in words that no caption of `data_pipeline.captioning` has, and what each asks for.

They show whether a trained model follows text that its captions never contained.
"""

# What a request asks for: "tempo" is "low" (below 80 BPM) or "high" (above 130 BPM), "meter" and
# "drums" are those of a clip's truth.
PARAPHRASES = {
    "a sleepy waltz": {"tempo": "low", "meter": "3/4"},
    "drowsy evening music": {"tempo": "low"},
    "a lazy Sunday afternoon": {"tempo": "low"},
    "sluggish and tired": {"tempo": "low"},
    "it drags along at a snail's pace": {"tempo": "low"},
    "a brisk little tune": {"tempo": "high"},
    "racing along": {"tempo": "high"},
    "frantic music for a car chase": {"tempo": "high"},
    "a speedy piece": {"tempo": "high"},
    "hectic, breathless music": {"tempo": "high"},
    "a ballroom turn in triple time": {"meter": "3/4"},
    "oom-pah-pah": {"meter": "3/4"},
    "it sways one-two-three, one-two-three": {"meter": "3/4"},
    "common time": {"meter": "4/4"},
    "no percussion": {"drums": False},
    "beatless": {"drums": False},
    "groovy, with a backbeat": {"drums": True},
    "something to dance to": {"drums": True},
}
# At least one of these is in each request. They are not in the captions' own wording; a style or a
# title may still contain one, so look into the training captions too.
# fmt: off
NEW_WORDS = {
    "sleepy", "drowsy", "lazy", "sluggish", "snail", "brisk", "racing", "frantic", "speedy",
    "hectic", "triple", "oom", "one", "common", "percussion", "beatless", "groovy", "backbeat",
    "dance",
}
# fmt: on
