"""Damaged and hostile files for every parser: each gives a clear error or a right result.

    python tests/fuzz.py                    10,000 inputs for each target, and a table
    python tests/fuzz.py idx npz -n 500     some targets
    python tests/fuzz.py idx --seed 1234    one input again, with its result

A clear error is a ValueError or an OSError that names the file or the field. Faults are any other
error, a result that the file cannot hold, more than 300 MB of memory, an input without end, and the
end of the process. Processor times are shown and not judged.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

MEMORY_BYTES = 300 * 2**20
"""By which one input may raise the peak memory of its process."""
MESSAGE_LENGTH = 5000
WATCHDOG_SECONDS = 300
"""Without an input done, after which the process is ended; no sound input takes a second."""
MAX_FAULTS = 12
"""Number of faults of a target after which it is left."""

Files = dict[str, bytes]
"""An input, by the names of its files."""


@dataclass(frozen=True)
class Target:
    """A parser and its inputs.

    Attributes:
        seeds: Inputs that it must read.
        mutate: Makes an input from a random generator and the seeds.
        read: Reads the folder of an input, and checks the result by assertions.
        named: Whether an error's message names what is wrong; by default, one of the files.
    """

    seeds: Callable[[], list[Files]]
    mutate: Callable[[Random, list[Files]], Files]
    read: Callable[[Path], None]
    named: Callable[[Files, str], bool] = lambda files, message: any(
        Path(name).name in message for name in files
    )


@dataclass
class Outcome:
    """Results of the inputs of a target."""

    inputs: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    memory: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)


# ── One input ────────────────────────────────────────────────────────────────────────────────────


def resident():
    """Bytes that this process holds now; resets `peak` where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except (OSError, ValueError):
        return peak()


def peak():
    """Largest number of bytes that this process has held."""
    try:
        return _status("VmHWM")
    except (OSError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(name):
    _, _, rest = Path("/proc/self/status").read_text().partition(f"{name}:")
    return int(rest.split()[0]) * 1024


def judge(target, files, folder):
    """The kind of the result of an input, and what is wrong with it if anything is."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    try:
        target.read(folder)
    except AssertionError:
        return "wrong", f"a wrong result: {traceback.format_exc(limit=-3)}"
    except (ValueError, OSError) as error:
        # a UnicodeError is Python's own and says nothing of the file
        unclear = isinstance(error, UnicodeError) or not target.named(files, str(error))
        if unclear or len(str(error)) > MESSAGE_LENGTH:
            return "unclear", f"an unclear error: {_brief(error)}"
        return type(error).__name__, None
    except BaseException as error:
        return "other", f"no clear error: {_brief(error)}"
    return "right", None


def _brief(error):
    *_, frame = traceback.extract_tb(error.__traceback__)
    text = str(error) if len(str(error)) < MESSAGE_LENGTH else f"{len(str(error))} characters"
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}: {text[:300]}"


def make_input(name, target, seeds, number):
    """The input of a number; the first are the seeds."""
    if number < len(seeds):
        return seeds[number]
    return target.mutate(Random(f"{name} {number}"), seeds)


# ── Many, in a process of their own ──────────────────────────────────────────────────────────────


def _work(name, target, numbers, top, at, results):
    """Judge inputs; publish the number of each before it is read."""
    warnings.simplefilter("ignore")
    outcome, faults = Outcome(), set[str]()
    seeds = target.seeds()
    for number, files in enumerate(seeds):  # the first may load modules, so memory has no limit
        kind, why = judge(target, files, top / f"seed{number}")
        assert kind == "right", f"seed {number} of {name}: {kind}, {why}"
    for number in numbers:
        at.value = number
        files = make_input(name, target, seeds, number)
        base, start = resident(), time.process_time()
        kind, why = judge(target, files, top / "input")
        outcome.slowest = max(outcome.slowest, time.process_time() - start)
        memory = peak() - base
        shutil.rmtree(top / "input")
        outcome.memory = max(outcome.memory, memory)
        if memory > MEMORY_BYTES:
            why = why or f"{memory / 2**20:.0f} MB"
        outcome.inputs += 1
        outcome.kinds[kind] += 1
        if why and why[:70] not in faults:
            faults.add(why[:70])
            outcome.faults.append((number, why))
        if len(faults) == MAX_FAULTS:
            break
    results.put(outcome)


def run(name, target, numbers):
    """The outcome of the inputs of these numbers, even if their process ends."""
    context = multiprocessing.get_context("fork")  # torch is loaded once
    at, results = context.Value("q", -1), context.SimpleQueue()
    top = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    process = context.Process(target=_work, args=(name, target, numbers, top, at, results))
    process.start()
    last, since = -2, time.monotonic()
    while process.is_alive() and results.empty():
        process.join(0.05)
        if at.value != last:
            last, since = at.value, time.monotonic()
        elif time.monotonic() - since > WATCHDOG_SECONDS:
            process.kill()
            process.join()
    shutil.rmtree(top)
    if not results.empty():
        outcome = results.get()
        process.join()
        return outcome
    why = f"the process ended with {process.exitcode}"
    return Outcome(max(0, at.value), Counter(ended=1), faults=[(at.value, why)])


def replay(name, target, number):
    """Read one input again in this process, and keep its files."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-{number}-"))
    files = make_input(name, target, target.seeds(), number)
    base = resident()
    kind, why = judge(target, files, folder)
    print(f"{folder}\n{kind}, {(peak() - base) / 2**20:.0f} MB more\n{why or ''}")
    return int(why is not None)


def main(argv=None, targets=None):
    """Print the faults of all targets and a table; return 1 if there are any faults."""
    if targets is None:
        from fuzz_targets import TARGETS as targets  # they load torch
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="target", help=", ".join(targets))
    parser.add_argument("-n", type=int, default=10_000, help="inputs for each, by default 10,000")
    parser.add_argument("--seed", type=int, help="number of one input, to see it again")
    options = parser.parse_args(argv)
    if unknown := set(options.names) - set(targets):
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(targets)}")
    names = options.names or list(targets)
    if options.seed is not None:
        return max(replay(name, targets[name], options.seed) for name in names)
    outcomes = {name: run(name, targets[name], range(options.n)) for name in names}
    for name, outcome in outcomes.items():
        for number, why in outcome.faults:
            print(f"python tests/fuzz.py {name} --seed {number}\n    {why}")
    print(table(outcomes))
    return int(any(outcome.faults for outcome in outcomes.values()))


def table(outcomes: dict[str, Outcome]) -> str:
    rows = [("", "inputs", "right", "ValueError", "OSError", "faults", "slowest", "memory")]
    for name, outcome in outcomes.items():
        kinds = outcome.kinds.copy()
        right, value = kinds.pop("right", 0), kinds.pop("ValueError", 0)
        bad = sum(kinds.pop(kind, 0) for kind in ("wrong", "unclear", "other", "ended"))
        rest = sum(kinds.values())  # OSError and its subclasses
        numbers = (outcome.inputs, right, value, rest, max(bad, len(outcome.faults)))
        cost = (f"{1000 * outcome.slowest:.0f} ms", f"{outcome.memory / 2**20:.0f} MB")
        rows.append((name, *(f"{number:,}" for number in numbers), *cost))
    return "\n".join("".join(f"{cell:>12}" for cell in row) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
