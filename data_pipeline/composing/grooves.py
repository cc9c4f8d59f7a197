"""MMA's library of grooves: which there are, and how long their patterns are.

The files are read, not run: a groove takes over the settings that stand before its `DefGroove`.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.composing.styles import USELESS, Style, meter_of, style_of

_ROLES = (
    ("intro", r".*intro.*"),
    ("ending", r".*(?-i:End|Ending)(\d|[a-d])?(sus)?|(?-i:[a-z0-9]+E)"),
    ("fill", r".*fill.*|.*break[a-d]*|(?-i:[a-z0-9]+F[AB])"),
)


@dataclass(frozen=True)
class Groove:
    """One groove; `bars` is the length of its pattern in MMA's bars."""

    name: str
    role: str  # intro, ending, fill or main
    bars: int


@dataclass
class Family:
    """The grooves of one file, which go together in one piece."""

    file: str  # like "stdlib/bossanova"
    beats: float  # of one of MMA's bars, as MMA counts
    meter: str
    grooves: list[Groove] = field(default_factory=list)
    only_drums: bool = False

    @property
    def style(self) -> Style:
        return style_of(self.file)

    @property
    def bar(self) -> float:
        """The length of one of MMA's bars in quarter notes as they are written."""
        return {"12/8": 6.0, "6/8": 3.0, "2/4": 4.0}.get(self.meter, self.beats)

    def of_role(self, role: str) -> list[Groove]:
        return [groove for groove in self.grooves if groove.role == role]


def role_of(name: str) -> str:
    for role, pattern in _ROLES:
        if re.fullmatch(pattern, name, re.IGNORECASE):
            return role
    return "main"


def parse(file: str, text: str) -> Family | None:
    """The family of grooves of one library file; None where it holds no accompaniment."""
    if re.fullmatch(USELESS, file):
        return None
    state, saved, grooves, depth = (4.0, "4/4", 1), {}, {}, 0
    for line in text.splitlines():
        words = line.split("//")[0].split()
        command = words[0].lower() if words else ""
        if command == "begin":
            depth += 1
        elif command == "end":
            depth -= 1
        if depth or len(words) < 2 or command in ("begin", "end"):
            continue
        beats, signature, bars = state
        if command == "time":
            beats = float(words[1].split("/")[0])
            signature = words[1] if "/" in words[1] else signature
        elif command == "timesig":
            signature = "/".join(words[1:3])
        elif command == "seqsize":
            bars = int(words[1])
        elif command == "groove" and words[1].lower() in saved:
            beats, signature, bars = saved[words[1].lower()]
        state = beats, signature, bars
        if command == "defgroove":
            saved[words[1].lower()] = state
            grooves[words[1].lower()] = Groove(words[1], role_of(words[1]), bars)
    if not any(groove.role == "main" for groove in grooves.values()):
        return None
    beats, signature, _ = state
    pitched = re.search(r"^\s*(begin\s+)?(bass|walk|chord|arpeggio|plectrum)", text, re.I | re.M)
    meter = meter_of(file, beats, signature)
    return Family(file, beats, meter, list(grooves.values()), pitched is None)


def read(library: Path) -> list[Family]:
    """All families of an unpacked library folder, in the order of their names."""
    families = []
    for path in sorted(library.glob("*/*.mma")):
        file = path.relative_to(library).with_suffix("").as_posix()
        family = parse(file, path.read_text(encoding="latin-1"))
        if family is not None:
            families.append(family)
    return families
