"""Options that several commands share, and checks of them that need no torch.

A command is a function: its signature is the options, its docstring the help. It imports what it
needs when it is called, so that `--help` does not load torch.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from ..disk import check_writable
from ..runs.config import Experiment, override
from ..values import HUB_PREFIX, Dequantisation

RunPath: TypeAlias = Annotated[
    Positional[Path],
    arg(
        metavar="RUN",
        help="a run's directory, a saved or converted model, or hub:OWNER/NAME[@REVISION][/FILE]",
    ),
]
RunWithData: TypeAlias = Annotated[
    Positional[Path],
    arg(
        metavar="RUN",
        help="a run's directory, a model's file in it, or hub:OWNER/NAME of a run that was pushed",
    ),
]
Settings: TypeAlias = UseAppendAction[
    Annotated[tuple[str, ...], arg(name="set", metavar="NAME=VALUE")]
]
Given: TypeAlias = UseAppendAction[
    Annotated[
        tuple[str, ...],
        arg(
            name="given",
            metavar="NAME=VALUE",
            help="value of a table's column in every row, or of a condition: numbers with commas, "
            "an .npy file or an image; may be repeated",
        ),
    ]
]
Count: TypeAlias = Annotated[int, arg(aliases=["-n"], help="number of samples")]


def registry_names(module: str, registry: str) -> str:
    """Return the keys of a dict in a module that is not imported, because it loads torch."""
    source = (Path(__file__).parents[1] / module).read_text(encoding="utf-8")
    values: dict[str, Any] = {
        ast.unparse(node.targets[0]): node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
    }
    return ", ".join(key.value for key in values[registry].keys)


SamplerName: TypeAlias = Annotated[
    str | None,
    arg(
        help=f"{registry_names('samplers/__init__.py', 'SAMPLERS')}, or one that a module given to "
        "--import adds to SAMPLERS; consistency is for models tuned to it; by default the run's own"
    ),
]
MethodName: TypeAlias = Annotated[
    str,
    arg(
        help=f"{registry_names('restore.py', 'METHODS')}, or one that a module given to --import "
        "adds to restore.METHODS; particle_filter and tds are exact for many particles and steps, "
        "split_gibbs and pigdm_langevin nearly so for many steps, the others are biased"
    ),
]
Steps: TypeAlias = Annotated[
    int | None, arg(help="number of noise levels; for annealed Langevin, steps at each level")
]
FitGrid: TypeAlias = Annotated[
    bool,
    arg(
        help="fit the levels to the model and its guidance, for few of them and unipc or "
        "adams_bashforth; n levels cost about 10n² evaluations of 64 samples"
    ),
]
Dequantising: TypeAlias = Annotated[
    Dequantisation,
    arg(
        help="points of the cells of 8-bit values at which a density is computed: uniform as in "
        "training, or normal, of deviation σ_min about the middles, for a model of the middles"
    ),
]
Seed: TypeAlias = Annotated[int, arg(help="same seed, same result")]
BatchSize: TypeAlias = Annotated[int, arg(help="number of chains at a time")]
DeviceName: TypeAlias = Annotated[str, arg(help="cuda, mps or cpu; auto takes the first of them")]
MovedData: TypeAlias = Annotated[
    str | None, arg(help="new place of the run's data, if they were moved")
]
Overwrite: TypeAlias = Annotated[
    bool, arg(help="replace all older results in a folder; a single file is always replaced")
]
InceptionFile: TypeAlias = Annotated[Path | None, arg(help="file of the Inception network")]
PrecisionName: TypeAlias = Annotated[
    Literal["auto", "float32", "tf32", "bfloat16"],
    arg(
        help="error of the score: up to 1e-5 in float32, 1e-3 in tf32 (on a GPU), 2 % in bfloat16; "
        "each may be faster than the one before; auto is float32"
    ),
]


@dataclass(frozen=True)
class GuidanceOptions:
    """Guidance towards the class or the condition."""

    guidance: Annotated[
        float | None,
        arg(
            metavar="FLOAT",
            help="strength of guidance: 1 is the class's own score; with a classifier, 0 is no "
            "guidance; by default the run's own (1 also switches that off)",
        ),
    ] = None
    guidance_interval: Annotated[
        tuple[float, float] | None,
        arg(
            metavar="LOW HIGH",
            help="noise levels between which --guidance holds, by default all; it is 1 outside",
        ),
    ] = None
    autoguidance: Annotated[
        Path | None,
        arg(
            metavar="RUN",
            help="guide away from this weaker model of the same data (smaller or trained less, "
            "such as a checkpoint of the run) instead of the model without a class",
        ),
    ] = None
    classifier: Annotated[
        str | None,
        arg(
            metavar="MODULE:NAME",
            help="guide by the gradient of a classifier of your own: a function of (x, sigma) that "
            "returns logits, a row of classes for each noisy sample",
        ),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the options that were given, in a form for JSON."""
        values = vars(self) | {"autoguidance": self.autoguidance and str(self.autoguidance)}
        return {name: value for name, value in values.items() if value is not None}


Guiding: TypeAlias = Annotated[
    GuidanceOptions, OmitArgPrefixes, arg(help="guidance towards the class or the condition")
]
NO_GUIDANCE = GuidanceOptions()
"""Default of commands."""


def check_options(*, seed: int = 0, **counts: int | None) -> None:
    """Refuse an impossible seed, and counts below 1."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{'-n' if name == 'n' else f'--{name}'} {value}: give 1 or more")
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed {seed}: give a whole number from 0 to 2^63 - 1")


def find_run(run: Path) -> Path:
    """Return the place of a run or a model, which is downloaded if its name begins with hub:."""
    place = download(run)
    if not place.exists():
        raise ValueError(f"RUN {run} does not exist: name a run, or make one by `scorefield train`")
    return place


def download(path: Path) -> Path:
    """Return a path, or the place of the download if it is a name on the Hub."""
    if not path.as_posix().startswith(HUB_PREFIX):
        return path
    from ..convert import fetch_model

    return fetch_model(path)


def data_options(settings: Sequence[str]) -> dict[str, Any]:
    """Return the options of the data from settings, which may name no other field."""
    for setting in settings:
        if not setting.startswith("data.options."):
            raise ValueError(f"{setting}: give options of the data, as data.options.NAME=VALUE")
    return override(Experiment(), settings).data.options


def check_unused(reason: str, **values: object) -> None:
    """Refuse options that a command would ignore."""
    names = [f"--{k.replace('_', '-')}" for k, value in values.items() if value is not None]
    if names:
        raise ValueError(f"{reason}: leave out {', '.join(names)}")


def check_directory(out: Path) -> None:
    """Refuse a directory for results that is a file, or that cannot be written to."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: this is a file, name a directory")
    check_writable(out / "report.html")
