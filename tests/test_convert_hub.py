"""Models of `diffusers` compared with the library itself: networks and schedulers, random weights.

All in float64, so that both sides agree to rounding. What is refused before the library is imported
is tested without it.
"""

import json
import re
import sys
import warnings

import pytest
import torch
from hub_server import Repository
from safetensors.torch import load_file, save_file

import scorefield
from scorefield import to_denoiser
from scorefield.convert import from_diffusers
from scorefield.data import all_samples, encode, load_data

SIZE = 8
DDPM = {"_class_name": "DDPMScheduler"}
UNET = {"_class_name": "UNet2DModel"}
TOLERANCE = 1e-9
"""Relative; float64 has 2.2e-16 × 1e4 operations in a row × σ below 160: 4e-10."""


@pytest.fixture
def save(tmp_path):
    """Save a small network and a scheduler as a pipeline, and return both, in float64."""
    diffusers = pytest.importorskip("diffusers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions warn of a missing GPU when they are loaded
        assert diffusers.UNet2DModel

    def save_pipeline(scheduler="DDPMScheduler", *, network=(), **options):
        scheduler = getattr(diffusers, scheduler)(**options)
        network = {"sample_size": SIZE, "layers_per_block": 1, "norm_num_groups": 8} | dict(network)
        skip = "Skip" if network.get("time_embedding_type") == "fourier" else ""
        unet = diffusers.UNet2DModel(
            block_out_channels=(32, 32),
            down_block_types=(f"{skip}DownBlock2D", f"Attn{skip}DownBlock2D"),
            up_block_types=(f"Attn{skip}UpBlock2D", f"{skip}UpBlock2D"),
            **network,
        ).eval()
        unet.save_pretrained(tmp_path / "unet")
        scheduler.save_pretrained(tmp_path / "scheduler")
        index = {"_class_name": "Pipeline", "unet": [], "scheduler": []}
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        if hasattr(scheduler, "alphas_cumprod"):
            scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        return unet.double(), scheduler

    return save_pipeline


def noisy(scheduler, t, channels=3):
    """Return y_t, y_t/√ᾱ in [0, 1] and its σ, for images with noise as the library trains."""
    alpha_bar = scheduler.alphas_cumprod[t].item()
    x = torch.rand(2, channels, SIZE, SIZE, dtype=torch.float64)
    y = scheduler.add_noise(2 * x - 1, torch.randn_like(x), torch.tensor([t]))
    return y, (y / alpha_bar**0.5 + 1) / 2, ((1 - alpha_bar) / alpha_bar) ** 0.5 / 2


def assert_same(actual, expected, tolerance=TOLERANCE):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * expected.abs().max())


@torch.no_grad()
def test_an_autoencoder_encodes_data_and_decodes_them_without_importing_code(tmp_path):
    diffusers, place = pytest.importorskip("diffusers"), tmp_path / "vae"
    sizes = dict(block_out_channels=(8, 8), latent_channels=3, norm_num_groups=4)
    blocks = dict(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2
    )
    vae = diffusers.AutoencoderKL(in_channels=1, out_channels=1, **sizes, **blocks).eval()
    vae.save_pretrained(place)
    encode(load_data("digits"), str(place), tmp_path / "z.npy", batch=700)
    data = load_data(tmp_path / "z.npy")
    x, z = all_samples(load_data("digits").train)[:5], all_samples(data.train)[:5]
    assert z.shape == (5, 3, 4, 4)
    # float32 through some 20 layers of at most 9 × 8 products, in batches of another size
    torch.testing.assert_close(z, vae.encode(2 * x - 1).latent_dist.mode(), rtol=0, atol=1e-4)
    assert data.latents.is_available
    torch.testing.assert_close(
        data.latents.decode(z), (vae.decode(z).sample + 1) / 2, rtol=0, atol=1e-4
    )
    place.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="is gone: put it back, or write its new place into"):
        data.latents.decode(z)


@torch.no_grad()
@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize(
    "options",
    [
        {"beta_schedule": "scaled_linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        *({"prediction_type": kind} for kind in ("epsilon", "v_prediction", "sample")),
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    ],
)
def test_the_denoiser_is_the_schedulers(save, tmp_path, scheduler, options):
    unet, scheduler = save(scheduler, clip_sample=False, **options)
    scheduler.set_timesteps(1000)
    model = from_diffusers(tmp_path).double()
    # levels of pure noise are left out
    assert len(model.precondition.levels) == 1000 - ("rescale_betas_zero_snr" in options)
    for t in (0, 1, 70, 500, 998):
        y, x, sigma = noisy(scheduler, t)
        clean = scheduler.step(unet(y, t).sample, t, y).pred_original_sample
        assert_same(to_denoiser(model)(x, sigma), (clean + 1) / 2)


@torch.no_grad()
# the library's own, in older versions
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
@pytest.mark.parametrize("embedding", ["fourier", "positional"])
@pytest.mark.parametrize("centred", [True, False])
def test_the_output_of_score_sde_is_the_score(save, tmp_path, embedding, centred):
    network = {"time_embedding_type": embedding, "center_input_sample": centred}
    options = {"num_train_timesteps": 20, "sigma_max": 90.0, "network": network}
    unet, scheduler = save("ScoreSdeVeScheduler", **options)
    model = from_diffusers(tmp_path).double()
    assert (model.sigma_max, model.sigma_min) == (90.0, 0.01)
    sigmas = torch.tensor([0.01, 0.3, 7.0, 90.0]).double()
    x = torch.rand(4, 3, SIZE, SIZE) + sigmas[:, None, None, None] * torch.randn(4, 3, SIZE, SIZE)
    score = unet(x, sigmas).sample
    for actual, expected in zip(model(x, sigmas), score, strict=True):
        assert_same(actual, expected)
    # as a score it moves the mean of a step back by σᵢ² − σᵢ₋₁², of the scheduler's float32 σ
    scheduler.set_timesteps(20)
    scheduler.set_sigmas(20)
    high, low = scheduler.discrete_sigmas[[15, 14]]
    mean = scheduler.step_pred(score, scheduler.timesteps[4], x).prev_sample_mean
    assert_same((high**2 - low**2) * model(x, sigmas), mean - x, 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["pipeline", "network", "flat"])
def test_every_layout_of_a_folder_is_read(save, tmp_path, layout):
    unet, scheduler = save()
    y, x, sigma = noisy(scheduler, 300)
    expected = -unet(y, 300).sample / sigma
    if layout == "flat":
        unet.float().save_pretrained(tmp_path / "flat")
        scheduler.save_pretrained(tmp_path / "flat")
    folder = {"pipeline": "", "network": "unet", "flat": "flat"}[layout]
    assert_same(from_diffusers(str(tmp_path / folder)).double()(x, sigma), expected)


@torch.no_grad()
def test_classes_condition_and_learned_variances_are_left_out(save, tmp_path):
    network = {"in_channels": 1, "out_channels": 2, "num_class_embeds": 3}
    unet, scheduler = save(variance_type="learned_range", network=network)
    y, x, sigma = noisy(scheduler, 300, 1)
    label = torch.tensor([2, 0])
    score = -unet(y, 300, class_labels=label).sample[:, :1] / sigma
    assert_same(from_diffusers(tmp_path).double().given(label)(x, sigma), score)


def test_a_report_names_what_is_inferred_and_assumed(save, tmp_path):
    save(network={"sample_size": None, "in_channels": 1, "out_channels": 1})
    with pytest.raises(ValueError, match="give image_size"):
        from_diffusers(tmp_path)
    lines = []
    model = from_diffusers(tmp_path, image_size=(4, 6), report=lines.append)
    assert model.shape == (1, 4, 6)
    assert torch.equal(model.prior.mean, torch.full((1, 4, 6), 0.5))
    assert model.prior.cov.item() == pytest.approx(1 / 12, rel=1e-6)
    assert [line.split(":")[0] for line in lines] == ["inferred", "inferred", "assumed", "assumed"]
    assert "1 × 4 × 6" in lines[0]
    # half of √(1/ᾱ − 1) = 157.4
    assert re.search("epsilon.*σ from 78.7 to", lines[1])


def test_unfit_weights_predictions_and_sizes_are_refused(save, tmp_path):
    save(prediction_type="flow")
    for size, message in (
        (None, r"prediction_type='flow'.*epsilon, v_prediction, sample"),
        (7, "image_size=7: give a multiple of 2"),
        (0, "give the pixels a side, from 1"),
        ((8, -2), "give the pixels a side, from 1"),
    ):
        with pytest.raises(ValueError, match=message):
            from_diffusers(tmp_path, image_size=size)
    file = tmp_path / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_out.bias"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"conv_out\.bias"):
        from_diffusers(tmp_path)


@torch.no_grad()
@pytest.mark.one_face
def test_a_device_computes_the_same_and_is_not_waited_for(save, tmp_path, device, same, growth):
    save()
    model, x = from_diffusers(tmp_path), torch.rand(2, 3, SIZE, SIZE)
    same(lambda place: model.to(place)(x.to(place), 0.5))
    there = x.to(device)
    assert not growth(lambda n: [model(there, 0.5) for _ in range(n)], 1, 2)


def write(folder, unet=UNET, scheduler=DDPM, index=None, weights="safetensors"):
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
        ({"unet": []}, ValueError, "not names and values"),
        ({"weights": "bin"}, FileNotFoundError, r"no .*model\.safetensors.*save_pretrained"),
        ({"index": {"_class_name": "LDM", "unet": [], "vqvae": []}}, ValueError, "with vqvae: it"),
    ],
)
def test_a_folder_that_is_not_a_score_of_images_is_refused(tmp_path, content, error, message):
    write(tmp_path, **content)
    with pytest.raises(error, match=message):
        from_diffusers(tmp_path)


def test_a_missing_folder_or_library_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"not a folder here.*load\('hub:OWNER/NAME'\)"):
        from_diffusers("google/ddpm-cifar10-32")
    write(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'scorefield\[hub\]'"):
        from_diffusers(tmp_path)
    (tmp_path / "unet/config.json").write_bytes(b"\xff{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        from_diffusers(tmp_path)


@torch.no_grad()
def test_a_model_is_loaded_by_its_name_on_the_hub(save, hub, tmp_path):
    save()
    files = {p.relative_to(tmp_path).as_posix(): p for p in tmp_path.rglob("*") if p.is_file()}
    stored = {name: path.read_bytes() for name, path in files.items()}
    half, pickled = "unet/diffusion_pytorch_model.fp16.safetensors", "unet/model.bin"
    hub.repositories["google/ddpm"] = Repository([stored | {half: b"1", pickled: b"2"}])
    x, truth = torch.rand(2, 3, SIZE, SIZE), from_diffusers(tmp_path)
    assert torch.equal(scorefield.load("hub:google/ddpm")(x, 0.5), truth(x, 0.5))
    assert hub.downloads() == stored.keys()
    # a pipeline that does not denoise images is refused before its weights are downloaded
    index = json.dumps({"_class_name": "Pipeline", "unet": [], "vae": []}).encode()
    hub.repositories["some/text"] = Repository([stored | {"model_index.json": index}])
    hub.requests.clear()
    with pytest.raises(ValueError, match="a pipeline with vae"):
        scorefield.load("hub:some/text")
    assert all(name.endswith(".json") for name in hub.downloads())


@torch.no_grad()
def test_weights_in_several_files_are_complete_after_the_last_one(save, hub, tmp_path, monkeypatch):
    unet, _ = save()
    (tmp_path / "unet/diffusion_pytorch_model.safetensors").unlink()
    unet.float().save_pretrained(tmp_path / "unet", max_shard_size="200KB")
    files = {p.relative_to(tmp_path).as_posix(): p for p in tmp_path.rglob("*") if p.is_file()}
    stored = {name: files[name].read_bytes() for name in sorted(files, reverse=True)}
    parts = sorted(name for name in stored if name.endswith(".safetensors"))
    assert len(parts) > 2
    hub.repositories["google/ddpm"] = Repository([stored])
    x, truth = torch.rand(2, 3, SIZE, SIZE), from_diffusers(tmp_path)

    def assert_incomplete():
        with monkeypatch.context() as offline:
            offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
            with pytest.raises(OSError, match="not in the cache"):
                scorefield.load("hub:google/ddpm")

    hub.faults = {f"/{parts[-1]}": 500}
    with pytest.raises(OSError, match="status 500"):
        scorefield.load("hub:google/ddpm")
    assert_incomplete()
    hub.faults = {}
    assert torch.equal(scorefield.load("hub:google/ddpm")(x, 0.5), truth(x, 0.5))
    damaged = next((tmp_path / "cache").rglob(parts[0])).resolve()
    damaged.write_bytes(b"\0" + damaged.read_bytes()[1:])
    with pytest.raises(OSError, match="is damaged"):
        scorefield.load("hub:google/ddpm")
    assert_incomplete()
