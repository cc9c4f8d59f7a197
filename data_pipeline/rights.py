"""Which recordings may be used, by who holds the rights to them and until when."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from data_pipeline.sources import Rejection
from data_pipeline.tombstones import HOLDER, read_names

DENIED = "denied"  # the reason that holds for all copies of a recording
FIELDS = ("rightsholder", "licence", "territory", "expires")


@dataclass(frozen=True)
class Rights:
    """What the user has said about rights; by default all recordings that have not expired.

    Args:
        denied: ids of recordings and of clips, and rightsholders.
        licences: the only ones that are taken; None takes all.
    """

    denied: frozenset[str] = frozenset()
    licences: frozenset[str] | None = None

    def refusal(self, id: str, meta: Mapping) -> Rejection | None:
        """Why a recording must not be used; None if it may."""
        holder, licence, expires = (
            meta.get(name) for name in ("rightsholder", "licence", "expires")
        )
        names = (id, holder, HOLDER + holder) if isinstance(holder, str) else (id,)
        for name in names:
            if name in self.denied:
                return Rejection(id, DENIED, f"the list of the denied names {name}")
        if self.licences is not None and licence not in self.licences:
            return Rejection(id, "licence not allowed", "none" if licence is None else str(licence))
        if isinstance(expires, str) and expires < date.today().isoformat():
            return Rejection(id, "rights expired", expires)
        return None


def read_rights(deny: str | None, licences: Sequence[str] | None) -> Rights:
    """The rights from a file that denies a name a line (tombstones.py), and from licences.

    Raises:
        Refusal: the file cannot be read.
    """
    allowed = None if licences is None else frozenset(licences)
    return Rights(frozenset() if deny is None else read_names(deny), allowed)
