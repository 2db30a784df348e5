from .average import average
from .config import Experiment
from .finish import finish, start
from .presets import PRESETS
from .resume import resume
from .run import Run
from .signals import Interrupted

__all__ = ["PRESETS", "Experiment", "Interrupted", "Run", "average", "finish", "resume", "start"]
