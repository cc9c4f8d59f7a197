"""The command `jen1`: parses, calls, prints."""

import argparse
import ast
import json
import logging
import math
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jen1_jax import __version__
from jen1_numpy.errors import Refusal

SOURCE = "a folder, a CSV, TSV or JSONL, tars, a TFDS data set (see docs/data.md), or `synthetic`"
_TRAIN = "pip install 'jen1-jax[train]', or train from an .npz file"
_MIDI = "pip install 'jen1-jax[midi]', or remove the MIDI files from the folder"
MISSING = {  # package -> what to do where an extra is not installed
    "tensorflow": _TRAIN,
    "tensorflow_datasets": _TRAIN,
    "array_record": _TRAIN,
    "apache_beam": "pip install 'jen1-jax[train,beam]'",
    "libtpu": "pip install 'jen1-jax[plan]'",
    "mido": _MIDI,
    "pretty_midi": _MIDI,
    # Its dependency pyaudio plays sound live, and often has to be compiled.
    "tinysoundfont": "pip install --no-deps tinysoundfont",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    It is 0 for success, 3 for bad input, 75 (EX_TEMPFAIL) for a training that was stopped and goes
    on by the same command, and 130 for another interrupted command. Other exceptions are not
    caught.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    unknown = [text for text in rest if not text.startswith("--config.")]
    if unknown or (rest and "overrides" not in options):
        parser.error(f"unrecognised arguments: {' '.join(unknown or rest)}")
    if "overrides" in options:
        if any("=" not in text for text in rest):
            parser.error("overrides look like --config.train_diffusion.steps=1000")
        options.overrides = dict(text.removeprefix("--config.").split("=", 1) for text in rest)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows progress at once, too
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("jen1_jax").setLevel(logging.INFO)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # What JAX has compiled is used again by later commands.
    compiled = os.path.expanduser("~/.cache/jen1-jax/compiled")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", compiled)
    try:
        options.command(options)
    except Refusal as refusal:
        print(f"jen1: {refusal}", file=sys.stderr)
        return 3
    except ModuleNotFoundError as error:
        if error.name not in MISSING:
            raise
        print(f"jen1: This needs {error.name}: {MISSING[error.name]}.", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("jen1: interrupted.", file=sys.stderr)
        return 130
    except Exception as error:
        if type(error).__name__ != "Interrupted":
            raise
        print(f"jen1: {error}", file=sys.stderr)
        return os.EX_TEMPFAIL
    return 0


def data_prepare(options: argparse.Namespace) -> None:
    print(_prepare(options))


def _prepare(options: argparse.Namespace, encoder=None):
    """Prepares --source, as latents if there is an encoder, and returns the report."""
    from data_pipeline.prepare import prepare

    return prepare(
        options.source,
        options.out,
        encoder=encoder,
        seconds=options.seconds,
        seed=options.seed,
        clips=options.clips,
        soundfonts=options.soundfont,
        limit_hours=options.limit_hours,
        test_fraction=options.test_fraction,
        loudness=options.loudness,
        deny=options.deny,
        captions=options.captions,
        licences=options.licences,
        jobs=options.jobs,
        beam=options.beam,
    )


def data_validate(options: argparse.Namespace) -> None:
    from data_pipeline.repair import finish, repair
    from data_pipeline.validate import validate
    from jen1_jax.models.run import Run
    from jen1_numpy.files import write_text

    _check_folder(options.json)
    fingerprints = Run.open(options.run).record["fingerprints"] if options.run else None
    if options.repair:
        finish(options.dir)
    report = validate(options.dir, jobs=options.jobs, fingerprints=fingerprints)
    print(report)
    if options.json:
        write_text(options.json, json.dumps(report.to_json(), indent=1) + "\n")
    problems, way_out = report.problems, "--repair drops what is bad"
    if options.repair:
        repair(report)
        problems, way_out = report.repairs.lasting, "--repair cannot mend them: prepare again"
    if problems:
        raise Refusal(f"{options.dir} has {len(problems)} problems, listed above; {way_out}.")


def data_withdraw(options: argparse.Namespace) -> None:
    from data_pipeline.tombstones import read_names
    from data_pipeline.withdraw import withdraw

    names = {*options.ids, *(read_names(options.file) if options.file else ())}
    withdraw(options.dir, sorted(names), options.reason)


def data_trace(options: argparse.Namespace) -> None:
    from data_pipeline.trace import trace
    from jen1_jax.models.checkpoints import Checkpoints
    from jen1_jax.models.run import Run
    from jen1_numpy.files import write_text

    _check_folder(options.json)
    run, found = Run.open(options.run), {}
    for part in ("autoencoder", "diffusion"):
        if (until := Checkpoints.newest(run.checkpoints(part))) < 0:
            continue
        record = Checkpoints(run.checkpoints(part)).record()
        directory = options.data or record["data"]["dir"]
        if directory.endswith(".npz"):
            print(f"{part}: {directory} is no data set of shards, and is not traced")
            continue
        found[part] = trace(directory, options.ids, record["position"], until)
        print(f"{part}: {found[part]}")
    if not found:
        raise Refusal(f"{run.path} has no checkpoint of a training on shards; nothing is traced.")
    if options.json:
        traced = {part: vars(each) for part, each in found.items()}
        write_text(options.json, json.dumps(traced, indent=1) + "\n")


def _check_folder(file: str | None) -> None:
    """Refuses a file for which there is no folder, before the work whose result it shall hold."""
    if file and not Path(file).absolute().parent.is_dir():
        raise Refusal(f"There is no folder for {file}; create it, or name another file.")


def data_encode(options: argparse.Namespace) -> None:
    from data_pipeline.latents import Encoder, encode
    from jen1_jax.models.autoencoder import load_codec
    from jen1_jax.models.run import Run
    from jen1_jax.sharding import local_layout
    from jen1_jax.text.prompts import TextEncoder

    run = Run.open(options.autoencoder)
    codec, text = load_codec(run), None
    if options.text != "none":
        text = TextEncoder.frozen(
            options.text, options.text_max_length, options.text_dtype, local_layout(run.config)
        )
    fingerprint = {"autoencoder": codec.fingerprint} | ({"text": text.fingerprint} if text else {})
    encoder = Encoder(
        lambda audio, valid: codec.encode(audio, valid_samples=valid),
        fingerprint,
        k=codec.k,
        hop=codec.hop,
        around=codec.encoder_reach,
        embed=text.embed if text else None,
    )
    if options.data is None:
        print(_prepare(options, encoder))
    else:
        share = dict(process=options.process, processes=options.processes)
        if encode(options.data, options.out, encoder, **share):
            print(f"latents written to {options.out}")


def data_embed(options: argparse.Namespace) -> None:
    from data_pipeline.latents import add_embeddings
    from jen1_jax.text.prompts import TextEncoder

    text = TextEncoder.frozen(options.text, options.text_max_length, options.text_dtype)
    add_embeddings(options.dir, text.fingerprint, text.embed)


def _join(options) -> None:
    """Joins the other processes of a training; only the first one prints."""
    import jax

    from jen1_jax import distributed

    distributed.start(options.coordinator, options.processes, options.process)
    if jax.process_index() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        logging.disable(logging.WARNING)


def train_autoencoder(options: argparse.Namespace) -> None:
    _join(options)
    from jen1_jax.models.autoencoder import make_autoencoder
    from jen1_jax.training.autoencoder import train_autoencoder

    config, run = _configured(options)
    crop = round(config.train_autoencoder.seconds * config.audio.sample_rate)
    crop -= crop % make_autoencoder(config).hop
    directory = config.data.dir or str(run.path / "data")
    data = _data(config, run.path / "autoencoder", directory, crop=crop)
    train_autoencoder(config, run, data, _source(options))
    print(f"the autoencoder is in {run.path / 'autoencoder'}")


def train_diffusion(options: argparse.Namespace) -> None:
    _join(options)
    from jen1_jax.evaluation.demos import write_demos
    from jen1_jax.training.diffusion import train_diffusion

    config, run = _configured(options)
    directory = config.data.dir or str(run.path / "latents")
    data = _data(config, run.path / "diffusion", directory, limit=config.data.limit)
    train_diffusion(config, run, data, _source(options), write_demos=write_demos)
    print(f"the diffusion model is in {run.path / 'diffusion'}")


def generate(options: argparse.Namespace) -> None:
    out = _out(options)
    model = _model(options)
    audio = model.generate(options.prompt, options.seconds, options.seed, **_sampling(options))
    _write(model, out, audio, options)


def inpaint(options: argparse.Namespace) -> None:
    out, model, audio = _given(options)
    result = model.inpaint(audio, options.span, options.prompt, options.seed, **_sampling(options))
    _write(model, out, result, options, spans=options.span)


def extend(options: argparse.Namespace) -> None:
    out, model, audio = _given(options)
    result = model.extend(
        audio, options.seconds, options.prompt, options.seed, **_sampling(options)
    )
    added = len(audio) / model.sample_rate, len(result) / model.sample_rate
    _write(model, out, result, options, spans=[added])


def vary(options: argparse.Namespace) -> None:
    out, model, audio = _given(options)
    result = model.vary(audio, options.prompt, options.strength, options.seed, **_sampling(options))
    _write(model, out, result, options)


def evaluate_autoencoder(options: argparse.Namespace) -> None:
    from itertools import islice

    from jen1_jax.evaluation.autoencoder import clips_in, clips_of, evaluate_autoencoder
    from jen1_jax.evaluation.reconstruction import FIGURES
    from jen1_jax.models.autoencoder import load_codec
    from jen1_jax.models.run import Run

    codec = load_codec(Run.open(options.checkpoint))
    folder = Path(options.data)
    if not folder.is_dir() or (folder / "dataset_info.json").exists():
        from data_pipeline.shard_data import ShardData

        data = ShardData(options.data, 8, seed=0)
        _check_waveforms(data, options.data)
        clips = clips_of(data.sweep("test"))
    else:
        clips = clips_in(folder, codec.sample_rate)
    clips = islice(clips, options.clips)
    report = evaluate_autoencoder(codec, clips, Path(options.out), _Progress())
    for name, medians in report["median"].items():
        known = [figure for figure in FIGURES if medians[figure] is not None]
        listed = ", ".join(f"{figure.replace('_', ' ')} {medians[figure]:.2f}" for figure in known)
        print(f"{name}: medians over {medians['clips']} held-out clips: {listed}")
    print(f"report, audio pairs and page.png are in {options.out}")


def evaluate_captions(options: argparse.Namespace) -> None:
    from data_pipeline.shard_data import ShardData
    from jen1_jax.evaluation.adherence import table
    from jen1_jax.evaluation.autoencoder import clips_of
    from jen1_jax.evaluation.captions import evaluate_captions

    data = ShardData(options.data, 8, seed=0)
    _check_waveforms(data, options.data)
    model = _model(options)
    clips, length = clips_of(data.sweep("test")), data.description["length"]
    report = evaluate_captions(model, clips, length, options.clips, Path(options.out))
    print(
        f"captions of {report['clips']} held-out clips, the first {report['seconds']:.2f} s of "
        "each; ranks of the right clip by similarity:"
    )
    print(table(report["rows"], report["clips"]))
    print(f"report, audio pairs and page.png are in {options.out}")


def _check_waveforms(data, directory: str) -> None:
    kind = data.description["kind"]
    if kind != "waveform":
        raise Refusal(f"{directory} holds {kind}; give the audio that they were encoded from.")


def page(options: argparse.Namespace) -> None:
    from jen1_jax.evaluation.page import draw_run
    from jen1_jax.models.run import Run

    files = [Path(file) for file in options.audio]
    draw_run(Run.open(options.checkpoint), files, Path(options.out))
    print(f"page written to {options.out}")


def release(options: argparse.Namespace) -> None:
    from jen1_jax.models import release
    from jen1_jax.models.run import Run

    release.release(Run.open(options.checkpoint), options.out, options.text, options.step)
    print(f"release written to {options.out}")


def export_torch(options: argparse.Namespace) -> None:
    from jen1_jax.export.to_torch import export_torch
    from jen1_jax.models.run import Run

    export_torch(
        Run.open(options.checkpoint),
        options.out,
        step=options.step,
        text_by_name=options.text_by_name,
        licence=options.licence,
        reports=options.report,
    )
    print(f"exported to {options.out}; its README.md says how to use it")


def import_torch(options: argparse.Namespace) -> None:
    from jen1_jax.export.from_torch import import_torch

    import_torch(options.source, options.out)
    print(
        f"run written to {options.out}; train on with --autoencoder {options.out} "
        f"--config.train_diffusion.init_from={options.out} in a new --workdir"
    )


def plan(options: argparse.Namespace) -> None:
    import jax

    from jen1_jax.config import load_config
    from jen1_jax.planning.plan import plan
    from jen1_jax.planning.report import report
    from jen1_numpy.files import write_text

    _check_folder(options.json)
    if not 0 <= options.price < math.inf:
        raise Refusal(f"--price is a number of dollars from 0 on, not {options.price}.")
    jax.config.update("jax_platforms", "cpu")  # an accelerator of this machine has no part in it
    config = load_config(options.config, options.overrides)
    print("compiling the training step; large ones take minutes, and seconds the next time")
    figures = plan(config, options.part, options.topology, options.slices, options.price)
    print(report(figures))
    if options.json:
        write_text(options.json, json.dumps(figures, indent=1))


def _configured(options):
    """The configuration, which is also printed, and the run folder of a training command."""
    from jen1_jax.config import load_config, to_plain
    from jen1_jax.files import anywhere
    from jen1_jax.models.run import Run

    config = load_config(options.config, options.overrides)
    for section, values in to_plain(config).items():
        print(f"{section}: {json.dumps(values)}")
    return config, Run(anywhere(options.workdir))


def _source(options):
    """The run given by --autoencoder, if there is one."""
    from jen1_jax.models.run import Run

    return Run.open(options.autoencoder) if options.autoencoder else None


def _data(config, part: Path, directory: str, *, crop: int | None = None, limit: int = 0):
    """The training data of a `part` of a run, from folders of shards or from an .npz file."""
    batch_size = config[f"train_{part.name}"].batch_size
    if directory.endswith(".npz"):
        from jen1_jax.training.npz import NpzData

        return NpzData(directory, batch_size, config.seed, crop, limit)
    import jax

    from data_pipeline.damage import Damages
    from data_pipeline.shard_data import ShardData

    return ShardData(
        directory,
        batch_size,
        config.seed,
        shares=config.data.shares,
        crop=crop,
        limit=limit,
        prefetch=config.data.prefetch,
        captions=config.data.captions,
        damages=Damages(part, config.data.most_damaged, jax.process_index()),
    )


def _out(options) -> Path:
    from jen1_numpy.audio import check_writable

    return check_writable(options.out)


def _model(options):
    """The model of a run, after the user's own files that register what it needs."""
    from jen1_jax.config import run_file
    from jen1_jax.generation.model import Model

    for file in options.imports:
        run_file(file)
    return Model.load(options.checkpoint, _Progress(), options.overrides)


def _given(options):
    """Where to write, the model, and the audio that it is given."""
    from jen1_numpy.audio import read_audio

    out, model = _out(options), _model(options)
    return out, model, read_audio(options.audio, model.sample_rate)


def _sampling(options) -> dict:
    from jen1_numpy.noise import read_noise

    return _chosen(options) | {"noise": read_noise(options.noise) if options.noise else None}


def _chosen(options) -> dict:
    """The options of sampling, with the path of the noise."""
    from jen1_numpy.options import SamplingOptions

    chosen = {name: getattr(options, name) for name in SamplingOptions.__annotations__}
    chosen["noise"] = str(Path(options.noise).resolve()) if options.noise else None
    return chosen | {"conditions": dict(options.conditions or ())}


def _write(model, out: Path, audio, options, spans: Sequence[tuple[float, float]] = ()) -> None:
    """Writes the WAV, and beside it a JSON file with all that it was generated from."""
    from jen1_jax.generation.model import SETTINGS
    from jen1_numpy.audio import write_wav
    from jen1_numpy.files import write_text
    from jen1_numpy.options import resolve

    write_wav(out, audio, model.sample_rate)
    settings = [key.removeprefix("diffusion.") for key in SETTINGS]
    record = {
        name: getattr(options, name) for name in ("prompt", "seed", "strength") if name in options
    }
    record |= {name: model.config.diffusion[name] for name in settings if name != "sample_steps"}
    record |= resolve(_chosen(options), dict(model.config.diffusion))
    if "audio" in options:
        record["audio"] = str(Path(options.audio).resolve())
    record |= {
        "spans": list(spans),
        "version": __version__,
        "fingerprints": model.run.record["fingerprints"],
    }
    write_text(out.with_name(out.name + ".json"), json.dumps(record, indent=1))
    print(f"{len(audio) / model.sample_rate:.2f} s written to {out}")


class _Progress:
    """Prints how far encoding, sampling and decoding are, at most every few seconds."""

    def __init__(self):
        self._next = time.monotonic() + 5

    def __call__(self, doing: str, done: int, total: int) -> None:
        if time.monotonic() >= self._next:
            print(f"{doing}: {done}/{total} frames", flush=True)
            self._next = time.monotonic() + 5


def _span(text: str) -> tuple[float, float]:
    start, _, end = text.partition(":")
    try:
        return float(start), float(end)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"a span is START:END in seconds, like 3.0:5.5; got {text!r}"
        ) from None


def _condition(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise argparse.ArgumentTypeError(f"a condition is NAME=VALUE, like tempo=120; got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it must be a whole number of at least 1; got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jen1", description="Trains JEN-1 and makes music with it."
    )
    parser.add_argument("--version", action="version", version=f"jen1-jax {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    data = commands.add_parser(
        "data", help="prepare, check and encode training data"
    ).add_subparsers(required=True)
    sub = _command(data, "prepare", data_prepare, "audio -> stereo shards")
    sub.add_argument("--source", required=True, help=SOURCE)
    _add_reading(sub)
    sub.add_argument("--out", required=True)
    sub = _command(
        data, "validate", data_validate, "report the contents and the problems of a data set"
    )
    sub.add_argument("dir")
    sub.add_argument("--jobs", type=_count, help="processes that read (default: one a core)")
    sub.add_argument("--run", help="a run whose encoders the latents must come from")
    sub.add_argument("--repair", action="store_true", help="drop what is bad or withdrawn")
    sub.add_argument("--json", metavar="FILE", help="write the report there, too")
    about = "leave recordings, clips or the works of a rightsholder out of all later steps"
    sub = _command(data, "withdraw", data_withdraw, about)
    sub.add_argument("dir")
    ids_help = "of a recording, of a clip (FILE@SECONDS), or rightsholder:NAME"
    sub.add_argument("ids", nargs="*", metavar="ID", help=ids_help)
    sub.add_argument("--file", help="with an id a line")
    sub.add_argument("--reason", default="", help="to be kept with the ids")
    sub = _command(data, "trace", data_trace, "the steps of a run that have read a recording")
    sub.add_argument("ids", nargs="+", metavar="ID", help=ids_help)
    sub.add_argument("--run", required=True)
    sub.add_argument("--data", metavar="DIR", help="where its data are now (default: as recorded)")
    sub.add_argument("--json", metavar="FILE", help="write the steps there, too")
    sub = _command(data, "encode", data_encode, "shards or audio -> whitened latents and captions")
    given = sub.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", metavar="DATA", help="what `jen1 data prepare` has written")
    given.add_argument("--source", help=f"{SOURCE}, encoded without storing the audio")
    _add_reading(sub.add_argument_group("how --source is read"))
    sub.add_argument("--autoencoder", required=True, metavar="RUN")
    sub.add_argument("--out", required=True)
    shared = "that encode --data together, into the same folder"
    sub.add_argument(
        "--processes", type=_count, default=1, help=f"commands {shared} (default: %(default)s)"
    )
    sub.add_argument("--process", type=int, default=0, help="number of this one, from 0")
    _add_text(sub, default="none")
    sub = _command(data, "embed", data_embed, "embed the captions whose embeddings latents lack")
    sub.add_argument("dir", metavar="LATENTS")
    _add_text(sub, required=True)

    train = commands.add_parser(
        "train", help="train the autoencoder or the diffusion model"
    ).add_subparsers(required=True)
    keep_encoder = "keep the encoder of another run (latents stay valid) and train its decoder"
    take_autoencoder = "use the trained autoencoder of another run"
    for name, function, autoencoder_help in (
        ("autoencoder", train_autoencoder, keep_encoder),
        ("diffusion", train_diffusion, take_autoencoder),
    ):
        about = f"train the {name} of a run, or continue from its last checkpoint"
        sub = _command(train, name, function, about)
        sub.add_argument(
            "--config",
            required=True,
            help="a preset or a .py file; override fields with --config.a.b=value",
        )
        sub.add_argument("--workdir", required=True, metavar="RUN")
        sub.set_defaults(overrides={})
        sub.add_argument("--autoencoder", metavar="RUN", help=autoencoder_help)
        group = sub.add_argument_group(
            "several processes", "found without options on a TPU pod, by Slurm and by Kubernetes"
        )
        group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, a free port")
        group.add_argument("--processes", type=_count, metavar="N", help="how many there are")
        group.add_argument("--process", type=int, metavar="I", help="this one's number, from 0 on")

    for name, function, says in (
        ("generate", generate, "music from text"),
        ("inpaint", inpaint, "new music in spans of a file"),
        ("extend", extend, "a file continued"),
        ("vary", vary, "a variation of a file"),
    ):
        sub = _command(commands, name, function, says)
        sub.add_argument(
            "--checkpoint",
            required=True,
            metavar="RUN",
            help="a trained run; other settings of sampling: --config.diffusion.sampler=heun etc.",
        )
        _add_import(sub)
        sub.set_defaults(overrides={})
        if name != "generate":
            sub.add_argument("--audio", required=True)
        if name == "inpaint":
            sub.add_argument(
                "--span",
                required=True,
                action="append",
                type=_span,
                metavar="START:END",
                help="in seconds",
            )
        elif name == "vary":
            sub.add_argument(
                "--strength",
                type=float,
                default=0.6,
                help="0 to 1; the higher, the less is kept (default: %(default)s)",
            )
        else:
            sub.add_argument(
                "--seconds", required=True, type=float, help="how much music to generate or to add"
            )
        sub.add_argument("--prompt", default="", help="without one, the music is unconditional")
        sub.add_argument(
            "--negative-prompt",
            help="what to keep away from (default: music without a prompt)",
        )
        sub.add_argument("--seed", type=int, default=0)
        sub.add_argument("--steps", type=int, help="of sampling (default: the run's)")
        sub.add_argument(
            "--guidance-scale",
            type=float,
            help="how closely to follow the prompt (default: the run's)",
        )
        sub.add_argument(
            "--noise",
            metavar="FILE",
            help="start from the noise of a safetensors file, as PyTorch can (docs/export.md)",
        )
        what = "the music" if name == "generate" else "the file"
        sub.add_argument(
            "--start",
            type=float,
            help=f"seconds into its piece at which {what} begins (default: 0)",
        )
        sub.add_argument(
            "--total",
            type=float,
            help="seconds that the whole piece lasts (default: until the music ends)",
        )
        sub.add_argument(
            "--condition",
            dest="conditions",
            action="append",
            type=_condition,
            metavar="NAME=VALUE",
            help="a value for another conditioner of the model, like tempo=120",
        )
        sub.add_argument("--out", required=True, help="a .wav file")

    evaluate = commands.add_parser("evaluate", help="measure a trained model").add_subparsers(
        required=True
    )
    about = "measure how well the autoencoder reconstructs held-out clips"
    sub = _command(evaluate, "autoencoder", evaluate_autoencoder, about)
    sub.add_argument("--checkpoint", required=True, metavar="RUN")
    data_help = "prepared data, whose test split is used"
    sub.add_argument("--data", required=True, help=f"{data_help}, or a folder of audio files")
    sub.add_argument("--clips", type=_count, help="maximum number of clips (default: all)")
    sub.add_argument("--out", required=True)
    about = "measure whether the music follows held-out captions"
    sub = _command(evaluate, "captions", evaluate_captions, about)
    sub.add_argument("--checkpoint", required=True, metavar="RUN")
    sub.add_argument("--data", required=True, help=data_help)
    clips_help = "maximum number of clips, one for each caption (default: %(default)s)"
    sub.add_argument("--clips", type=_count, default=48, help=clips_help)
    _add_import(sub)
    sub.set_defaults(overrides={})
    sub.add_argument("--out", required=True)
    about = "compile a training for TPU chips that need not be there, and say what it needs"
    sub = _command(commands, "plan", plan, about)
    sub.add_argument("--config", required=True, help="a preset or a .py file, as in `jen1 train`")
    sub.set_defaults(overrides={})
    sub.add_argument(
        "--topology",
        required=True,
        metavar="KIND:SHAPE",
        help="of a slice: v5e:4x4, v6e:16x16, v5p:4x4x4, ...",
    )
    sub.add_argument("--slices", type=_count, default=1, help="of that shape (default: 1)")
    sub.add_argument("--part", choices=("diffusion", "autoencoder"), default="diffusion")
    sub.add_argument("--price", type=float, default=0.0, help="dollars per chip and hour")
    sub.add_argument("--json", metavar="FILE", help="write the figures there, too")
    about = "write a run's weights in float16, without the state of its training"
    sub = _command(commands, "release", release, about)
    sub.add_argument("--checkpoint", required=True, metavar="RUN")
    sub.add_argument(
        "--text",
        default="",
        metavar="NAME",
        help="the name of its frozen text encoder on the hub, where the run has a local folder",
    )
    _add_step(sub)
    sub.add_argument("--out", required=True, help="a new folder")

    export = commands.add_parser("export", help="write a run for other programs")
    about = "a folder that generates with PyTorch alone"
    sub = _command(export.add_subparsers(required=True), "torch", export_torch, about)
    sub.add_argument("--checkpoint", required=True, metavar="RUN")
    _add_step(sub)
    sub.add_argument(
        "--text-by-name",
        nargs="?",
        const="",
        metavar="NAME",
        help="leave a frozen text encoder out, to be found on the hub by NAME (default: the name "
        "that the run has)",
    )
    sub.add_argument(
        "--licence", default="", metavar="ID", help="of the weights, for the model card: apache-2.0"
    )
    sub.add_argument(
        "--report",
        action="append",
        default=[],
        metavar="FILE",
        help="a report.json of `jen1 evaluate`, whose figures go into the model card; may be "
        "given several times",
    )
    sub.add_argument("--out", required=True, help="a new folder")
    back = commands.add_parser("import", help="read what other programs have written")
    about = "an exported folder -> a run"
    sub = _command(back.add_subparsers(required=True), "torch", import_torch, about)
    sub.add_argument("--from", required=True, dest="source", metavar="DIR")
    sub.add_argument("--out", required=True, metavar="RUN", help="a new folder")
    about = "draw one picture of a run: audio files, round trips, loss curves"
    sub = _command(commands, "page", page, about)
    sub.add_argument("--checkpoint", required=True, metavar="RUN")
    sub.add_argument("--out", required=True, help="a .png file")
    sub.add_argument("audio", nargs="*", help="WAV files to draw")
    return parser


def _add_step(sub) -> None:
    sub.add_argument(
        "--step",
        default="",
        help="which checkpoint of the diffusion model: a step, or `best` by held-out loss (default:"
        " the newest)",
    )


def _add_text(sub, **given) -> None:
    sub.add_argument(
        "--text",
        help="folder or hub name of a frozen FLAN-T5 or BERT to embed captions with",
        **given,
    )
    sub.add_argument(
        "--text-max-length",
        type=int,
        default=128,
        help="its tokens per caption (default: %(default)s)",
    )
    sub.add_argument(
        "--text-dtype",
        choices=("float32", "bfloat16"),
        default="bfloat16",
        help="of its arithmetic (default: %(default)s)",
    )


def _add_reading(sub) -> None:
    """The options that say how --source is read and cut into clips."""
    sub.add_argument(
        "--seconds", type=float, default=10.24, help="length of a clip (default: %(default)s)"
    )
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument(
        "--clips",
        type=int,
        default=512,
        help="number of clips of the synthetic source (default: %(default)s)",
    )
    sub.add_argument(
        "--soundfont",
        type=lambda text: text.split(","),
        default=(),
        metavar="FILE[,MORE]",
        help=".sf2 or .sf3 files that render the MIDI files of a folder (default: a small one)",
    )
    sub.add_argument(
        "--loudness",
        type=float,
        metavar="LUFS",
        help="scale each recording to this loudness, as far as its peak stays below 1",
    )
    sub.add_argument(
        "--captions", metavar="FILE", help="templates for the captions where none are given"
    )
    sub.add_argument(
        "--deny", metavar="FILE", help="ids and rightsholders to leave out, one a line"
    )
    sub.add_argument(
        "--licences",
        type=lambda text: text.split(","),
        metavar="NAME[,MORE]",
        help="take only recordings with one of these licences",
    )
    where = sub.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=_count, help="processes that decode (default: one a core)")
    where.add_argument(
        "--beam",
        type=shlex.split,
        metavar="FLAGS",
        help="decode with Apache Beam instead, as in --beam='--runner=FlinkRunner ...'",
    )
    sub.add_argument(
        "--limit-hours",
        type=float,
        help="stop after this much audio, from a random sample of the files",
    )
    sub.add_argument(
        "--test-fraction",
        type=float,
        default=0.1,
        help="share of the files held out, unless the source decides it (default: %(default)s)",
    )


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE.py",
        help="a Python file to execute first, which registers your own conditioner or sampler",
    )


def _command(commands, name: str, function, says: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=says, description=says)
    parser.set_defaults(command=function)
    return parser


if __name__ == "__main__":
    sys.exit(main())
