from pathlib import Path

import torch

from scorefield import (
    EDM,
    MLP,
    Prior,
    ScoreModel,
    UNet,
    VPDiscrete,
    ddpm_sigmas,
    from_diffusers,
    from_official,
    load,
    save,
)
from scorefield.checkpoint import run_directory
from scorefield.convert import (
    RUN_FILES,
    fetch_model,
    find_commit,
    hub_error,
    is_other,
    open_hub,
    origin,
    parse_hub_name,
    read_other,
    to_diffusers,
    to_onnx,
)

prior = Prior(torch.zeros(2), torch.eye(2))
model = ScoreModel(MLP(2, width=32, blocks=1), EDM(1.0), prior=prior)
x = torch.randn(3, 2)

# %%
save(model, "model", about={"author": "me"})
print((load("model")(x, 0.5) - model(x, 0.5)).abs().max())
print([file for file in RUN_FILES if Path("model", file).exists()])
# %%
file = Path("runs/mine/checkpoints/00001000.safetensors")
print(run_directory(file), run_directory(Path("runs/mine/model.safetensors")))
# %%
torch.save({"weights": torch.zeros(3)}, "checkpoint.pth")
try:
    model = from_official("checkpoint.pth", image_size=32, report=print)
except ValueError as error:
    print(error)
# %%
# Needs diffusers
options = {
    "fir": None,
    "skip_rescale": False,
    "progressive_input": "none",
    "groups": 4,
}
net = UNet(width=16, blocks=1, form="ddpm", embedding="sinusoidal", **options)
model = ScoreModel(
    net, VPDiscrete(ddpm_sigmas()).rescale(), shape=(3, 16, 16)
).eval()
to_diffusers(model, Path("pipeline"))
images = torch.rand(2, 3, 16, 16)
for other in (
    from_diffusers("pipeline"),
    read_other(Path("pipeline"), report=print),
):
    print((other(images, 1.0) - model(images, 1.0)).abs().max())
print(is_other(Path("pipeline")))
# %%
# Needs onnxscript
to_onnx(model, Path("model.onnx"))
print(Path("model.onnx").stat().st_size, "bytes")
# %%
name = parse_hub_name("hub:OWNER/faces@v1")
print(name.repository, name.revision)
print(fetch_model("runs/mine"))  # no name of the Hub: nothing is downloaded
print(find_commit(Path("runs/mine")), origin(Path("runs/mine")))
print(hub_error("hub:OWNER/faces", ConnectionError("no route to host")))
# %%
# Needs huggingface_hub
client = open_hub("hub:OWNER/faces")
print(type(client).__name__)
