"""Make the pictures of the README: the animation, and the paper's figures on one sheet.

python docs/pictures.py runs/demo
"""

import sys
from pathlib import Path

import torch
from PIL import Image

from scorefield import make_plan, seeded
from scorefield.runs import finish
from scorefield.runs.presets import PRESETS
from scorefield.show.images import grid

HERE = Path(__file__).parent
COLUMNS = 16
ROWS = 4
FRAMES = 24
WIDTH = 528
COLOURS = 12  # shades of grey, which keep the file small
PAUSE = 2000  # milliseconds that the samples are shown


def animate(run: Path) -> None:
    """Write annealing.gif: annealed Langevin dynamics from noise to digits, by the demo's model."""
    model = finish(PRESETS["digits"], run)
    plan = make_plan(model, "annealed_langevin")
    states = list(plan.run(model, plan.start(model, ROWS * COLUMNS, seeded(0)), seeded(1)))
    chosen = torch.linspace(0, len(states) - 1, FRAMES).long().tolist()
    frames = []
    for i in chosen:
        x = states[i].x
        low = min(0.0, x.quantile(0.02).item())
        high = max(1.0, x.quantile(0.98).item())
        sheet = grid(((x - low) / (high - low)).clamp(0, 1), COLUMNS)
        size = WIDTH, round(WIDTH * sheet.height / sheet.width)
        frames.append(sheet.resize(size, Image.NEAREST).quantize(COLOURS))
    durations = [110] * (FRAMES - 1) + [PAUSE]
    frames[0].save(
        HERE / "annealing.gif", save_all=True, append_images=frames[1:], duration=durations, loop=0
    )


def compose() -> None:
    """Write results.png: figures 1 to 10 and table 1 of the paper, as far as they fit a screen."""
    rows = (("fig2", "fig3"), ("fig1", "fig4", "fig5"), ("fig6", "fig9", "table1"))
    width, gap = 1600, 16
    strips = []
    for row in rows:
        pictures = [Image.open(HERE / f"paper/{name}.png").convert("RGB") for name in row]
        scale = (width - gap * (len(row) - 1)) / sum(p.width / p.height for p in pictures)
        strip = Image.new("RGB", (width, round(scale)), "white")
        left = 0
        for picture in pictures:
            size = round(picture.width / picture.height * scale), round(scale)
            strip.paste(picture.resize(size, Image.LANCZOS), (left, 0))
            left += size[0] + gap
        strips.append(strip)
    sheet = Image.new("RGB", (width, sum(s.height + gap for s in strips) - gap), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height + gap
    sheet.quantize(64).save(HERE / "results.png", optimize=True)


if __name__ == "__main__":
    compose()
    animate(Path(sys.argv[1]))
