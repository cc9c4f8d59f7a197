"""The model card of an export: what the model is, where it comes from, and how to use it."""

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jen1_jax.models.metrics import read_metrics
from jen1_jax.models.run import Run
from jen1_numpy.errors import Refusal

MOST_LICENCES = 20  # that are named
PROMPT = "calm piano with soft strings"
_USE = """
## Use

```
pip install -r requirements.txt
python generate.py --prompt "{prompt}" --seconds {seconds:g} --out music.wav
python generate.py --prompt "{prompt}" --inpaint music.wav --span {span} --out other.wav
python generate.py --prompt "{prompt}" --extend music.wav --seconds {seconds:g} --out longer.wav
```

```python
from modeling_jen1 import Jen1  # in this folder

model = Jen1.from_pretrained(".")  # or a hub name; device="cuda", dtype=torch.float16
audio = model.generate("{prompt}", seconds={seconds:g})  # float32 [samples, 2], {rate:,} Hz
```

`jen1 import torch --from THIS_FOLDER --out RUN` turns it back into a run of jen1-jax, bit for bit.
"""


def card(
    run: Run,
    trained: Mapping[str, Any],
    about: Mapping[str, Any],
    counts: Mapping[str, int],
    licence: str,
    reports: Sequence[str | os.PathLike] = (),
) -> str:
    """The card, in Markdown with the hub's header.

    Args:
        trained: the record of the diffusion model's checkpoint.
        about: the export's config.json.
        counts: numbers in each array, by its name.
        licence: of the weights; "" if nobody has stated one.
        reports: files `report.json` that `jen1 evaluate` has written for this run.
    """
    config = about["config"]
    seconds = min(4, config["data"]["seconds"])
    rate, unet = config["audio"]["sample_rate"], config["unet"]
    hop, whitened = math.prod(config["autoencoder"]["strides"]), counts["whitening.scale"]
    millions = lambda part: sum(n for name, n in counts.items() if name.startswith(part)) / 1e6
    encoder = json.loads((run.text / "source.json").read_text())["encoder"]
    at_most = f"at most {config['text']['max_length']} tokens"
    if encoder:
        named = Path(encoder).name if Path(encoder).is_absolute() else encoder
        text = f"frozen | {named}, {at_most}"
    else:
        text = f"{millions('text'):.1f} M | a small T5, {at_most}"
    words = _own_words(run)
    unstated = "see above" if words else "not stated; ask those who trained them"
    lines = [
        "---",
        *([f"license: {licence}"] if licence else []),
        "library_name: pytorch",
        "pipeline_tag: text-to-audio",
        "tags: [music, text-to-music, jen1]",
        "---",
        "",
        f"# {run.path.resolve().name}",
        "",
        "A text-to-music model after JEN-1 (arXiv 2308.04729), trained with jen1-jax "
        f"{about['versions']['jen1-jax']}. It generates, inpaints, continues and varies "
        f"{rate / 1000:g} kHz stereo music from text.",
        *words,
        _USE.format(
            prompt=PROMPT, seconds=seconds, span=f"{seconds / 4:g}:{seconds / 2:g}", rate=rate
        ),
        "## Sizes",
        "",
        "| part | parameters | |",
        "|---|---|---|",
        f"| autoencoder | {millions('autoencoder'):.1f} M | {rate / hop:.1f} latent frames a "
        f"second, {whitened} channels |",
        f"| U-Net | {millions('unet'):.1f} M | windows of {config['data']['seconds']:g} s, "
        f"{unet['null_text']} without text |",
        f"| text encoder | {text} |",
        "",
        "## Training",
        "",
        *_training(run, trained["config"], about["data"]),
        "",
        *_figures(reports),
        "## Licence",
        "",
        f"Weights: {licence or unstated}. Code in this folder: "
        "Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0).",
        "",
    ]
    return "\n".join(lines)


def _own_words(run: Run) -> list[str]:
    """The text of the run's own README.md without its title, if it has one."""
    path = run.path / "README.md"
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8").strip()
    return ["", text.partition("\n")[2].strip() if text.startswith("# ") else text]


def _training(run: Run, config: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    """What the record and the metrics say about the training."""
    lines = []
    for part in ("autoencoder", "diffusion"):
        training = config[f"train_{part}"]
        line = f"- {part}: {training['batch_size']} examples a step"
        metrics = read_metrics(run.path / part / "metrics.jsonl")
        losses = [each for each in metrics if "loss" in each]
        if losses:
            line += f", {losses[-1]['step']:,} steps, last loss {losses[-1]['loss']:.3f}"
        held = [each["held_out_loss"] for each in metrics if "held_out_loss" in each]
        if held:
            line += f", lowest held-out loss {min(held):.3f}"
        lines.append(line + ".")
    if data["dir"]:
        examples = data["examples"].get("train")
        count = f", {examples:,} training examples" if examples else ""
        lines.append(f"- Data: {data['dir']}{count}.")
        licences = Counter(data["licences"]).most_common()
        for name, clips in licences[:MOST_LICENCES]:
            stated = f"`{name.replace('`', '')}`" if name else "no licence stated"
            lines.append(f"    - {clips:,} of them: {stated}.")
        if others := sum(clips for _, clips in licences[MOST_LICENCES:]):
            lines.append(f"    - {others:,} of them: other licences.")
    return lines


def _figures(reports: Sequence[str | os.PathLike]) -> list[str]:
    """What evaluations of the run have found, of held-out clips."""
    lines = []
    for path in reports:
        try:
            report = json.loads(Path(path).read_text(encoding="utf-8"))
            if "median" in report:
                values = dict(report["median"]["all"])
                what = f"round trips of {int(values.pop('clips'))} held-out clips, medians"
            else:
                rows = report["rows"]["generated"].items()
                values = {view: row["rank"] for view, row in rows if isinstance(row, dict)}
                what = (
                    f"median rank of the right one of {int(report['clips'])} held-out clips, by "
                    "its likeness to what is generated for its caption"
                )
            figures = [
                f"{name.replace('_', ' ')} {value:.2f}"
                for name, value in values.items()
                if value is not None
            ]
        except OSError as error:
            raise Refusal(f"The report {path} cannot be read ({error.strerror}).") from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise Refusal(
                f"{path} is not the report.json of an evaluation; give what `jen1 evaluate "
                "autoencoder` or `jen1 evaluate captions` wrote."
            ) from None
        lines.append(f"- {what}: {', '.join(figures)}.")
    return ["## Figures", "", *lines, ""] if lines else []
