"""Take pictures of the studio: every view at two widths, light and dark, in chromium.

python docs/studio_pictures.py runs/demo

All go to runs/studio; those that the pages show are made small and go to docs/studio.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
ALL = Path("runs/studio")
SIZES = {"wide": (1280, 900), "narrow": (400, 860)}
THEMES = ("light", "dark")
PUBLISHED = {
    "plane-wide-light": 1070,
    "network-wide-light": 900,
    "images-wide-light": 1010,
    "restore-wide-dark": 920,
    "runs-wide-dark": 860,
    "plane-narrow-dark": 1150,
}
"""Pictures of the documentation, and how many of their pixels from above."""
COLOURS = 256
"""Colours of a picture, which is stored with a palette."""


def run_plane(page: Page) -> None:
    """Sample by plain and by annealed Langevin dynamics."""
    page.locator(".ladder .tick").first.wait_for()
    page.get_by_label("Speed").select_option("4")
    page.get_by_role("button", name="Run both").click()
    page.get_by_role("button", name="Run both").wait_for(timeout=120_000)
    page.get_by_role("button", name="Play", exact=True).wait_for(timeout=120_000)


def train_network(page: Page) -> None:
    """Train the small network, and look at its errors alone."""
    page.locator(".ladder .tick").first.wait_for()
    page.get_by_role("button", name="Train a network").click()
    page.get_by_text("Trained", exact=True).wait_for(timeout=120_000)


def choose_sample(page: Page) -> None:
    """Sample, and look at one of the samples."""
    page.get_by_label("State", exact=True).filter(has_text="σ = 0,").wait_for(timeout=120_000)
    page.get_by_label("Samples:").click(position={"x": 200, "y": 60})
    page.get_by_label("Distances").filter(has_text="nearest of").wait_for(timeout=120_000)


def restore_half(page: Page) -> None:
    """Complete the right half of a held-out digit."""
    page.get_by_label("Known", exact=True).filter(has_text="are known").wait_for()
    page.get_by_role("button", name="Restore", exact=True).click()
    page.get_by_label("Errors").filter(has_text="single").wait_for(timeout=120_000)


def wait_for_run(page: Page) -> None:
    """Wait for the curves of the run."""
    page.get_by_role("img", name="Samples of").wait_for()


VIEWS: dict[str, tuple[str, Callable[[Page], None], str]] = {
    "plane": ("plane", run_plane, "body"),
    "network": ("plane", train_network, "section:has(> h3:text('A network'))"),
    "images": ("images?n=16&sampler=heun", choose_sample, "body"),
    "restore": ("restore?heldout=3&n=8", restore_half, "body"),
    "runs": ("runs", wait_for_run, "body"),
}
"""Of each picture: the address, what is done there, and the part that is taken."""


@contextmanager
def open_studio(run: Path):
    """Serve the studio, and return its address."""
    command = [sys.executable, "-m", "scorefield", "studio", str(run), "--runs", str(run.parent)]
    options = ["--port", "0", "--no-browser"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = re.search(r"http://[^\s#]+", process.stdout.readline())
            assert address is not None
            yield address[0]
        finally:
            process.terminate()


def take_pictures(run: Path) -> None:
    """Take a picture of each view at each width in each theme."""
    ALL.mkdir(parents=True, exist_ok=True)
    with open_studio(run) as address, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for theme in THEMES:
            for size, (width, height) in SIZES.items():
                viewport = {"width": width, "height": height}
                context = browser.new_context(viewport=viewport, color_scheme=theme)
                for name, (view, prepare, part) in VIEWS.items():
                    page = context.new_page()
                    page.goto(f"{address}#/{view}")
                    prepare(page)
                    page.locator(part).screenshot(path=ALL / f"{name}-{size}-{theme}.png")
                    page.close()
                context.close()
        browser.close()


def publish() -> None:
    """Make the pictures of the pages small."""
    (HERE / "studio").mkdir(exist_ok=True)
    for name, height in PUBLISHED.items():
        picture = Image.open(ALL / f"{name}.png").convert("RGB")
        picture = picture.crop((0, 0, picture.width, min(height, picture.height)))
        # a palette that keeps rare colours, such as those of a curve
        method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
        picture = picture.quantize(COLOURS, method=method, dither=dither)
        picture.save(HERE / f"studio/{name}.png", optimize=True)


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]))
    publish()
