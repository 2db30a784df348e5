"""Damaged and hostile files for every parser: a clear error or a right result, and nothing else.

    python tests/fuzz.py                    10,000 inputs for each target, a table at the end
    python tests/fuzz.py idx npz -n 500     some of them
    python tests/fuzz.py idx --seed 1234    one input again, with what comes of it

Clear is a ValueError or an OSError that names the file, or the field. Anything else is a fault, as
is a result that the file cannot hold, more than 5 seconds of the processor, more than 300 MB, and
the end of the process in which the inputs of a target are read.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

SECONDS = 5
"""Of the processor, which others may be using too, for one input."""
MEMORY = 300 * 2**20
"""By which one input may raise the most memory that its process has held."""
LONGEST = 5000
"""Characters of an error's message, at most."""
PATIENCE = 120
"""Seconds without an input done, after which a process that hears no alarm is ended."""
ENOUGH = 12
"""Faults of a target after which it is left."""

Files = dict[str, bytes]
"""An input, by the names of its files."""


@dataclass(frozen=True)
class Target:
    """A parser, and what it is given.

    Attributes:
        seeds: What it must read.
        mutate: Makes an input of a random generator and the seeds.
        read: Takes the folder of the input, and checks what it made of it by assertions.
        named: Whether an error's message names what is wrong; as a rule, one of the files.
    """

    seeds: Callable[[], list[Files]]
    mutate: Callable[[Random, list[Files]], Files]
    read: Callable[[Path], None]
    named: Callable[[Files, str], bool] = lambda files, message: any(
        Path(name).name in message for name in files
    )


@dataclass
class Outcome:
    """What came of the inputs of a target."""

    inputs: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    memory: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)


class Hang(BaseException):
    """Not an Exception: a parser that catches all of those must not catch it."""


# ── One input ────────────────────────────────────────────────────────────────────────────────────


STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def held():
    """The bytes that this process holds; from here on `peak` begins anew, where the system can."""
    try:
        FORGET.write_text("5")
        return _line("VmRSS")
    except (OSError, ValueError):
        return peak()


def peak():
    """The most bytes that this process has held."""
    try:
        return _line("VmHWM")
    except (OSError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _line(name):
    _, _, rest = STATUS.read_text().partition(f"{name}:")
    return int(rest.split()[0]) * 1024


@contextmanager
def alarm(seconds):
    def ring(*_):
        raise Hang

    signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def judge(target, files, folder, seconds):
    """The kind of what comes of an input, and what is wrong with that if anything is."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    try:
        with alarm(seconds):
            target.read(folder)
    except AssertionError:
        return "wrong", f"a wrong result: {traceback.format_exc(limit=-3)}"
    except (ValueError, OSError) as error:
        # those of Python's own that say nothing of the file
        unclear = isinstance(error, UnicodeError) or not target.named(files, str(error))
        if unclear or len(str(error)) > LONGEST:
            return "unclear", f"an unclear error: {_brief(error)}"
        return type(error).__name__, None
    except Hang:
        return "hang", f"more than {seconds} s: {traceback.format_exc(limit=-4)}"
    except BaseException as error:
        return "other", f"no clear error: {_brief(error)}"
    return "right", None


def _brief(error):
    *_, frame = traceback.extract_tb(error.__traceback__)
    text = str(error) if len(str(error)) < LONGEST else f"{len(str(error))} characters"
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}: {text[:300]}"


def made(name, target, seeds, number):
    """The input of a number: the seeds themselves come first."""
    return (
        seeds[number] if number < len(seeds) else target.mutate(Random(f"{name} {number}"), seeds)
    )


# ── Many, in a process of their own ──────────────────────────────────────────────────────────────


def _work(name, target, numbers, top, at, results):
    """Judge inputs, and tell of each by its number before it is read."""
    warnings.simplefilter("ignore")
    outcome, seen = Outcome(), set[str]()
    seeds = target.seeds()
    for number in range(len(seeds)):
        # the first may load modules, for which there is no limit
        kind, why = judge(target, seeds[number], top / f"seed{number}", 0)
        assert kind == "right", f"seed {number} of {name}: {kind}, {why}"
    for number in numbers:
        at.value = number
        files = made(name, target, seeds, number)
        base, begun = held(), time.process_time()
        kind, why = judge(target, files, top / "input", SECONDS)
        seconds, memory = time.process_time() - begun, peak() - base
        shutil.rmtree(top / "input")
        outcome.slowest = max(outcome.slowest, seconds)
        outcome.memory = max(outcome.memory, memory)
        if memory > MEMORY:
            why = why or f"{memory / 2**20:.0f} MB"
        outcome.inputs += 1
        outcome.kinds[kind] += 1
        if why and why[:70] not in seen:
            seen.add(why[:70])
            outcome.faults.append((number, why))
        if len(seen) == ENOUGH:
            break
    results.put(outcome)


def place():
    """Where files cost least."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def run(name, target, numbers):
    """What comes of the inputs of these numbers, whatever becomes of the process of theirs."""
    context = multiprocessing.get_context("fork")  # torch has been loaded once
    at, results = context.Value("q", -1), context.SimpleQueue()
    top = Path(tempfile.mkdtemp(dir=place()))
    process = context.Process(target=_work, args=(name, target, numbers, top, at, results))
    process.start()
    last, since = -2, time.monotonic()
    while process.is_alive() and results.empty():
        process.join(0.05)
        if at.value != last:
            last, since = at.value, time.monotonic()
        elif time.monotonic() - since > PATIENCE:
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
    """One input again, here; its files are kept."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-{number}-"))
    files = made(name, target, target.seeds(), number)
    base = held()
    kind, why = judge(target, files, folder, SECONDS)
    print(f"{folder}\n{kind}, {(peak() - base) / 2**20:.0f} MB more\n{why or ''}")
    return int(why is not None)


def main(argv=None, targets=None):
    """The faults of all targets on standard output, and a table; 1 if there are any."""
    if targets is None:
        from fuzz_targets import TARGETS as targets  # they load torch
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="target", help=", ".join(targets))
    parser.add_argument("-n", type=int, default=10_000, help="inputs for each, 10,000 if not given")
    parser.add_argument("--seed", type=int, help="of one input, to see it again")
    given = parser.parse_args(argv)
    if unknown := set(given.names) - set(targets):
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(targets)}")
    names = given.names or list(targets)
    if given.seed is not None:
        return max(replay(name, targets[name], given.seed) for name in names)
    found = {name: run(name, targets[name], range(given.n)) for name in names}
    for name, outcome in found.items():
        for number, why in outcome.faults:
            print(f"python tests/fuzz.py {name} --seed {number}\n    {why}")
    print(table(found))
    return int(any(outcome.faults for outcome in found.values()))


def table(found: dict[str, Outcome]) -> str:
    rows = [("", "inputs", "right", "ValueError", "OSError", "faults", "slowest", "memory")]
    for name, outcome in found.items():
        kinds: Any = outcome.kinds.copy()
        right, value = kinds.pop("right", 0), kinds.pop("ValueError", 0)
        bad = sum(kinds.pop(kind, 0) for kind in ("wrong", "unclear", "hang", "other", "ended"))
        rest = sum(kinds.values())  # OSError and its kinds
        numbers = (outcome.inputs, right, value, rest, max(bad, len(outcome.faults)))
        cost = (f"{1000 * outcome.slowest:.0f} ms", f"{outcome.memory / 2**20:.0f} MB")
        rows.append((name, *(f"{number:,}" for number in numbers), *cost))
    return "\n".join("".join(f"{cell:>12}" for cell in row) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
