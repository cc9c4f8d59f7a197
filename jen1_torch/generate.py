"""Generates music with the model in this folder.

python generate.py --prompt "slow piano" --seconds 4 --out x.wav
python generate.py --prompt "slow piano" --inpaint FILE --span 1:2.5 --out x.wav
python generate.py --prompt "slow piano" --extend FILE --seconds 4 --out x.wav
python generate.py --prompt "slow piano" --vary FILE --strength 0.6 --out x.wav
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from jen1_numpy.audio import check_writable, read_audio, write_wav
from jen1_numpy.errors import Refusal
from jen1_numpy.noise import read_noise

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0 for success, 3 for bad input."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        print(f"wrote {_generate(options)}")
    except Refusal as refusal:
        print(f"generate.py: {refusal}", file=sys.stderr)
        return 3
    return 0


def _generate(options: argparse.Namespace) -> Path:
    if options.inpaint and not options.span:
        raise Refusal("--inpaint needs --span START:END in seconds; it may be given several times.")
    if options.span and not options.inpaint:
        raise Refusal("--span belongs to --inpaint FILE.")
    out = check_writable(options.out)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if torch.zeros(1, device=device).item() != 0:
            raise RuntimeError("it does not hold numbers")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise Refusal(f"--device {device} cannot be used here ({reason}); try cpu.") from None
    from modeling_jen1 import Jen1  # slow to import

    model = Jen1.from_pretrained(options.model, device=device, dtype=DTYPES[options.dtype])
    sampling = {
        "seed": options.seed,
        "steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "negative_prompt": options.negative_prompt,
        "noise": read_noise(options.noise) if options.noise else None,
    }
    source = options.inpaint or options.extend or options.vary
    audio = read_audio(source, model.sample_rate) if source else None
    if options.inpaint:
        music = model.inpaint(audio, options.span, options.prompt, **sampling)
    elif options.extend:
        music = model.extend(audio, options.seconds, options.prompt, **sampling)
    elif options.vary:
        music = model.vary(audio, options.prompt, options.strength, **sampling)
    else:
        music = model.generate(options.prompt, options.seconds, **sampling)
    write_wav(out, music, model.sample_rate)
    return out


def _span(text: str) -> tuple[float, float]:
    start, _, end = text.partition(":")
    try:
        return float(start), float(end)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a span is START:END in seconds, not {text!r}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", default="", help="what to play (default: anything)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of new music (default: 10)")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--inpaint", metavar="FILE", help="replace a --span of this audio")
    given.add_argument("--extend", metavar="FILE", help="go on from this audio")
    given.add_argument("--vary", metavar="FILE", help="a variation of this audio")
    parser.add_argument("--span", type=_span, action="append", metavar="START:END", help="seconds")
    parser.add_argument("--strength", type=float, default=0.6, help="of --vary (default: 0.6)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of sampling (default: the model's)")
    parser.add_argument("--guidance-scale", type=float, help="(default: the model's)")
    parser.add_argument("--negative-prompt", help="what to keep away from")
    parser.add_argument("--noise", metavar="FILE", help="start from this noise, as JAX can")
    parser.add_argument("--device", help="cpu, cuda or mps (default: cuda if there is one)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="(default: float32)")
    here = Path(__file__).resolve().parent
    parser.add_argument("--model", default=here, help="a folder or a hub name (default: this one)")
    parser.add_argument("--out", required=True, help="a .wav file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
