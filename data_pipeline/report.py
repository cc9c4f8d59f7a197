"""What becomes of a source's files: counted while they are read, and reported."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from data_pipeline.clips import Dropped, Recording
from data_pipeline.layout import SAMPLE_RATE
from data_pipeline.sources import Item, Rejection


@dataclass(frozen=True)
class Report:
    """What `prepare` did: files and clips by what became of them."""

    out: str
    files: int
    accepted: int
    rejected: dict[str, int]  # reason -> files
    not_needed: int  # files that were left over once limit_hours was reached
    source_splits: bool  # whether the source decides the splits, and not the test fraction
    clips: dict[str, int]  # split -> clips
    hours: dict[str, float]  # split -> hours without padding
    dropped_seconds: dict[str, float]  # of accepted files, by the reason in `clips.Dropped`
    captions: int  # distinct ones

    def __str__(self) -> str:
        reasons = (
            ", ".join(f"{count} {reason}" for reason, count in sorted(self.rejected.items()))
            or "none"
        )
        lines = [f"files: {self.accepted} accepted of {self.files}; rejected: {reasons}"]
        if self.not_needed:
            lines.append(f"{self.not_needed} files were not needed to reach the limit of hours")
        if self.source_splits:
            lines.append("the source decides the splits; the test fraction was not used")
        lines += [
            f"{split}: {self.clips[split]} clips, {self.hours[split]:.3f} hours"
            for split in sorted(self.clips, reverse=True)
        ]
        dropped = ", ".join(
            f"{seconds:.1f} s {what}" for what, seconds in self.dropped_seconds.items() if seconds
        )
        lines += [f"dropped from accepted files: {dropped}"] if dropped else []
        return "\n".join([*lines, f"{self.captions} distinct captions", f"wrote {self.out}"])


@dataclass
class Tally:
    """What has become of a source's items so far."""

    done: int = 0  # items
    accepted: int = 0
    not_needed: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    clips: Counter[str] = field(default_factory=Counter)  # by split
    seconds: Counter[str] = field(default_factory=Counter)  # of the clips, by split
    dropped: dict[str, float] = field(default_factory=lambda: dict(tail=0.0, silence=0.0))
    captions: Counter[str] = field(default_factory=Counter)  # clips
    digests: dict[str, str] = field(default_factory=dict)  # SHA-256 of a file -> its id

    def accept(self, item: Item, recording: Recording | Rejection) -> Recording | None:
        """Counts an item; None if it is rejected, also for being the same file as another."""
        if isinstance(recording, Recording) and recording.digest in self.digests:
            same = f"the same bytes as {self.digests[recording.digest]}"
            recording = Rejection(item.id, "duplicate", same)
        if isinstance(recording, Rejection):
            self.rejected.append(recording)
            return None
        if recording.digest is not None:
            self.digests[recording.digest] = item.id
        self.accepted += 1
        return recording

    def count(self, split: str, piece: Mapping | Dropped) -> None:
        """Counts a clip, or a piece that is none."""
        if isinstance(piece, Dropped):
            self.dropped[piece.reason] += piece.seconds
            return
        self.clips[split] += 1
        self.seconds[split] += piece["valid_samples"] / SAMPLE_RATE
        self.captions.update(piece["captions"])

    def report(self, out: str, files: int, source_splits: bool) -> Report:
        return Report(
            out=out,
            files=files,
            accepted=self.accepted,
            rejected=dict(Counter(rejection.reason for rejection in self.rejected)),
            not_needed=self.not_needed,
            source_splits=source_splits,
            clips=dict(self.clips),
            hours={split: self.seconds[split] / 3600 for split in self.clips},
            dropped_seconds=self.dropped,
            captions=len(self.captions),
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return vars(self) | {"rejected": [asdict(rejection) for rejection in self.rejected]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Tally":
        counters = {name: Counter(values[name]) for name in ("clips", "seconds", "captions")}
        rejected = [Rejection(**rejection) for rejection in values["rejected"]]
        return cls(**values | counters | {"rejected": rejected})
