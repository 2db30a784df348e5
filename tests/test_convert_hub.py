"""Against the library itself: its networks and schedulers, with random weights.

What is refused is refused before the library is imported, and tested without it.
"""

import json
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from scorefield import euler, final, integrate, to_noise
from scorefield.convert import from_diffusers

SIZE = 8
DDPM = {"_class_name": "DDPMScheduler"}
UNET = {"_class_name": "UNet2DModel"}


@pytest.fixture
def diffusers():
    library = pytest.importorskip("diffusers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions warn of a missing GPU when they are loaded
        assert library.UNet2DModel
    return library


@pytest.fixture
def save(diffusers, tmp_path):
    """A small network and a scheduler, saved as a pipeline; their own selves are returned."""

    def saved(scheduler, **options):
        skip = "Skip" if options.get("time_embedding_type") == "fourier" else ""
        given = {"sample_size": SIZE, "layers_per_block": 1, "norm_num_groups": 8, **options}
        unet = diffusers.UNet2DModel(
            block_out_channels=(32, 32),
            down_block_types=(f"{skip}DownBlock2D", f"Attn{skip}DownBlock2D"),
            up_block_types=(f"Attn{skip}UpBlock2D", f"{skip}UpBlock2D"),
            **given,
        ).eval()
        unet.save_pretrained(tmp_path / "unet")
        scheduler.save_pretrained(tmp_path / "scheduler")
        index = {
            "_class_name": "Pipeline",
            "unet": ["diffusers", "UNet2DModel"],
            "scheduler": ["diffusers", type(scheduler).__name__],
        }
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        return unet

    return saved


def _images(n=2, channels=3):
    return torch.rand(n, channels, SIZE, SIZE)


def _error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def _at(scheduler, t, x):
    """(y_t, y_t/√ᾱ in [0, 1], its σ): images x with noise as the library trains, and as we do."""
    kept = scheduler.alphas_cumprod[t].double().item()
    y = scheduler.add_noise(2 * x - 1, torch.randn_like(x), torch.tensor([t]))
    return y, ((y.double() / kept**0.5 + 1) / 2).float(), ((1 - kept) / kept) ** 0.5 / 2


# ── The score ────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_epsilon_is_the_score(save, diffusers, tmp_path, schedule):
    scheduler = diffusers.DDPMScheduler(beta_schedule=schedule)
    unet = save(scheduler)
    model = from_diffusers(tmp_path)
    for t in (0, 1, 70, 500, 998):
        y, x, sigma = _at(scheduler, t, _images())
        epsilon = unet(y, t).sample
        assert _error(model(x, sigma), -epsilon / sigma) <= 1e-5
        assert _error(to_noise(model)(x, sigma), epsilon) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
def test_the_denoiser_is_the_schedulers(save, diffusers, tmp_path, kind, name):
    scheduler = getattr(diffusers, name)(prediction_type=kind, clip_sample=False)
    scheduler.set_timesteps(1000)
    unet = save(scheduler)
    model = from_diffusers(tmp_path)
    for t in (0, 1, 70, 500, 999):
        y, x, sigma = _at(scheduler, t, _images())
        clean = scheduler.step(unet(y, t).sample, t, y).pred_original_sample
        found = x + sigma**2 * model(x, sigma)
        torch.testing.assert_close(found, (clean + 1) / 2, rtol=0, atol=1e-5 * max(1, sigma))


@torch.no_grad()
def test_euler_is_ddim(save, diffusers, tmp_path):
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    unet = save(scheduler)
    model = from_diffusers(tmp_path)
    scheduler.set_timesteps(10)
    y, x, _ = _at(scheduler, 900, _images())
    for t in scheduler.timesteps:
        y = scheduler.step(unet(y, t).sample, t, y).prev_sample
    sigmas = model.precondition.levels.flip(0)[scheduler.timesteps].float()
    torch.testing.assert_close(final(integrate(euler, model, x, sigmas)), (y + 1) / 2)


@torch.no_grad()
# the library's own, in older versions
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
@pytest.mark.parametrize("embedding", ["fourier", "positional"])
@pytest.mark.parametrize("centred", [True, False])
def test_the_output_of_score_sde_is_the_score(save, diffusers, tmp_path, embedding, centred):
    scheduler = diffusers.ScoreSdeVeScheduler(num_train_timesteps=20, sigma_max=90.0)
    unet = save(scheduler, time_embedding_type=embedding, center_input_sample=centred)
    model = from_diffusers(tmp_path)
    assert (model.sigma_max, model.sigma_min) == (90.0, 0.01)
    sigmas = torch.tensor([0.01, 0.3, 7.0, 90.0])
    x = _images(4) + sigmas[:, None, None, None] * torch.randn(4, 3, SIZE, SIZE)
    score = unet(x, sigmas).sample
    for found, expected in zip(model(x, sigmas), score, strict=True):
        assert _error(found, expected) <= 1e-5
    # and as a score it moves the mean of a step back, by σᵢ² − σᵢ₋₁²
    scheduler.set_timesteps(20)
    scheduler.set_sigmas(20)
    here, there = scheduler.discrete_sigmas[[15, 14]]
    mean = scheduler.step_pred(score, scheduler.timesteps[4], x).prev_sample_mean
    assert _error((here**2 - there**2) * model(x, sigmas), mean - x) <= 1e-4


def test_the_levels_are_those_of_ddpm(save, diffusers, tmp_path):
    save(diffusers.DDPMScheduler())
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    exact = ((1 - betas).cumprod(0).reciprocal() - 1).sqrt().flip(0) / 2
    levels = from_diffusers(tmp_path).precondition.levels
    torch.testing.assert_close(levels, exact, rtol=2e-4, atol=0)  # theirs are float32


# ── Configurations ───────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def test_levels_of_noise_alone_are_left_out(save, diffusers, tmp_path):
    options = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    scheduler = diffusers.DDPMScheduler(clip_sample=False, **options)
    unet = save(scheduler)
    model = from_diffusers(tmp_path)
    assert len(model.precondition.levels) == 999
    y, x, sigma = _at(scheduler, 400, _images())
    clean = scheduler.step(unet(y, 400).sample, 400, y).pred_original_sample
    torch.testing.assert_close(x + sigma**2 * model(x, sigma), (clean + 1) / 2)


@torch.no_grad()
def test_learned_variances_are_left_out(save, diffusers, tmp_path):
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range")
    unet = save(scheduler, in_channels=1, out_channels=2)
    y, x, sigma = _at(scheduler, 300, _images(channels=1))
    assert _error(from_diffusers(tmp_path)(x, sigma), -unet(y, 300).sample[:, :1] / sigma) <= 1e-5


@torch.no_grad()
def test_classes_are_given(save, diffusers, tmp_path):
    scheduler = diffusers.DDPMScheduler()
    unet = save(scheduler, num_class_embeds=3)
    y, x, sigma = _at(scheduler, 300, _images())
    label = torch.tensor([2, 0])
    score = -unet(y, 300, class_labels=label).sample / sigma
    assert _error(from_diffusers(tmp_path).given(label)(x, sigma), score) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("layout", ["pipeline", "network", "flat"])
def test_layouts(save, diffusers, tmp_path, layout):
    scheduler = diffusers.DDPMScheduler()
    unet = save(scheduler)
    if layout == "flat":
        unet.save_pretrained(tmp_path / "flat")
        scheduler.save_pretrained(tmp_path / "flat")
    folder = tmp_path / {"pipeline": "", "network": "unet", "flat": "flat"}[layout]
    y, x, sigma = _at(scheduler, 300, _images())
    assert _error(from_diffusers(str(folder))(x, sigma), -unet(y, 300).sample / sigma) <= 1e-5


def test_what_is_inferred_and_assumed_is_said(save, diffusers, tmp_path):
    save(diffusers.DDPMScheduler(), sample_size=None, in_channels=1, out_channels=1)
    with pytest.raises(ValueError, match="image_size"):
        from_diffusers(tmp_path)
    lines = []
    model = from_diffusers(tmp_path, image_size=(4, 6), report=lines.append)
    assert model.shape == (1, 4, 6)
    assert torch.equal(model.prior.mean, torch.full((1, 4, 6), 0.5))
    # a uniform pixel's, so that it is not the network's range that it has
    assert model.prior.cov.item() == pytest.approx(torch.linspace(0, 1, 10_001).var().item(), 1e-3)
    assert [line.split(":")[0] for line in lines] == ["inferred", "inferred", "assumed", "assumed"]
    assert "1 × 4 × 6" in lines[0]
    assert "epsilon" in lines[1]
    assert "σ from 78.7 to" in lines[1]  # half of √(1/ᾱ − 1) = 157.4


@torch.no_grad()
def test_attention_may_have_its_old_names(save, diffusers, tmp_path):
    """As in what Google published: the library renames them."""
    scheduler = diffusers.DDPMScheduler()
    unet = save(scheduler)
    before = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for name, value in unet.state_dict().items():
        for new, old in before.items():
            name = name.replace(f".{new}.", f".{old}.")
        weights[name] = value
    assert len(weights.keys() - unet.state_dict().keys()) == 32  # four attentions
    file = tmp_path / "unet/diffusion_pytorch_model.safetensors"
    save_file(weights, file, metadata={"format": "pt"})
    y, x, sigma = _at(scheduler, 300, _images())
    assert _error(from_diffusers(tmp_path)(x, sigma), -unet(y, 300).sample / sigma) <= 1e-5


def test_weights_of_another_network_are_refused(save, diffusers, tmp_path):
    save(diffusers.DDPMScheduler())
    file = tmp_path / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_out.bias"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"conv_out\.bias"):
        from_diffusers(tmp_path)


def test_an_unknown_prediction_is_refused(save, diffusers, tmp_path):
    save(diffusers.DDPMScheduler(prediction_type="flow"))
    with pytest.raises(ValueError, match=r"prediction_type='flow'.*epsilon, v_prediction, sample"):
        from_diffusers(tmp_path)


# ── Without the library ──────────────────────────────────────────────────────────────────────────


def _write(folder, unet=UNET, scheduler=DDPM, index=None, weights="safetensors"):
    for name, content in {
        "unet/config.json": unet,
        "scheduler/scheduler_config.json": scheduler,
        "model_index.json": index,
        f"unet/diffusion_pytorch_model.{weights}": {},
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        if content is not None:
            (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ({"scheduler": {"_class_name": "EulerDiscreteScheduler"}}, ValueError, "EulerDiscrete.*DD"),
        ({"scheduler": None}, FileNotFoundError, r"scheduler_config\.json is missing"),
        ({"unet": {"_class_name": "UNet2DConditionModel"}}, ValueError, "UNet2DConditionModel"),
        ({"unet": None}, FileNotFoundError, r"config\.json is missing"),
        ({"unet": []}, ValueError, "not the configuration"),
        ({"weights": "bin"}, ValueError, r"model\.bin alone, a pickle.*save_pretrained"),
        ({"weights": "onnx"}, FileNotFoundError, r"model\.safetensors is missing"),
        (
            {"index": {"_class_name": "LDMPipeline", "unet": [], "vqvae": [], "scheduler": []}},
            ValueError,
            "vqvae beside the network",
        ),
    ],
)
def test_what_is_not_a_score_of_images_is_refused(tmp_path, content, error, message):
    _write(tmp_path, **content)
    with pytest.raises(error, match=message):
        from_diffusers(tmp_path)


def test_a_name_is_not_downloaded():
    with pytest.raises(FileNotFoundError, match=r"nothing is downloaded.*hf download"):
        from_diffusers("google/ddpm-cifar10-32")


def test_a_configuration_that_is_no_json_is_named(tmp_path):
    _write(tmp_path)
    (tmp_path / "unet/config.json").write_bytes(b"\xff{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        from_diffusers(tmp_path)


def test_the_library_is_asked_for(tmp_path, monkeypatch):
    _write(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'scorefield\[hub\]'"):
        from_diffusers(tmp_path)


def test_a_size_that_the_network_cannot_halve_is_refused(save, diffusers, tmp_path):
    save(diffusers.DDPMScheduler())
    with pytest.raises(ValueError, match="image_size=7: give a multiple of 2"):
        from_diffusers(tmp_path, image_size=7)
    for size in (0, (8, -2)):
        with pytest.raises(ValueError, match="give the pixels a side, from 1"):
            from_diffusers(tmp_path, image_size=size)
    assert from_diffusers(tmp_path, image_size=(4, 6)).shape == (3, 4, 6)


def test_it_is_public_and_the_library_is_not_loaded_for_it():
    code = (
        "import sys, scorefield; scorefield.from_diffusers; assert 'diffusers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
