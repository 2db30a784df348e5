from .average import average
from .config import Experiment, override
from .finish import finish, start
from .journal import read_log
from .own_plan import choose_plan, is_training, open_decoder, read_settings
from .presets import PRESETS
from .resume import open_data, resume
from .run import Run
from .signals import Interrupted

__all__ = [
    "PRESETS",
    "Experiment",
    "Interrupted",
    "Run",
    "average",
    "choose_plan",
    "finish",
    "is_training",
    "open_data",
    "open_decoder",
    "override",
    "read_log",
    "read_settings",
    "resume",
    "start",
]
