"""Configurations: which files and settings are read, and which are refused with a hint."""

import json

import pytest

from scorefield.runs.config import Experiment, as_json, override, read, replace_fields


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["training.rate=3e-4", "training.betas=0.5, 0.99", "network.multipliers=[1, 2]",
         "levels.sigma_max=5", "machine.autocast=on", "data.source=/some/folder",
         "start=other.safetensors"],
        # YAML reads 1e-10 as text, and the escapes of this character differently
        ["training.eps=1e-10", "start=\U0001f600"],
    ],
)  # fmt: skip
def test_a_config_is_read_back_from_its_own_json(settings, tmp_path):
    experiment = override(Experiment(), settings)
    (tmp_path / "config.json").write_text(as_json(experiment))
    assert read(tmp_path / "config.json") == experiment
    assert json.loads(as_json(experiment))["training"]["betas"] == list(experiment.training.betas)
    if "machine.autocast=on" in settings:
        assert experiment.training.rate == 3e-4
        assert experiment.training.betas == (0.5, 0.99)
        assert experiment.network == {"kind": "UNet", "multipliers": [1, 2]}
        assert type(experiment.levels.sigma_max) is float
        assert experiment.machine.autocast == "on"


def test_yaml_is_read_as_people_write_it(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(
        "training:\n  rate: 3e-4\n  steps: 1e5\n  clip: null\n"
        "machine: {compile: off, threads: 2}\nnetwork: {kind: MLP, scale: 1e-2}\n"
    )
    experiment = read(path)
    assert (experiment.training.rate, experiment.training.steps) == (3e-4, 100_000)
    assert type(experiment.training.steps) is int
    assert experiment.machine.compile == "off"
    assert experiment.network == {"kind": "MLP", "scale": 0.01}
    assert experiment.seed == 0  # a missing field keeps its default


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.stepz=5", r"training\.stepz is no.* field: did you mean steps\?"),
        ("trainning.steps=5", r"trainning is no.* field: did you mean training\?"),
        ("seed.deep=5", "seed={'deep': 5}: give a whole number"),
        ("training.steps=2.5", r"training\.steps=2\.5: give a whole number"),
        ("training.steps=true", "training.steps=True: give a whole number"),
        ("training.rate=", "training.rate=None: give a number"),
        ("training.betas=[0.9]", r"training\.betas=\[0\.9\]: give \[a number, a number\]"),
        ("training.schedule=cosin", r"schedule='cosin': did you mean cosine\?"),
        ("data.flip=3", "data.flip=3: give true or false"),
        ("data=digits", "data is 'digits': give names and values"),
        ("training.steps", "give a value"),
        ("training.steps=[", "not YAML"),
        ("seed=!!timestamp x", "seed=!!timestamp x: not YAML"),
        ("seed=" + "9" * 5000, "^seed=9{75}: not YAML.*5000 digits"),
        ("seed=0x" + "f" * 5000, "^seed=0xf.*digits"),
        ("seed=0x" + "f" * 16, "seed: give text, .*a number below 9e.18"),
        ("training.rate=1.2.3", "training.rate='1.2.3': give a number"),
        ("training.rate=.nan", "training.rate: give .*not nan"),
        ("network={kind: MLP, width: .inf}", r"network\.width: give .*not inf"),
        ("network.width.0.0.0.0.0.0.0.0=1", r"network\.width\.0.*: give"),
        ("network.width=" + "[" * 5000, "not YAML"),
        ("data.source=" + "x" * 5000, "data.source: give text"),
        ('start="a\\0b"', "start: give text"),
        ("x" * 50_000 + "=1", "^x{80} is no.* field"),
    ],
)
def test_a_wrong_setting_is_named(setting, message):
    with pytest.raises(ValueError, match=message):
        override(Experiment(), [setting])


BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]\n" for i in range(1, 15))


@pytest.mark.parametrize(
    "text",
    ["a: [", "3", "- 1", "\x00", "[" * 10_000, "false", "!!int ''", BOMB,
     "seed: &a 3\nlevels: {count: *a}", "# much\n" * 5000],
)  # fmt: skip
def test_a_file_that_is_not_a_configuration_is_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.yaml"):
        read(path)


def test_an_optional_field_can_be_reset_to_none():
    five = replace_fields(Experiment(), {"levels": {"sigma_max": 5}})
    assert replace_fields(five, {"levels": {"sigma_max": None}}) == Experiment()
    for null in ("null", "None", ""):
        assert override(five, [f"levels.sigma_max={null}"]) == Experiment()
