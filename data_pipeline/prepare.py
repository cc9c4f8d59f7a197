"""A source to a data set: its recordings are listed, prepared in units, and committed.

They are written as waveforms, or encoded at once and written as latents.

Every rejection is counted and listed in rejected.jsonl. No other file takes a rejected one's place.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import datetime, timedelta
from math import inf
from pathlib import Path

from data_pipeline import local, report_page
from data_pipeline.captioning import read_templates
from data_pipeline.choice import Choice, Units, choose
from data_pipeline.commit import REJECTED, Commit
from data_pipeline.encoding import Encoder
from data_pipeline.layout import SAMPLE_RATE, blocks_of, latent_features, waveform_features
from data_pipeline.listing import Listing, write_listing
from data_pipeline.report import Report
from data_pipeline.rights import read_rights
from data_pipeline.sources import empty, open_source
from data_pipeline.units import ENTRIES, Plan, Unit, outcomes_file
from jen1_jax.files import whole_folder
from jen1_numpy.errors import Refusal
from jen1_numpy.files import write_text

MIN_CLIP, MAX_CLIP = 0.1, 600.0  # seconds
REPORT = "report.json"
WORK = "work"  # of an unfinished data set: its listing and its units
LATENTS = "latents"  # in it, those of the units
STATE = 3  # version of what it holds; an unfinished data set of another version is not gone on with


def prepare(
    source: str,
    out: str,
    *,
    encoder: Encoder | None = None,
    seconds: float = 10.24,
    seed: int = 0,
    clips: int = 1000,
    soundfonts: Sequence[str] = (),
    limit_hours: float | None = None,
    test_fraction: float = 0.1,
    loudness: float | None = None,
    deny: str | None = None,
    licences: Sequence[str] | None = None,
    captions: str | None = None,
    jobs: int | None = None,
    beam: Sequence[str] | None = None,
    progress: Callable[[str], None] = print,
) -> Report:
    """Writes the data set `out` from `source`, which `sources.open_source` describes.

    Args:
        encoder: writes the clips' latents, the same as `latents.encode` of the waveforms; None
            writes the waveforms.
        seconds: length of every clip; see `clips.cut`.
        seed: of the synthesiser, of the order of the recordings, and of the split.
        clips: number of clips of the synthesiser; other sources ignore it.
        soundfonts: files that the MIDI files of a folder are rendered with.
        limit_hours: stop after this much accepted audio, taken from recordings in the order of a
            hash of their names: a random sample, the same every time.
        test_fraction: share of the recordings in the split "test", at least one; all clips of a
            recording are in one split, and so are all recordings of a group. It is not used if the
            source gives any recording a split; those without one are then in the split "train".
        loudness: LUFS to which each recording is scaled, as far as its peak stays below 1; None
            leaves it as it is.
        deny: a file with an id or a rightsholder a line, whose recordings are rejected.
        licences: the only ones that are taken; None takes all.
        captions: a file of templates (`captioning.templates`), after which captions are written
            where none are given.
        jobs: processes that prepare units; by default as many as there are cores. With one job, or
            one unit, it is this process, and a file that crashes its decoder ends it.
        beam: flags of an Apache Beam pipeline that prepares the units, instead of `jobs`.

    Raises:
        Refusal: the source is unusable, no recording was accepted, or `out` exists or cannot be
            written. Nothing is left under `out`.

    A call that is interrupted leaves a hidden folder beside `out`, or in $TMPDIR if `out` is in a
    bucket. The same call goes on with the units that are not finished there. The data set depends
    on neither, nor on `jobs` or `beam`.
    """
    if not (MIN_CLIP <= seconds <= MAX_CLIP):
        raise Refusal(
            f"--seconds {seconds} is no length for a clip; give {MIN_CLIP} to {MAX_CLIP}."
        )
    if not (0 <= test_fraction < 1 and clips > 0 and (limit_hours is None or limit_hours > 0)):
        raise Refusal("--clips and --limit-hours must be positive and the test fraction in [0, 1).")
    if loudness is not None and not -70 < loudness <= 0:
        raise Refusal(f"--loudness {loudness} is no level for music; give -70 to 0 LUFS.")
    if beam is not None and limit_hours is not None:
        raise Refusal("A Beam pipeline prepares all files; leave out --beam or --limit-hours.")
    reading = dict(clips=clips, seconds=seconds, seed=seed, soundfonts=soundfonts)
    opened, rights = open_source(source, **reading), read_rights(deny, licences)
    templates = read_templates(captions) if captions else ()
    command = dict(reading, limit_hours=limit_hours, test_fraction=test_fraction, source=source)
    command |= dict(loudness=loudness, licences=licences and sorted(licences), state=STATE)
    command |= dict(denied=sorted(rights.denied), encoder=encoder and encoder.fingerprint)
    command |= dict(templates=[template.text for template in templates])
    key = hashlib.sha256(json.dumps(command).encode()).hexdigest()[:16]
    with whole_folder(out, key) as folder:
        work = folder / WORK
        if not (folder / REPORT).exists():
            work.mkdir(exist_ok=True)
            plan = Plan(opened, work, seconds, seed, test_fraction, loudness, rights, templates)
            listing = _list(plan, source, progress)
            choice, units = _prepare_units(
                plan, listing, limit_hours, encoder, jobs, beam, progress
            )
            _write(folder, plan, choice, units, encoder, listing.files, source, out, progress)
        shutil.rmtree(work, ignore_errors=True)
        return Report(**json.loads((folder / REPORT).read_text()))


def _list(plan: Plan, source: str, progress: Callable[[str], None]) -> Listing:
    """Lists the source; units of an earlier call stay only if it lists the same as then."""
    work, new = plan.folder, plan.folder / "listing.new"
    with open(new, "wb") as file:
        listing = write_listing(plan.source, plan.seed, file)
    if not listing.files:
        raise empty(source)
    digest = work / "listing.sha256"
    if not digest.exists() or digest.read_text() != listing.digest:
        if digest.exists():
            progress(f"{source} has changed, so an earlier call is not gone on with")
        for path in work.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path != new:
                path.unlink()
        write_text(digest, listing.digest)
    os.replace(new, work / ENTRIES)
    return listing


def _prepare_units(
    plan: Plan,
    listing: Listing,
    limit_hours: float | None,
    encoder: Encoder | None,
    jobs: int | None,
    beam: Sequence[str] | None,
    progress: Callable[[str], None],
) -> tuple[Choice, Units]:
    """Prepares units in order until they are all done, or enough for the limit.

    With an encoder each is then encoded here, and its waveforms are deleted.
    """
    limit = inf if limit_hours is None else limit_hours * 3600
    folder, total = plan.folder / LATENTS if encoder else plan.folder, listing.units
    folder.mkdir(exist_ok=True)
    done = {n: _seconds(folder, n) for n in range(total) if outcomes_file(folder, n).exists()}
    if done:
        progress(f"continues after {len(done)} of {total} units that are finished")
    todo = (Unit(n, listing.lines(n), {}) for n in range(total) if n not in done)
    before, began, reported = dict(done), time.monotonic(), time.monotonic()
    least = limit  # seconds that the first units have before it is worth choosing
    if beam is None:
        numbers = local.prepare_units(plan, todo, min(jobs or os.cpu_count() or 1, total))
    else:
        from data_pipeline.beam import prepare_units

        numbers = prepare_units(plan, todo, beam)
    with closing(numbers) as finished:
        while True:
            first = next(n for n in range(total + 1) if n not in done)
            have = sum(done[n] for n in range(first))
            if first == total or have >= least:
                units = Units(folder, first)
                choice = choose(units, plan.test_fraction, limit)
                if first == total or choice.seconds >= limit:
                    return choice, units
                least = have + limit - choice.seconds
            number = next(finished)
            if encoder:
                _encode_unit(plan, number, encoder)
            done[number] = _seconds(folder, number)
            if time.monotonic() - reported > 5:
                reported = time.monotonic()
                progress(_progress(before, done, total, limit, reported - began))


def _progress(
    before: Mapping[int, float], done: Mapping[int, float], total: int, limit: float, took: float
) -> str:
    """Says what is done, how fast, and when it will end; the units have these seconds of audio."""
    earlier, audio = sum(before.values()), sum(done.values())
    share = max(
        (len(done) - len(before)) / (total - len(before)),
        (audio - earlier) / max(limit - earlier, 1),
    )
    end = datetime.now() + timedelta(seconds=took * (1 / min(share, 1) - 1))
    return (
        f"{len(done)}/{total} units, {audio / 3600:.2f} hours, "
        f"{(audio - earlier) / took:.0f} times real time; ends at about {end:%d %b %H:%M}"
    )


def _seconds(folder: Path, number: int) -> float:
    """Of the clips of a finished unit, without padding."""
    outcomes = json.loads(outcomes_file(folder, number).read_text())["outcomes"]
    return sum(sum(outcome.get("valid", ())) for outcome in outcomes) / SAMPLE_RATE


def _write(
    folder: Path,
    plan: Plan,
    choice: Choice,
    units: Units,
    encoder: Encoder | None,
    files: int,
    source: str,
    out: str,
    progress: Callable[[str], None],
) -> None:
    """Commits the units, and writes the reports, of which report.json comes last."""
    samples = round(plan.seconds * SAMPLE_RATE)
    text = f"48 kHz stereo clips of {plan.seconds} s from {Path(source).name}"
    commit = Commit(folder, units, choice, 1 if encoder else blocks_of(samples))
    totals = commit.take()
    report = totals.report(out, files, choice.decided, choice.limited)
    _check(report, folder, source)
    if encoder:
        from data_pipeline.latents import write_texts

        features = latent_features(encoder.frames(plan.seconds), encoder.k)
        commit.finish(features, f"latents of {text}")
        write_texts(folder, _captions(units, choice), encoder, progress)
    else:
        commit.finish(waveform_features(samples), text)
    report_page.write(totals.page(report, source), folder)
    write_text(folder / REPORT, json.dumps(asdict(report), indent=2) + "\n")


def _encode_unit(plan: Plan, number: int, encoder: Encoder) -> None:
    """Encodes a unit whose waveforms are prepared, and deletes them."""
    from data_pipeline.latents import encode_unit, read_unit  # it imports TensorFlow

    unit = json.loads((file := outcomes_file(plan.folder, number)).read_text())
    clips = read_unit(plan.folder, unit, plan.seconds)
    encode_unit(plan.folder / LATENTS, number, clips, encoder, plan.seconds, unit["outcomes"])
    file.unlink()
    for shard in (shard for shards in unit["shards"].values() for shard in shards):
        (plan.folder / shard["name"]).unlink()


def _captions(units: Units, choice: Choice) -> set[str]:
    taken = (outcome for place, outcome in units.outcomes() if choice.clips(place, outcome))
    return {caption for outcome in taken for caption in outcome["captions"]}


def _check(report: Report, folder: Path, source: str) -> None:
    """Refuses a source that gives nothing to train on."""
    if not report.accepted:
        lines = (folder / REJECTED).read_text(encoding="utf-8").splitlines()
        shown = "; ".join("{id}: {reason}".format(**json.loads(line)) for line in lines[:3])
        more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
        raise Refusal(f"No file of {source} was accepted: {shown}{more}; nothing was written.")
    if not report.clips.get("train"):
        raise Refusal(
            f"No file of {source} that was accepted is in the split train; give some of them "
            '"split": "train", or none a split.'
        )
