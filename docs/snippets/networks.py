import torch

from scorefield import EDM, MLP, DiT, RefineNet, ScoreModel, UNet
from scorefield.fast import Choice, Precision, choose, optimize, undo
from scorefield.nn import (
    DEPTHS,
    NETWORKS,
    Autoencoder,
    Depth,
    Muon,
    ToyMLP,
    build_module,
    find_network,
    network_kind,
)

cond = torch.zeros(2)  # one number for each sample, such as ¼ log σ
images = torch.rand(2, 3, 16, 16)
vectors = torch.randn(2, 5)

# %%
for net in (
    UNet(width=32, multipliers=(1, 2), blocks=1),
    DiT(width=64, blocks=2, patch=4),
):
    print(
        f"{sum(p.numel() for p in net.parameters()):,} parameters",
        net(images, cond).shape,
    )
# %%
depth: Depth = "original"
levels = torch.tensor([0, 9])  # numbers of noise levels
print(RefineNet(width=16, levels=10, depth=depth)(images, levels).shape)
print(Autoencoder(3)(images, None).shape)
print(DEPTHS[depth])  # of each stage, features in widths and dilation
# %%
for net in (MLP(5, width=64, blocks=2), ToyMLP(5)):
    print(net(vectors, cond).shape)
# %%
net = build_module(NETWORKS["MLP"], {"shape": 5, "width": 32})
print(network_kind(net), net.arguments, find_network("UNet") is UNet)
# %%
net = MLP(5, width=32)
optimizer = Muon(net.parameters(), lr=1e-3)
net(vectors, cond).square().mean().backward()
optimizer.step()
# %%
model = ScoreModel(MLP(5, width=256), EDM(1.0), shape=(5,))
precision: Precision = "float32"
choice: Choice = choose(model, batch=64, precision=precision)
print(choice)
optimize(model, batch=64)  # switches it on
undo(model)
