"""Configurations: loading, overriding, checking and conversion to JSON."""

import pytest

from jen1_jax.config import from_plain, load_config, override, presets, to_plain
from jen1_numpy.errors import Refusal

# The beginning of a configuration file.
START = """
from configs.jen1 import get_config as base

def get_config():
    config = base()
"""


def test_presets_stay_the_same_when_converted_to_json_and_back():
    assert {"jen1", "quickstart"} <= set(presets())
    for name in presets():
        config = load_config(name)
        assert from_plain(to_plain(config), "it") == config


def test_the_preset_jen1_fast_has_timing_and_jen1_has_not():
    chosen = [load_config(name).unet.conditioning for name in ("jen1_fast", "jen1")]
    assert chosen == [("timing",), ()]


def test_overrides_keep_the_type_of_their_field():
    overrides = {
        "unet.channels": "64",
        "train_diffusion.learning_rate": "1",
        "unet.factors": "(2, 2)",
        "text.encoder": "123",
        "autoencoder.causal": "True",
    }
    config = load_config("jen1", overrides)
    assert config.unet.channels == 64
    assert config.train_diffusion.learning_rate == 1.0
    assert isinstance(config.train_diffusion.learning_rate, float)
    assert config.unet.factors == (2, 2)
    assert config.text.encoder == "123"
    assert config.autoencoder.causal is True


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("unet.chanels", "64", "no field 'unet.chanels'"),
        ("unett.channels", "64", "no field"),
        ("unet", "64", "no field"),
        ("unet.channels.deep", "64", "no field"),
        ("unet.channels", "wide", "holds a int"),
        ("unet.channels", "1.5", "holds a int"),
        ("autoencoder.causal", "1", "holds a bool"),
    ],
)
def test_unknown_keys_and_wrong_types_are_refused_by_name(key, value, message):
    with pytest.raises(Refusal, match=message):
        load_config("jen1", {key: value})


def test_a_value_is_a_literal_and_is_not_executed():
    config = load_config("jen1")
    with pytest.raises(Refusal):
        override(config, "unet.channels", "__import__('os').getpid()")


def test_a_file_is_loaded_and_missing_files_and_presets_are_refused(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(f"{START}    return config\n")
    assert load_config(str(own)) == load_config("jen1")
    with pytest.raises(Refusal, match="no configuration file"):
        load_config(str(tmp_path / "absent.py"))
    with pytest.raises(Refusal, match=r"no preset 'jen2'.*jen1"):
        load_config("jen2")
    own.write_text("x = 1\n")
    with pytest.raises(Refusal, match="get_config"):
        load_config(str(own))


def test_a_file_with_an_unknown_or_a_missing_field_is_refused(tmp_path):
    own = tmp_path / "own.py"
    start = f"{START}    with config.unlocked():\n"
    own.write_text(start + "        config.train_diffusion.learning_rat = 1.0\n    return config\n")
    with pytest.raises(Refusal, match="learning_rat is not a field"):
        load_config(str(own))
    own.write_text(start + "        del config.train_diffusion.steps\n    return config\n")
    with pytest.raises(Refusal, match="steps is missing"):
        load_config(str(own))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("unet", [], "unet is a section"),
        ("unet.channels", "12", "channels holds a int"),
        ("unet.channels", 12.0, "channels holds a int"),
        ("unet.channels", None, "channels holds a int"),
        ("unet.scan", 1, "scan holds a bool"),
        ("unet.conditioning", [1], "conditioning holds a str"),
        ("unet.factors", 4, "factors holds a list"),
        ("unet.factors", [2, "2"], "factors holds a int"),
        ("data.seconds", float("nan"), "seconds holds a float"),
        ("data.seconds", float("inf"), "seconds holds a float"),
        ("tasks.ratios", {"text_to_music": "all"}, "text_to_music holds a float"),
        ("tasks.ratios", [], "ratios holds a dict"),
        ("mesh.rules", [["kernel", "fsdp"]], "rules holds a list"),
        ("unet.chanels", 3, "chanels is not a field"),
    ],
)
def test_a_wrong_field_of_a_stored_configuration_is_refused_by_its_name(key, value, message):
    values = to_plain(load_config("quickstart"))
    *sections, name = key.split(".")
    part = values
    for section in sections:
        part = part[section]
    part[name] = value
    with pytest.raises(Refusal, match=rf"RUN/config\.json.*{message}"):
        from_plain(values, "RUN/config.json")


def test_an_integer_is_accepted_for_a_float_and_lists_may_have_another_length():
    values = to_plain(load_config("quickstart"))
    values["data"]["seconds"], values["mesh"]["rules"] = 5, values["mesh"]["rules"] * 2
    values["tasks"]["ratios"]["outpainting"] = 1
    assert from_plain(values, "it").data.seconds == 5


def test_a_loaded_configuration_is_locked():
    with pytest.raises(AttributeError):
        load_config("jen1").unet.chanels = 3


def test_a_file_that_sets_an_unknown_field_of_a_locked_configuration_is_refused(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(f"{START}    config.unet.chanels = 3\n    return config\n")
    with pytest.raises(Refusal, match=r"own\.py.*chanels"):
        load_config(str(own))


@pytest.mark.parametrize(
    "key, text",
    [("unet.factors", "(2.0, 4.0)"), ("diffusion.guidance_limit", "1e999"), ("seed", "1e999")],
)
def test_overrides_that_a_run_could_not_store_are_refused(key, text):
    with pytest.raises(Refusal, match=key.split(".")[-1]):
        load_config("quickstart", {key: text})


def test_a_rule_may_leave_out_an_axis():
    rules = load_config("quickstart", {"mesh.rules": "(('kernel', (None, 'fsdp')),)"}).mesh.rules
    assert rules == (("kernel", (None, "fsdp")),)
