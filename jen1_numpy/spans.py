"""Spans to inpaint: from seconds to samples, and to the latent frames that they touch."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from jen1_numpy.errors import Refusal


def merged_spans(
    spans: Sequence[tuple[float, float]] | np.ndarray, samples: int, sample_rate: int
) -> list[tuple[int, int]]:
    """Spans (start, end in seconds) of audio with `samples` samples, in samples and in order.

    Spans that touch or overlap become one: between two, the cross-fades would let the original back
    in. Raises `Refusal` where there is no span, where one is not inside the audio, or where they
    cover all of it.
    """
    try:
        pairs = sorted((float(start), float(end)) for start, end in spans)
    except (TypeError, ValueError):
        raise Refusal(
            f"The spans {spans!r} are not pairs; give a list of (start, end) in seconds."
        ) from None
    if not pairs:
        raise Refusal("There is nothing to inpaint; give at least one span (start:end in seconds).")
    length = samples / sample_rate
    merged = []
    for start, end in pairs:
        if not 0 <= start < end <= length + 0.5 / sample_rate:
            raise Refusal(
                f"The span {start}:{end} is not inside the audio of {length:.2f} s; "
                f"give 0 <= start < end <= {length:.2f}."
            )
        first, last = round(start * sample_rate), min(round(end * sample_rate), samples)
        if first == last:
            raise Refusal("A span is shorter than one sample; give a longer one.")
        if merged and first <= merged[-1][1]:
            first, end_before = merged.pop()
            last = max(end_before, last)
        merged.append((first, last))
    if merged == [(0, samples)]:
        raise Refusal("The spans cover the whole audio; use generate for that.")
    return merged


def frames_around(
    inside: Bool[np.ndarray, " samples"], frames: int, hop: int, margin: int
) -> tuple[Bool[np.ndarray, " frames"], Bool[np.ndarray, " frames"]]:
    """The context and the given frames of audio whose samples `inside` the spans are generated.

    A given frame has no sample inside a span. A context frame is more than `margin` frames away
    from every frame that has one.
    """
    padded = np.pad(inside, (0, frames * hop - len(inside)))
    hole = padded.reshape(frames, hop).any(axis=1)
    near = np.convolve(hole, np.ones(2 * margin + 1))[margin : margin + frames] > 0
    return ~near, np.logical_not(hole)


def check_longest(
    context: Bool[np.ndarray, " frames"], limit: int, margin: int, frame_rate: float
) -> None:
    """Refuses more than `limit` frames in a row without context, which training never had.

    Two spans with no context between them count as one.
    """
    edges = np.flatnonzero(np.diff(~context, prepend=False, append=False))
    longest = int((edges[1::2] - edges[::2]).max(initial=0))
    if longest > limit:
        seconds = lambda frames: f"{frames / frame_rate:.2f} s"
        raise Refusal(
            f"With the {seconds(margin)} beside it that give no context, a span comes to "
            f"{seconds(longest)}, but this model inpaints {seconds(limit)} at once; give shorter "
            "spans, one after the other."
        )
