"""Conditions from tables, arrays and folders through training, checkpoints and sampling."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scorefield import load, sample
from scorefield.cli import main
from scorefield.data import Batches, Pairs, Table, load_data, simulations, tensor_data
from scorefield.evaluate.other_data import open_like
from scorefield.runs import resume, start
from scorefield.runs.config import Experiment, override
from scorefield.runs.heldout import heldout_losses
from scorefield.runs.presets import PRESETS
from scorefield.runs.resume import open_data

SMALL = ["training.steps=4", "training.batch=16", "keeping={evaluate: 2, checkpoint: 2}"]
MLP_8 = "network={kind: MLP, width: 8, blocks: 1}"
UNET_8 = "network={kind: UNet, width: 8, multipliers: [1], blocks: 1, attention: []}"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _table(n=80):
    numbers = torch.randn(n, 3).tolist()
    rows = [[f"{a:.3f}", f"{b:.3f}", "yes" if c > 0 else "no", f"{c:.3f}"] for a, b, c in numbers]
    with Path("t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "kind", "c"], *rows])
    return "t.csv"


def _samples():
    return list(csv.reader(Path("samples.csv").read_text().splitlines()))


def _images(side=8, n=12):
    x = torch.randint(256, (n, side, side), dtype=torch.uint8)
    for folder, pixels in (("big", x), ("small", x[:, ::2])):
        Path(folder).mkdir()
        for i, image in enumerate(pixels.numpy()):
            Image.fromarray(image).save(f"{folder}/{i}.png")
    return x


def _train(settings, **data):
    list(start(override(Experiment(), [*SMALL, *settings]), "run", **data))
    return load("run")


def test_columns_of_a_table_are_a_condition_that_sample_takes_by_name(capsys, error_of):
    args = ["--data", _table(), "--out", "run", f"--set={MLP_8}", *(f"--{s}" for s in SMALL)]
    assert main(["train", *args, "--data.condition=b,kind"]) == 0
    assert "sample run -n 64 --given b=VALUE --given kind=VALUE" in capsys.readouterr().out
    table, model = Table.read("run"), load("run")
    assert [c.name for c in table.columns] == ["a", "c"]
    assert [c.name for c in table.condition] == ["b", "kind"]
    assert model.condition_shapes == {"columns": [3]}
    chosen = ["--given", "b=0.5", "--given", "kind=no"]
    assert main(["sample", "run", "-n", "5", "--steps", "3", *chosen]) == 0
    rows = _samples()
    x = sample(model, 5, steps=3, condition=table.given([{"b": 0.5, "kind": "no"}])[0])
    assert rows == [["a", "c"], *map(list, table.decode(x))]
    assert not torch.equal(x, sample(model, 5, steps=3))
    # a learned column is completed under the condition
    assert main(["sample", "run", "-n", "3", *chosen, "--given", "a=1.5", "--steps", "4"]) == 0
    assert {row[0] for row in _samples()} == {"a", "1.5"}
    assert "has the conditions columns, which restore does" in error_of("restore", "run", "t.csv")
    assert "give all of b, kind" in error_of("sample", "run", "--given", "b=1")
    assert "--given z=1: the column or condition z" in error_of("sample", "run", "--given", "z=1")
    assert "the column or array z" in error_of(*args[:0], "train", *args[:2], "--data.condition=z")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_conditional_run_resumes_bit_identically(accumulate):
    theta, x = torch.randn(90, 2), torch.randn(90, 3)
    settings = [MLP_8, f"training.accumulate={accumulate}", "network.label_dropout=0.0"]
    data = tensor_data(theta, {"x": x, "label": torch.arange(90) % 3})
    through = _train([*settings, "data.labels=true"], data=data)
    experiment = override(Experiment(), [*SMALL, *settings, "data.labels=true"])
    updates = iter(start(experiment, "other", data=data))
    for _ in range(3):
        next(updates)
    updates.close()
    list(resume("other", data=data))
    assert all(map(torch.equal, through.state_dict().values(), load("other").state_dict().values()))
    assert through.condition_shapes == {"x": [3]}
    part = through.net.conditions["x"]
    torch.testing.assert_close(part.mean, data.train.conditions["x"].data.mean(0))
    heldout = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert any("heldout" in line for line in heldout)


def test_a_pair_in_memory_and_an_array_of_a_file_are_the_same_data():
    x, y = torch.randn(30, 2), torch.randn(30, 3)
    np.savez("pairs.npz", x=x.numpy(), obs=y.numpy())
    file, pair = load_data("pairs.npz", condition=["obs"]), tensor_data(x, {"obs": y})
    for one, other in ((file.train, pair.train), (file.test, pair.test)):
        rows = torch.arange(len(one))
        assert torch.equal(one.take(rows)[0], other.take(rows)[0])
        assert torch.equal(one.take(rows)[1]["obs"], other.take(rows)[1]["obs"])
    model = _train([MLP_8], data=(x, y))
    samples = sample(model, 4, steps=3, condition=y[:4])
    alone = sample(model, 2, steps=3, condition={"condition": y[:2]})
    assert torch.equal(samples[:2], alone)  # a row of the condition for each sample
    assert main(["sample", "run", "-n", "2", "--steps", "3", "--given", "condition=1,2,0.5"]) == 0
    one = sample(model, 2, steps=3, condition=torch.tensor([1.0, 2.0, 0.5]))
    assert torch.equal(torch.from_numpy(np.load("samples.npy")), one)
    with pytest.raises(ValueError, match=r"holds the arrays x, obs.*--data\.condition=NAME"):
        load_data("pairs.npz")
    with pytest.raises(ValueError, match=r"condition 'condition' has 4 rows.* each of 3 samples"):
        sample(model, 3, steps=3, condition=y[:4])


def test_images_are_paired_by_name_and_mirrored_together(error_of):
    x = _images()
    data = load_data("big", condition=["small"])
    assert isinstance(data.train, Pairs)
    pairs = Batches(data.train, 8, flip=True, dequantise=False)(0)
    assert torch.equal(pairs.x[:, :, ::2], pairs.labels["small"])
    mirrored = {row.numpy().tobytes() for row in (x.flip(2).float() + 0.5) / 256}
    assert 0 < sum(row[0].numpy().tobytes() in mirrored for row in pairs.x) < 8
    settings = [UNET_8, "data.source=big", "data.condition=small", "data.flip=true"]
    model = _train([*settings, "sampling.steps=2"])
    assert model.condition_shapes == {"small": [1, 4, 8]}
    command = ["sample", "run", "-n", "2", "--steps", "2", "--out", "x.npy"]
    assert main([*command, "--given", "small=small/3.png"]) == 0
    small = (x[3, ::2].float() + 0.5) / 256
    expected = sample(model, 2, steps=2, condition=small[None])
    assert torch.equal(torch.from_numpy(np.load("x.npy")), expected)
    restored = error_of("restore", "run", "big/0.png", "--task=super-resolve", "--factor=2")
    assert "has the conditions small, which restore does not take" in restored
    assert "small=none.png: give an image" in error_of(*command, "--given", "small=none.png")
    Path("small/7.png").unlink()
    with pytest.raises(ValueError, match=r"condition=small: it holds no image for 7\.png"):
        load_data("big", condition=["small"])


def _pairs():
    np.savez("pairs.npz", x=torch.randn(30, 2), obs=torch.randn(30, 3))
    return "pairs.npz"


def _integers():
    rows = "".join(f"{x:.3f},{i % 5}\n" for i, x in enumerate(torch.randn(30).tolist()))
    Path("t.csv").write_text(f"x,n\n{rows}")
    return "t.csv"


def _folder():
    _images()
    return "big"


@pytest.mark.parametrize(
    ("write", "condition", "network"),
    [
        (_table, "b,kind", MLP_8),
        (_integers, "n", MLP_8),
        (_pairs, "obs", MLP_8),
        (_folder, "small", UNET_8),
    ],
)
def test_data_are_scored_given_the_conditions_that_they_hold(write, condition, network, error_of):
    source = write()
    settings = [f"data.source={source}", f"data.condition={condition}", "sampling.steps=2"]
    _train([network, *settings])
    experiment, own = open_data("run")
    others = open_like(source, own, experiment, {}).whole
    x, conditions = others.take(torch.arange(len(others)))
    truth, values = own.whole.take(torch.arange(len(others)))
    assert torch.equal(x, truth)
    assert conditions.keys() == values.keys()
    assert all(torch.equal(conditions[name], values[name]) for name in values)
    assert main(["score", "run", source, "-n", "3", "--held-out", "2", "--probes", "1"]) == 0
    assert len(Path("scores.csv").read_text().splitlines()) == 4
    if write is _folder:
        assert "digits has no condition 'small'" in error_of("score", "run", "digits")
        option = "--data.options.condition=[big]"
        assert "big has no condition 'small'" in error_of("score", "run", source, option)


def test_new_simulations_are_scored_in_the_units_of_the_run():
    for name, shift in (("sim", 0), ("new", 3)):
        np.savez(f"{name}.npz", theta=torch.randn(40, 2) + shift, x=torch.randn(40, 3))
    _train([MLP_8, "data.source=sim.npz", "data.options={parameters: [theta]}"])
    experiment, own = open_data("run")
    file, columns = np.load("new.npz"), own.table.columns
    mean, scale = [c.mean[0] for c in columns], [c.scale for c in columns]
    for data in ("new.npz", load_data("new.npz", parameters=["theta"])):
        others = open_like(data, own, experiment, {}).whole
        theta, conditions = others.take(torch.arange(40))
        np.testing.assert_allclose(theta, (file["theta"] - mean) / scale, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(conditions["x"], file["x"])
    assert main(["score", "run", "new.npz", "-n", "3", "--held-out", "2"]) == 0


def test_folders_that_cannot_be_paired_are_refused_by_name():
    _images()
    settings = ["data.source=big", "data.condition=small", "data.options.held_out=small"]
    with pytest.raises(ValueError, match=r"held_out=.*small: with a condition.* a share, as 0\.1"):
        start(override(Experiment(), settings), "run")
    Path("other").mkdir()
    shutil.copytree("small", "other/small")
    with pytest.raises(ValueError, match=r"condition=other/small: another .* 'small' too; rename"):
        load_data("big", condition=["small", "other/small"])
    Path("small").rename("augment")
    settings = ["data.source=big", "data.condition=augment", "data.augment=0.1"]
    with pytest.raises(ValueError, match=r"data\.augment=0\.1 adds .* 'augment', but big has one"):
        start(override(Experiment(), [UNET_8, *settings]), "run")


def test_images_that_are_a_condition_may_move_but_not_change():
    x = _images()
    _train([UNET_8, "data.source=big", "data.condition=small", "sampling.steps=2"])
    Path("new").mkdir()
    Path("small").rename("new/small")
    with pytest.raises(ValueError, match=r"gone: .*small does .* as data\.condition in run.config"):
        resume("run")
    config = Path("run/config.json")
    config.write_text(config.read_text().replace(f"{Path.cwd()}/small", f"{Path.cwd()}/new/small"))
    assert resume("run").experiment.data.condition == [f"{Path.cwd()}/new/small"]
    Image.fromarray(255 - x[3, ::2].numpy()).save("new/small/3.png")
    for read in (resume, open_data):
        with pytest.raises(ValueError, match=r"condition small: 3\.png has changed"):
            read("run")
    config.write_text(config.read_text().replace("/new/small", "/new/large"))
    with pytest.raises(ValueError, match=r"data\.condition is .*large'\], but was .*small'\]"):
        resume("run")


def test_a_given_image_is_cut_and_scaled_as_in_training():
    x = _images()
    options = ["data.options={size: 4, crop: 4, fit: pad}", "sampling.steps=2"]
    model = _train([UNET_8, "data.source=big", "data.condition=small", *options])
    command = ["sample", "run", "-n", "2", "--steps", "2", "--out", "x.npy"]
    assert main([*command, "--given", "small=small/3.png"]) == 0
    small = (x[3, ::2][:, 2:6].float() + 0.5) / 256
    expected = sample(model, 2, steps=2, condition=small[None])
    assert torch.equal(torch.from_numpy(np.load("x.npy")), expected)


def test_training_does_not_start_from_a_model_without_the_conditions():
    x, y = torch.randn(30, 2), torch.randn(30, 3)
    _train([MLP_8], data=(x, y))
    experiment = override(Experiment(), [*SMALL, "start=run"])
    list(start(experiment, "more", data=(x, y)))
    for condition, message in (({"z": y}, r"'z' of shape \[3\]"), (y[:, :2], r"of shape \[2\]")):
        with pytest.raises(ValueError, match=rf"--from .*run: .*'condition': \[3\].* {message}"):
            start(experiment, "other", data=(x, condition))


def test_a_model_that_always_had_a_class_is_never_used_without_one(monkeypatch, error_of):
    conditions = []

    def record(model, n, plan, condition):
        conditions.append(condition)
        return torch.zeros(n, 1, 8, 8)

    monkeypatch.setattr("scorefield.runs.run.sample", record)
    _train([UNET_8, "data.source=digits", "data.labels=true", "network.label_dropout=0"])
    run = resume("run")
    assert torch.equal(conditions[-1], torch.arange(36) * 10 // 36)
    run.model.net.label.table.weight.data[10] = torch.nan
    assert heldout_losses(run.experiment, run.parts, run.model).isfinite().all()
    assert "label_dropout=0, never without a class" in error_of("sample", "run")
    assert "label_dropout=0, never without a class" in error_of("restore", "run")
    assert "label_dropout=0, never without a class" in error_of("score", "run", "digits")
    guided = error_of("sample", "run", "--label", "all", "--guidance", "2")
    assert "guidance=2.0 goes away from the model without a class" in guided


def test_parameters_of_simulations_are_standardised_and_turned_back():
    theta, x = 3 + 5 * torch.randn(200, 2), torch.randn(200, 3)
    data = simulations({"theta": theta, "k": 100 * theta[:, 0]}, {"x": x})
    assert [column.name for column in data.table.columns] == ["theta_1", "theta_2", "k"]
    z, condition = data.train.take(torch.arange(180))
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3))
    back = data.table.numbers(z)
    torch.testing.assert_close(back[:, 2], 100 * back[:, 0], rtol=1e-5, atol=1e-3)
    rows = (x[:, None] == condition["x"]).all(2).int().argmax(0)
    torch.testing.assert_close(back[:, :2], theta[rows].double(), rtol=1e-5, atol=1e-5)
    np.savez("s.npz", theta=theta.numpy(), x=x.numpy())
    command = ["train", "posterior", "--data=s.npz", "--data.options.parameters=theta"]
    tiny = ["--network.width=8", "--network.blocks=1", "--steps=2", "--out=run"]
    assert main([*command, *tiny]) == 0
    assert main(["sample", "run", "-n", "2", "--steps", "2", "--given", "x=0.1,0,2"]) == 0
    header, *rows = _samples()
    assert (header, len(rows)) == (["theta_1", "theta_2"], 2)


def test_pairs_without_parameters_are_refused_by_the_preset_posterior(
    tmp_path, monkeypatch, error_of
):
    monkeypatch.chdir(tmp_path)
    np.savetxt("pairs.csv", torch.rand(40, 3).numpy(), delimiter=",", header="a,b,c", comments="")
    error = error_of("train", "posterior", "--data=pairs.csv", "--steps=1", "--out=run")
    assert "no condition: name the parameters by --data.options.p" in error
    assert not Path("run", "config.json").exists()


def test_a_posterior_has_the_mean_and_the_deviation_of_the_closed_form(tmp_path):
    """θ ~ N(10, 9), x = (θ/3 + z/2, noise): p(θ | x) = N(10 + 2.4·(x₁ − 10/3), 9/5)."""
    theta = 10 + 3 * torch.randn(4000, 1)
    x = torch.cat([theta / 3 + 0.5 * torch.randn(4000, 1), torch.randn(4000, 1)], 1)
    tiny = ["training={steps: 400, rate: 5e-3, ema: 0.99}", "network={width: 32, blocks: 2}"]
    few = "keeping={evaluate: 0, checkpoint: 0}"
    wide = "levels.mean=-1.5"  # few steps suffice for larger σ than the preset's
    data = simulations({"theta": theta}, {"x": x})
    list(start(override(PRESETS["posterior"], [*tiny, few, wide]), tmp_path, data=data))
    model, std = load(tmp_path), 3 * 0.2**0.5
    for shift in (-1.0, 1.0):
        condition = torch.tensor([10 / 3 + shift, 0.3])
        z = sample(model, 1000, steps=16, batch=1000, condition=condition)
        values = data.table.numbers(z)
        # a short training: a few times the errors seen, 0.1 and 0.13, and a fifth of the shift
        assert abs(values.mean() - (10 + 2.4 * shift)) < 0.35 * std
        assert 0.75 < values.std() / std < 1.35
    assert data.table.numbers(sample(model, 1000, steps=16, batch=1000)).std() > 2 * std
