from pathlib import Path

import torch

from scorefield import sample
from scorefield.distributed import join, rank, world
from scorefield.runs import (
    PRESETS,
    Experiment,
    Interrupted,
    Run,
    average,
    choose_plan,
    finish,
    is_training,
    open_data,
    open_decoder,
    override,
    read_log,
    read_settings,
    resume,
    start,
)

settings = ["network={kind: MLP, width: 32, blocks: 1}", "training.steps=40"]
experiment = override(Experiment(), settings)
data = torch.randn(500, 3)

# %%
wider: Experiment = override(
    experiment, ["network.width=64", "levels.sigma_max=20"]
)
print(wider.network, wider.levels.sigma_max)
# %%
run: Run = start(experiment, "runs/mine", data=data)
try:
    updates = list(run)
except Interrupted as stop:  # a signal; what was trained is saved
    print(stop)
print(f"step {updates[-1].step}, loss {updates[-1].loss:.2f}")
run = resume("runs/mine", data=data)
print(len(list(run)), "steps were left")
# %%
model = finish(experiment, "runs/other", data=data)  # trains, resumes or loads
print(sample(model, 4, steps=5))
# %%
keep = override(experiment, ["training.snapshots=1"])
finish(keep, "runs/averages", data=data)
print(average("runs/averages", 0.25).name)
# %%
place = Path("runs/looked-at")
model = finish(experiment, place, data=data)
print(read_settings(place).training.steps, "steps, the last of them:")
print(read_log(place)[-1]["step"], is_training(place))
plan = choose_plan(place, model, None, None)  # as `scorefield sample` does
dataset = open_data(place, data)[1]
decode, shape = open_decoder(place, dataset.train.shape)  # latents of images
print(plan.sampler, len(dataset.train), decode(sample(model, 4, plan)).shape)
# %%
for name, preset in PRESETS.items():
    print(name, preset.data.source, preset.network["kind"], preset.training.steps)
# %%
join()  # under torchrun or Slurm; else it does nothing
print(f"process {rank()} of {world()}")
