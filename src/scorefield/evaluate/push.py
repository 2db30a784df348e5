"""Upload a run's model to the Hugging Face Hub, with its figures, a grid and a model card.

The login is the Hub's own. The client sends it to the Hub; it is not read or stored here.
"""

import io
import json
import warnings
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from ..checkpoint import MODEL_FILE, load_stored, read_tensors, run_directory, save
from ..convert import RUN_FILES, hub_error, open_hub, parse_hub_name
from ..data import LATENTS_FILE
from ..disk import open_regular, read_json, write_file
from ..model import ScoreModel
from ..runs import config
from ..runs.journal import METRICS_FILE
from ..runs.own_plan import choose_plan
from ..runs.track import SAMPLE_GRIDS
from ..sample import sample
from ..show import images
from ..values import HUB_PREFIX, import_extra
from .card import GRID_FILE, describe_metrics, model_card, read_figures
from .pages import GRID_IMAGES


def push(
    model: ScoreModel | str | Path,
    name: str,
    *,
    dry_run: str | Path | None = None,
    private: bool = False,
    message: str | None = None,
    license: str | None = None,
) -> str:
    """Upload a model and its card to the Hugging Face Hub, and return the address of the commit.

    Needs `pip install 'scorefield[hub]'` and a login, by `hf auth login`. The files are
    model.safetensors, those that describe the run, metrics.json if there is one, samples.png of
    images, and README.md, the model card. Earlier ones of these names are replaced.

    Args:
        model: a run's directory, the directory or file of a model, or a model in memory, whose
            card has neither figures nor a configuration.
        name: OWNER/NAME on the Hub, which is created if there is none.
        dry_run: a new folder to write the files to instead; neither a network nor a login is
            needed, and the folder is returned.
        private: create a repository that only its owner sees; a public one is refused.
        message: message of the commit.
        license: identifier of a licence in the card, such as mit; by default the card has none.
    """
    bare = name.removeprefix(HUB_PREFIX)
    if bare and "/" not in bare:
        raise ValueError(
            f"name={name!r:.200} has no owner: give OWNER/{bare:.200}, where OWNER is your name on "
            "the Hub (`hf auth whoami`) or your organisation's"
        )
    source = parse_hub_name(HUB_PREFIX + bare)
    repository = source.repository
    if source.revision or source.file:
        raise ValueError(f"{name}: give OWNER/NAME, without a revision and a file")
    if dry_run is not None:
        _write_folder(model, Path(dry_run), repository, license)
        return str(dry_run)
    hub = open_hub(f"push to {repository}")
    if import_extra("huggingface_hub", "hub", "push").get_token() is None:
        raise ValueError(f"push to {repository} needs a login: log in by `hf auth login`")
    message = message or f"Upload a model by scorefield {version('scorefield')}"
    with TemporaryDirectory() as folder:
        _write_folder(model, Path(folder), repository, license)
        try:
            hub.create_repo(repository, private=private or None, exist_ok=True)
            public = private and not hub.model_info(repository).private
            if not public:
                options: Any = {"folder_path": folder, "commit_message": message}
                return str(hub.upload_folder(repo_id=repository, **options).commit_url)
        except Exception as error:
            raise hub_error(repository, error, "uploaded") from error
    raise ValueError(
        f"{repository} exists and is public: make it private on its page, choose another name, or "
        "leave out private"
    )


def _write_folder(
    source: ScoreModel | str | Path, folder: Path, name: str, license: str | None
) -> None:
    """Write all files of a model into an empty folder."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder: name another one")
    if isinstance(source, ScoreModel):
        with TemporaryDirectory() as saved:
            save(source, saved)
            _write_folder(saved, folder, name, license)
        return
    run = Path(source)
    home, place = run_directory(run), run / MODEL_FILE if run.is_dir() else run
    if not place.exists():
        raise FileNotFoundError(f"{run} has no {MODEL_FILE}: name a run that has ended")
    file = read_tensors(place)
    model = load_stored(file)
    settings = home / "config.json"
    if settings.exists():
        config.read(settings)  # refuses a damaged one
    metrics_file = (run if run.is_dir() else run.with_suffix("")) / METRICS_FILE
    metrics = read_json(metrics_file) if metrics_file.exists() else {}
    _check_metrics(metrics_file, metrics, file.about.get("step"))
    contents = {name: home / name for name in RUN_FILES[1:]} | {METRICS_FILE: metrics_file}
    save(model, folder, about=file.about)
    for file_name, path in contents.items():
        if path.exists():
            with open_regular(path) as opened:
                write_file(folder / file_name, opened.read())
    card = model_card(
        name, model, config=read_json(settings) if settings.exists() else {}, metrics=metrics,
        picture=_write_grid(home, model, folder / GRID_FILE), license=license,
    )  # fmt: skip
    write_file(folder / "README.md", card.encode())


def _check_metrics(path: Path, metrics: dict[str, Any], step: object) -> None:
    """Refuse metrics that the card cannot show, or of other weights than those uploaded."""
    try:
        describe_metrics(metrics)
        weights = {figure.weights for figure in read_figures(metrics)} - {"as given"}
        others = [w for w in weights if w.startswith("raw, ") or not w.endswith(f"step {step}")]
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error!s:.200}): remove it, or "
            "`scorefield evaluate` writes it again"
        ) from error
    if others:
        raise ValueError(
            f"{path} has figures of other weights ({others[0]}), and the model's are averaged ones "
            f"of step {step}: evaluate it again, or remove the file"
        )


def _read_caption(content: bytes) -> str | None:
    """Return the caption of a grid that a run wrote, None for another picture."""
    try:
        about = json.loads(Image.open(io.BytesIO(content)).info["scorefield"])
        return f"Samples at step {about['step']} by {about['sampler']}, not selected."
    except (Image.DecompressionBombError, OSError, LookupError, TypeError, ValueError):
        return None


def _write_grid(home: Path, model: ScoreModel, out: Path) -> str:
    """Write the newest grid of a run, or else samples of the model, and return the caption.

    Samples that are not pictures, or only exist under a condition, have no grid and no caption.
    """
    for grid in sorted(home.glob(SAMPLE_GRIDS), reverse=True):
        with open_regular(grid) as file:
            content = file.read()
        if caption := _read_caption(content):
            write_file(out, content)
            return caption
        warnings.warn(f"{grid} is not a grid that the run wrote: it is left out", stacklevel=2)
    shape = model.prior.mean.shape if model.prior is not None else ()
    if not images.is_picture(shape) or model.condition_shapes or (home / LATENTS_FILE).exists():
        return ""
    plan = choose_plan(home, model)
    x = sample(model, GRID_IMAGES, plan, label="all" if model.classes else None)
    write_file(out, images.png(images.grid(x), {"sampler": plan.sampler, "n": GRID_IMAGES}))
    classes = ", evenly of all classes" if model.classes else ""
    return f"{GRID_IMAGES} samples by {plan.sampler}{classes}, not selected."
