"""Configurations: what is read, and what is refused with the nearest name."""

import json
import subprocess
import sys

import pytest

from scorefield.runs.config import Experiment, as_json, changed, overridden, read


def test_a_config_comes_back_through_its_own_json(tmp_path):
    made = overridden(
        Experiment(),
        [
            "training.rate=3e-4",
            "training.betas=[0.5, 0.99]",
            "network.multipliers=[1, 2]",
            "levels.sigma_max=5",
            "machine.autocast=on",
            "data.source=/some/folder",
            "start=other.safetensors",
        ],
    )
    assert made.training.rate == 3e-4
    assert made.training.betas == (0.5, 0.99)
    assert made.network == {"kind": "UNet", "multipliers": [1, 2]}
    assert (made.levels.sigma_max, type(made.levels.sigma_max)) == (5.0, float)
    assert made.machine.autocast == "on"
    (tmp_path / "config.json").write_text(as_json(made))
    assert read(tmp_path / "config.json") == made


def test_yaml_is_read_as_people_write_it(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(
        "training:\n  rate: 3e-4\n  steps: 1e5\n  clip: null\n"
        "machine: {compile: off, threads: 2}\nnetwork: {kind: MLP, scale: 1e-2}\n"
    )
    made = read(path)
    assert (made.training.rate, made.training.steps) == (3e-4, 100_000)
    assert type(made.training.steps) is int
    assert made.machine.compile == "off"
    assert made.network == {"kind": "MLP", "scale": 0.01}
    assert made.seed == 0  # what the file leaves out is the default's


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.stepz=5", r"training\.stepz is not a field: did you mean steps\?"),
        ("trainning.steps=5", r"trainning is not a field: did you mean training\?"),
        ("seed.deep=5", "seed={'deep': 5}: give an int"),
        ("training.steps=many", "training.steps='many': give an int"),
        ("training.steps=2.5", r"training\.steps=2\.5: give an int"),
        ("training.steps=true", "training.steps=True: give an int"),
        ("training.rate=fast", "training.rate='fast': give a float"),
        ("training.rate=", "training.rate=None: give a float"),
        ("training.betas=[0.9]", r"training\.betas=\[0\.9\]: give a tuple"),
        ("training.schedule=cosin", r"schedule='cosin': did you mean cosine\?"),
        ("data.flip=3", "data.flip=3: give a bool"),
        ("data=digits", "data is 'digits': give names and values"),
        ("training.steps", "give a value"),
        ("training.steps=[", "not YAML"),
        ("training.steps=*x", "not YAML"),
        ("seed=!!timestamp x", "seed=!!timestamp x: the value is not YAML"),
        ("seed=" + "9" * 5000, "^seed=9{75}: the value is not YAML .*5000 digits"),
        ("seed=0x" + "f" * 5000, "^seed=0xf.*digits"),
        ("seed=0x" + "f" * 16, "seed: give text, .*a number below 9e.18"),
        ("seed=2001-01-01", "seed: give text"),
        ("training.rate=1.2.3", "training.rate='1.2.3': give a float"),
        ("training.rate=.nan", "training.rate: give .*not nan"),
        ("training.rate=1e999", "training.rate: give .*not inf"),
        ("network={kind: MLP, width: .inf}", r"network\.width: give .*not inf"),
        ("network.width.0.0.0.0.0.0.0.0=1", r"network\.width\.0.*: give"),
        ("network.width=" + "[" * 5000, "not YAML .*lists and mappings are nested"),
        ("data.source=" + "x" * 5000, "data.source: give text"),
        ('start="a\\0b"', "start: give text"),
        ("x" * 50_000 + "=1", "^x{80} is not a field"),
    ],
)
def test_a_mistake_is_named(setting, message):
    with pytest.raises(ValueError, match=message):
        overridden(Experiment(), [setting])


BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 15)
)


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "3",
        "- 1",
        "\x00",
        "[" * 10_000,
        "false",
        "!!int ''",
        BOMB,
        "seed: &a 3\nlevels: {count: *a}",
        "# much\n" * 5000,
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.yaml"):
        read(path)


def test_what_json_says_and_yaml_reads_otherwise_comes_back(tmp_path):
    path = tmp_path / "config.json"
    meant = overridden(Experiment(), ["training.eps=1e-10", "start=\U0001f600"])
    path.write_text(as_json(meant))
    assert read(path) == meant


def test_a_field_that_may_be_none_can_be_made_so_again():
    five = changed(Experiment(), {"levels": {"sigma_max": 5}})
    assert changed(five, {"levels": {"sigma_max": None}}) == Experiment()


def test_it_is_json_for_others_too():
    assert json.loads(as_json(Experiment()))["training"]["betas"] == [0.9, 0.999]


def test_it_does_not_wait_for_torch():
    code = "import sys, scorefield.runs.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
