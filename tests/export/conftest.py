import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import transformers

FIXTURE = Path(__file__).parents[1] / "fixtures" / "run.zip"


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A trained run, as small as its parts allow; tests must not write into its folder."""
    from jen1_jax.models.run import Run

    folder = tmp_path_factory.mktemp("small")
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(folder)
    return Run.open(folder / "run")


@pytest.fixture(scope="session")
def exported(small_run, tmp_path_factory):
    """The folder that `jen1 export torch` writes of `small_run`; tests must not write into it."""
    from jen1_jax.export.to_torch import export_torch

    out = tmp_path_factory.mktemp("exported") / "out"
    export_torch(small_run, str(out), licence="cc0-1.0")
    return out


@pytest.fixture(scope="session")
def frozen_run(small_run, tmp_path_factory):
    """`small_run` with a frozen BERT in place of its text encoder, and the BERT's folder."""
    from jen1_jax.models.run import Run
    from jen1_jax.text.prompts import TextEncoder

    folder = tmp_path_factory.mktemp("frozen")
    sizes = dict(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "two", "tones", "slow", "noise"]
    torch.manual_seed(0)
    layout = transformers.BertConfig(vocab_size=len(words), **sizes)
    transformers.BertModel(layout).save_pretrained(folder / "bert")
    (folder / "bert" / "vocab.txt").write_text("\n".join(words))
    run = Run(Path(shutil.copytree(small_run.path, folder / "run")))
    config = run.config.copy_and_resolve_references()
    text = TextEncoder.frozen(str(folder / "bert"), config.text.max_length)
    with config.unlocked():
        config.text.encoder = text.encoder
    run.write(config, run.record["fingerprints"] | {"text": text.fingerprint})
    source = json.loads((run.text / "source.json").read_text())
    source |= {"encoder": text.encoder, "sha256": text.fingerprint}
    (run.text / "source.json").write_text(json.dumps(source))
    return run, folder / "bert"
