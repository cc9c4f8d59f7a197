"""What becomes of a source's recordings: counted when the units are committed, and reported."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_pipeline.hashing import hashed
from data_pipeline.layout import SAMPLE_RATE
from data_pipeline.statistics import DURATIONS, LOUDNESS, Statistics, lower_edge

CLIPPED = 1e-4  # share of a recording's samples
EXAMPLES = 5  # of rejected recordings, for each reason


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
    warnings: list[str]  # sentences about what is probably a mistake

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
        lines += [*self.warnings, f"{self.captions} distinct captions", f"wrote {self.out}"]
        return "\n".join(lines)


@dataclass
class Totals:
    """What has become of a source's recordings so far."""

    accepted: int = 0
    rejected: dict[str, dict] = field(default_factory=dict)
    clips: Counter[str] = field(default_factory=Counter)  # by split
    seconds: Counter[str] = field(default_factory=Counter)  # of the clips, by split
    dropped: dict[str, float] = field(default_factory=lambda: dict(tail=0.0, silence=0.0))
    licences: Counter[str] = field(default_factory=Counter)  # clips of the training split
    statistics: Statistics = field(default_factory=Statistics)
    clipped: int = 0  # recordings
    _bins: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    _captions: array = field(default_factory=lambda: array("Q"))  # hashes

    def reject(self, id: str, reason: str, detail: str) -> None:
        found = self.rejected.setdefault(reason, {"files": 0, "examples": []})
        found["files"] += 1
        if found["files"] <= EXAMPLES:
            found["examples"].append({"id": id, "detail": detail})

    def accept(self, outcome: Mapping[str, Any], split: str, clips: int) -> None:
        """Counts an accepted recording, of which so many clips are taken."""
        self.accepted += 1
        self.clips[split] += clips
        self.seconds[split] += sum(outcome["valid"][:clips]) / SAMPLE_RATE
        if split == "train":
            self.licences[licence(outcome["meta"])] += clips
        for reason, seconds in outcome["dropped"].items():
            self.dropped[reason] = self.dropped.get(reason, 0.0) + seconds
        self.clipped += outcome["clipped"] > CLIPPED
        self._bins["durations"][lower_edge(outcome["seconds"], DURATIONS)] += 1
        if outcome["loudness"] is not None:
            self._bins["loudness"][lower_edge(outcome["loudness"], LOUDNESS)] += 1
        self._bins["sample_rates"][outcome["sample_rate"]] += 1
        self._bins["channels"][outcome["channels"]] += 1
        self.statistics.add(outcome["meta"], outcome["captions"])
        self._captions.extend(map(hashed, filter(None, outcome["captions"])))

    def report(self, out: str, files: int, source_splits: bool, limited: bool) -> Report:
        """The report of a source with so many files; only if `limited`, some may be left over."""
        rejected = {reason: found["files"] for reason, found in self.rejected.items()}
        return Report(
            out=out,
            files=files,
            accepted=self.accepted,
            rejected=rejected,
            not_needed=files - self.accepted - sum(rejected.values()) if limited else 0,
            source_splits=source_splits,
            clips=dict(self.clips),
            hours={split: self.seconds[split] / 3600 for split in self.clips},
            dropped_seconds=self.dropped,
            captions=len(np.unique(np.frombuffer(self._captions, np.uint64))),
            warnings=self.statistics.warnings(),
        )

    def page(self, report: Report, source: str) -> dict[str, Any]:
        """What `report_page` draws."""
        splits = {
            split: {"clips": report.clips[split], "hours": report.hours[split]}
            for split in report.clips
        }
        names = ("durations", "loudness", "sample_rates", "channels")
        bins = {name: dict(sorted(self._bins[name].items())) for name in names}
        return dict(
            source=source,
            out=report.out,
            files=report.files,
            accepted=report.accepted,
            not_needed=report.not_needed,
            rejected=self.rejected,
            splits=splits,
            dropped_seconds=report.dropped_seconds,
            clipped=self.clipped,
            licences=dict(self.licences.most_common()),
            statistics=self.statistics.to_json(),
            **bins,
        )


def licence(meta: Mapping) -> str:
    """The field `licence`, in one line of at most 80 characters; "" if it is no text."""
    stated = meta.get("licence")
    return " ".join(stated.split())[:80] if isinstance(stated, str) else ""
