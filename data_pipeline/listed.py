"""What pieces/ says, as `validate` compares it: with shards, among splits, with captions.jsonl."""

import base64
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import numpy as np

from data_pipeline.caption_table import TABLE
from data_pipeline.checking import Row, Shard
from data_pipeline.embeddings import open_embeddings
from data_pipeline.hashing import hashed
from data_pipeline.judging import duplicates
from data_pipeline.judging.fingerprint import SIZE
from data_pipeline.layout import Info, piece_of, pieces
from data_pipeline.report import licence
from data_pipeline.stream import open_table
from jen1_numpy.errors import Refusal


class Listed:
    """What pieces/ says. It is read once, while `shards` is gone through."""

    def __init__(self, about: Info):
        self.problems: list[str] = []
        self._about, self._next = about, Counter()
        self.licences: Counter[str] = Counter()
        self._captions = array("Q")
        self._ids, self._groups, self._splits = array("Q"), array("Q"), array("B")

    @property
    def captions(self) -> int:
        """Distinct ones."""
        return len(np.unique(np.frombuffer(self._captions, np.uint64)))

    def shards(self, folder: str, checksums: Mapping[str, str]) -> Iterator[Shard]:
        """The shards to check, each with what pieces/ says of it."""
        about = self._about
        ends = {
            split: (np.cumsum([0, *lengths]) // about.blocks).tolist()
            for split, lengths in about.shards.items()
        }
        number, waiting = dict.fromkeys(ends, 0), {split: deque[Row]() for split in ends}

        def shard(split: str, known: bool) -> Shard:
            clips, rows = (
                range(ends[split][number[split]], ends[split][number[split] + 1]),
                waiting[split],
            )
            path = about.shard(split, number[split])
            found = list(rows) if known else None
            while rows and rows[0].first + rows[0].clips <= clips.stop:
                rows.popleft()
            number[split] += 1
            name = checksums.get(path.name)
            return Shard(folder, split, number[split] - 1, clips, found, name)

        try:
            for row in self._rows(folder):
                split = row["split"]
                waiting[split].append(Row(row["id"], row["first"], row["clips"], row["captions"]))
                while (
                    number[split] + 1 < len(ends[split])
                    and self._next[split] >= ends[split][number[split] + 1]
                ):
                    yield shard(split, known=True)
        except Refusal as refusal:
            self.problems.append(str(refusal))
        for split in ends:
            if not self.problems and self._next[split] != about.examples[split]:
                self.problems.append(
                    f"pieces/ lists {self._next[split]} clips of {split}, and there are "
                    f"{about.examples[split]}"
                )
            while number[split] + 1 < len(ends[split]):
                yield shard(split, known=not self.problems)

    def _rows(self, folder: str) -> Iterator[dict]:
        """The lines of pieces/, each checked and counted."""
        names = list(self._about.examples)
        for row in pieces(folder):
            try:
                id, split, first, clips, captions = (
                    row[name] for name in ("id", "split", "first", "clips", "captions")
                )
                if split not in names or first != self._next[split] or clips < 1:
                    raise ValueError(f"clip {first} of {split} is not the next one")
                self._next[split] += clips
                if self._next[split] > self._about.examples[split]:
                    raise ValueError(f"there are only {self._about.examples[split]} of {split}")
                if split == "train":
                    self.licences[licence(row.get("meta", {}))] += clips
                self._captions.extend(hashed(text) for text in captions if text)
                self._ids.append(hashed(id))
                self._groups.append(hashed(_group(row)))
                self._splits.append(names.index(split))
                if len(base64.b64decode(row.get("fingerprint", ""))) not in (0, SIZE):
                    raise ValueError("the fingerprint has another length")
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise Refusal(f"pieces/ has a wrong line about {row!r:.80} ({error})") from None
            yield row

    def strange(self, ids: Iterable[str]) -> np.ndarray:
        """The numbers of those that are neither recordings nor clips of recordings."""
        known, asked = np.frombuffer(self._ids, np.uint64), array("Q")
        for id in ids:
            asked.extend((hashed(id), hashed(piece_of(id))))
        found = np.isin(np.frombuffer(asked, np.uint64), known)
        return np.flatnonzero(~found.reshape(-1, 2).any(axis=1))

    def shared(self) -> tuple[set[int], set[int]]:
        """The hashes of ids, and those of groups, that are in several splits."""
        splits = np.frombuffer(self._splits, np.uint8)
        return tuple(
            _shared(np.frombuffer(each, np.uint64), splits) for each in (self._ids, self._groups)
        )


def _shared(keys: np.ndarray, splits: np.ndarray) -> set[int]:
    pairs = np.unique(np.stack([keys, splits.astype(np.uint64)], axis=1), axis=0)
    values, counts = np.unique(pairs[:, 0], return_counts=True)
    return set(values[counts > 1].tolist())


def among_splits(folder: str, listed: Listed) -> Iterator[tuple[str, str, range]]:
    """What is in several splits: a sentence, and the clips that should leave their split for it.

    What is in the training split and in another one should leave the training split.
    """
    ids, groups = listed.shared()
    splits: dict[str, set[str]] = defaultdict(set)

    def prints() -> Iterator[tuple[str, bytes]]:
        for row in pieces(folder):
            if hashed(row["id"]) in ids:
                splits[row["id"]].add(row["split"])
            elif hashed(_group(row)) in groups:
                splits[_group(row)].add(row["split"])
            yield f"{row['split']} {row['id']}", base64.b64decode(row.get("fingerprint", ""))

    leaving = {}
    for pair in duplicates(prints()).items():
        one, other = sorted(pair, key=lambda each: not each.startswith("train "))
        (split, id), (its, same) = one.split(" ", 1), other.split(" ", 1)
        if split != its and id != same:
            leaving[one] = f"{id} of {split} sounds like {same} of {its}"
    for row in pieces(folder) if splits or leaving else ():
        split, clips = row["split"], range(row["first"], row["first"] + row["clips"])
        if sentence := leaving.get(f"{split} {row['id']}"):
            yield sentence, split, clips
        for name in (row["id"], _group(row)) if split == "train" else ():
            if name in splits:
                yield f"{name} is in train and in {', '.join(splits[name] - {split})}", split, clips


def of_table(folder: str, listed: Listed) -> Iterator[str]:
    """What is wrong with the table of captions in the data set's folder, if there is one."""
    try:
        table = open_table(folder)
    except Refusal as refusal:
        yield str(refusal)
        return
    if table and not listed.problems and len(strange := listed.strange(table.ids())):
        id = next(islice(table.ids(), int(strange[0]), None))
        yield f"{TABLE} names {id!r}, which is not here; it has {len(strange)} such lines"
    try:
        embeddings = open_embeddings(folder)
    except Refusal:  # `validate` says so
        return
    if table and embeddings:
        lacking = [caption for caption in table.distinct() if caption not in embeddings]
        if lacking:
            yield (
                f"{TABLE} has {len(lacking)} captions without an embedding, such as "
                f"{lacking[0]!r}; `jen1 data embed` makes them"
            )


def _group(row: Mapping) -> str:
    return f"the group {row['group']}" if row.get("group") else f"the file {row['id']}"
