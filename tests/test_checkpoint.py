"""Model files: what is loaded is what was saved, and anything else is refused."""

import dataclasses
import json
import math
import os
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from scorefield import Prior, ScoreModel, geometric, sample
from scorefield.checkpoint import MODEL_FILE, load, read_tensors, save, write_tensors
from scorefield.nn import MLP, DiT, RefineNet, UNet
from scorefield.precondition import EDM, NCSN, VE, Precondition, SubVP, VPDiscrete, ddpm_sigmas

SMALL = {
    "UNet": lambda: UNet(channels=1, width=8, multipliers=(1, 2), blocks=1, attention=(), labels=3),
    "RefineNet": lambda: RefineNet(1, 4, 5),
    "MLP": lambda: MLP((1, 8, 8), width=8, blocks=1),
    "DiT": lambda: DiT(channels=1, width=8, blocks=1, heads=2),
}


class Mine(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.arguments = {"size": size}
        self.linear = nn.Linear(size, size)
        self.register_buffer("mask", torch.full((size,), -math.inf))  # as attention has

    def forward(self, x, cond):
        return self.linear(x)


def _model(**changes):
    prior = Prior(torch.tensor([1.0, 2.0, 3.0]), torch.eye(3))
    row = changes.pop("precondition", EDM(0.3, 7.0, 0.01, 0.5))
    return ScoreModel(Mine(3), row, **{"prior": prior, **changes})


def _score(model, shape):
    torch.manual_seed(3)
    with torch.no_grad():
        return model(torch.rand(2, *shape), 0.5)


@pytest.mark.parametrize("where", ["folder", "one.safetensors"])
@pytest.mark.parametrize("kind", [*SMALL])
def test_a_loaded_model_equals_the_saved_one(tmp_path, kind, where):
    torch.manual_seed(0)
    net, shape = SMALL[kind](), (1, 8, 8)
    for parameter in net.parameters():  # zeros, where a parameter starts, would hide a lost one
        nn.init.normal_(parameter, std=0.1)
    row = NCSN(geometric(1.0, 0.01, 5)) if kind == "RefineNet" else EDM(0.3, 7.0, 0.01, 0.5)
    prior, classes = Prior.fit(torch.rand(50, *shape)), "abc" if kind == "UNet" else ()
    model = ScoreModel(net.eval(), row, prior=prior, classes=classes)
    save(model, tmp_path / where, about={"step": 7})
    again = load(tmp_path / where)
    assert torch.equal(_score(model, shape), _score(again, shape))
    for name in ("mean", "cov"):
        assert torch.equal(getattr(again.prior, name), getattr(model.prior, name))
    for name in ("sigma_max", "sigma_min", "classes"):
        assert getattr(again, name) == getattr(model, name)
    assert not again.training
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert read_tensors(tmp_path / where).about == {"step": 7}


def test_a_file_is_the_same_from_every_device(tmp_path, device):
    model, contents = _model(), []
    for place in ("cpu", device):
        save(model.to(place), tmp_path / "one.safetensors")
        contents.append((tmp_path / "one.safetensors").read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    "row",
    [
        *(EDM(centre=0.25), VE(), SubVP(0.2, 9.0).rescale(-0.7)),
        # with 20 steps, β = 1 at the last, and the first σ is infinite
        VPDiscrete(ddpm_sigmas(steps=30), centre=0.25, predicts="v").rescale(),
    ],
    ids=lambda row: row.predicts,
)
def test_each_field_of_a_preconditioner_is_kept(tmp_path, row):
    save(_model(precondition=row), tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors", networks={"Mine": Mine}).precondition
    assert str(again) == str(row)  # all numbers, to the last digit
    assert row.levels is again.levels is None or torch.equal(row.levels, again.levels)


def test_a_model_without_a_prior_keeps_its_shape_and_describes_itself(tmp_path):
    save(_model(prior=None, shape=(3,)), tmp_path / "m")
    again = load(tmp_path / "m", networks={"Mine": Mine})
    assert again.shape == (3,)
    assert again.prior is None
    shown = json.loads((tmp_path / "m/model.json").read_text())
    assert shown["network"] == {"kind": f"{__name__}:Mine", "size": 3}
    assert sorted(os.listdir(tmp_path / "m")) == ["model.json", MODEL_FILE]


def test_extra_tensors_and_types_are_kept(tmp_path):
    extra = {"moment": torch.arange(6).view(2, 3).t(), "count": torch.tensor(3)}
    save(_model().bfloat16(), tmp_path / "m.safetensors", extra=extra)
    file = read_tensors(tmp_path / "m.safetensors")
    assert file.under("net")["linear.weight"].dtype == torch.bfloat16
    assert torch.equal(file.under("extra")["moment"], extra["moment"])
    assert torch.equal(file.under("extra")["count"], extra["count"])


def test_a_truncated_file_or_a_changed_bit_is_refused(tmp_path):
    save(_model(), path := tmp_path / "m.safetensors")
    whole = path.read_bytes()
    for place in range(0, len(whole), 41):
        bit = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
        for content, message in ((whole[:place], "damaged"), (bit, "damaged|another|format")):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=message):
                load(path, networks={"Mine": Mine})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), "format 2.*reads 1"),
        (lambda d: d["network"].update(size=4), r"another architecture.*linear\.weight"),
        (lambda d: d["network"].update(kind="os.system"), r"'os\.system': there are Autoencoder"),
        (lambda d: d["network"].update(kind="os:system"), "'os:system': this code is not imported"),
        (lambda d: d["network"].update(width=3), "width"),
        (lambda d: d["network"].update(size={"deep": [10**12]}), "more than the"),
        (lambda d: d["precondition"].update(predicts="eval"), "predicts='eval': one of score"),
        (lambda d: d["precondition"].update(clock="index"), "counts levels"),
        (lambda d: d["precondition"].update(kind="EDM"), "wrong fields, kind"),
        (lambda d: d["precondition"].pop("scale"), "wrong fields, scale"),
        (lambda d: d["precondition"].update(sigma_data="0.3"), "sigma_data='0.3': give a finite"),
        (lambda d: d["precondition"].update(sigma_data=0), "sigma_data=0.0: give"),
        (lambda d: d["precondition"].update(sigma_max=True), "sigma_max=True"),
        (lambda d: d["precondition"].update(sigma_max=0.001), r"levels 0\.001 to 0\.01"),
        (lambda d: d["precondition"].update(scale=0), "must not be 0"),
        (lambda d: d["precondition"].update(beta_min=30), "must increase"),
        (lambda d: d["network"].update(size=[1] * 4000), "4000 arguments in a row"),
        (lambda d: d.pop("precondition"), "lacks 'precondition'"),
        (lambda d: d.update(prior=["mean"]), "prior"),
        (lambda d: d.update(network=3), "not a model"),
        (lambda d: d.update(shape=[4]), "shape"),
        (lambda d: d.update(classes=["a", "a"]), "its own name"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_header_that_does_not_fit_is_refused(tmp_path, change, message):
    """Also with the right checksum."""
    save(_model(), path := tmp_path / "m.safetensors")
    stored = read_tensors(path)
    change(stored.description)
    write_tensors(path, stored.description, stored.tensors)
    with pytest.raises(ValueError, match=message):
        load(path, networks={"Mine": Mine})


@pytest.mark.parametrize("change", [{"blocks": 13_000}, {"multipliers": [1] * 60}])
def test_a_network_larger_than_its_file_is_not_built(tmp_path, change):
    """Building stops early: counted by the parameters that were created."""
    save(ScoreModel(SMALL["UNet"](), EDM(), shape=(1, 8, 8)), tmp_path / "m.safetensors")
    stored, created = read_tensors(tmp_path / "m.safetensors"), []
    stored.description["network"] |= change
    stored.tensors["net.more"] = torch.zeros(13_000)
    write_tensors(tmp_path / "m.safetensors", stored.description, stored.tensors)
    handle = register_module_parameter_registration_hook(lambda *_: created.append(1))
    with pytest.raises(ValueError, match="parameter tensors: its file has") as error:
        load(tmp_path / "m.safetensors")
    handle.remove()
    assert len(created) <= 3 * len(stored.tensors)
    assert len(str(error.value)) < 1500
    nn.Sequential(*(nn.Linear(1, 1) for _ in range(1000)))  # no longer counted


def test_foreign_files_are_refused_and_nothing_in_them_runs(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/ran",))

    path = tmp_path / "theirs.safetensors"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load(path)
    for content in (pickle.dumps(Hostile()), struct.pack("<Q", 2**62) + b"{}", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged, or not a safetensors file"):
            load(path)
    assert not (tmp_path / "ran").exists()
    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="another program"):
        load(path)
    with pytest.raises(FileNotFoundError, match=MODEL_FILE):
        load(tmp_path)


def test_a_model_that_a_file_cannot_hold_is_not_written_or_not_read(tmp_path):
    with pytest.raises(ValueError, match="attribute `arguments`"):
        save(ScoreModel(nn.Linear(3, 3), EDM()), tmp_path / "m")
    row = dataclasses.make_dataclass("Own", [], bases=(Precondition,), frozen=True, eq=False)
    with pytest.raises(ValueError, match="no file can describe"):
        save(ScoreModel(Mine(3), row("score", "none", 2.0, 1.0)), tmp_path / "m")
    save(_model(), tmp_path / "m")
    with pytest.raises(ValueError, match="not imported because a file names it"):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "value"),
    [("net.linear.weight", math.nan), ("net.mask", math.nan), ("prior.mean", math.inf)],
)
def test_a_tensor_that_is_not_finite_is_named(tmp_path, name, value):
    model = _model()
    tensors = {**model.state_dict(keep_vars=True), "prior.mean": model.prior.mean}
    tensors[name].data[0] = value
    save(model, tmp_path / "m")
    with pytest.raises(ValueError, match=f"{name} has NaN or infinite values"):
        load(tmp_path / "m", networks={"Mine": Mine})
    if name.startswith("net"):
        with pytest.raises(ValueError, match=f"{name} has NaN or infinite values"):
            sample(model, 2)
