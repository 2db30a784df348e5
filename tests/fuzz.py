"""Damaged and hostile files for every parser: each gives a clear error or a right result.

    python tests/fuzz.py                    10,000 inputs for each target, and a table
    python tests/fuzz.py idx npz -n 500     some targets
    python tests/fuzz.py idx --seed 1234    one input again, with its result

A clear error is a ValueError or an OSError that names the file or the field. Faults are any other
error, a result that the file cannot hold, more than 300 MB of memory (measured in Linux only), an
input without end, and the end of the process.
"""

import argparse
import faulthandler
import multiprocessing
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

MEMORY_BYTES = 300 * 2**20
"""By which one input may raise the peak memory of its process."""
MESSAGE_LENGTH = 5000
WATCHDOG_SECONDS = 300
"""For one input, after which the process is ended; no sound input takes a second."""
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
    """Results of the inputs of a target: how many of each kind, and faults by number."""

    kinds: Counter[str] = field(default_factory=Counter)
    memory: int = 0
    faults: dict[int, str] = field(default_factory=dict)


# ── One input ────────────────────────────────────────────────────────────────────────────────────


def peak(reset=False):
    """Largest number of bytes that this process has held since the last reset; 0 if unknown."""
    if reset:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    with suppress(OSError, IndexError):
        _, _, rest = Path("/proc/self/status").read_text().partition("VmHWM:")
        return int(rest.split()[0]) * 1024
    return 0


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
        return "ValueError" if isinstance(error, ValueError) else "OSError", None
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
    outcome, seeds = Outcome(), target.seeds()
    for number, files in enumerate(seeds):  # the first may load modules, so memory has no limit
        kind, why = judge(target, files, top / f"seed{number}")
        assert kind == "right", f"seed {number} of {name}: {kind}, {why}"
    for at.value in numbers:
        faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True)
        files = make_input(name, target, seeds, at.value)
        base = peak(reset=True)
        kind, why = judge(target, files, top / "input")
        memory = peak() - base
        shutil.rmtree(top / "input")
        outcome.memory = max(outcome.memory, memory)
        if memory > MEMORY_BYTES:
            why = why or f"{memory / 2**20:.0f} MB"
        outcome.kinds[kind if why is None else "faults"] += 1
        if why and all(why[:70] != other[:70] for other in outcome.faults.values()):
            outcome.faults[at.value] = why
        if len(outcome.faults) == MAX_FAULTS:
            break
    results.send(outcome)


def run(name, target, numbers):
    """The outcome of the inputs of these numbers, even if their process ends."""
    context = multiprocessing.get_context("fork")  # torch is loaded once
    at, (receiver, sender) = context.Value("q", -1), context.Pipe(duplex=False)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as top:
        arguments = name, target, numbers, Path(top), at, sender
        process = context.Process(target=_work, args=arguments)
        process.start()
        sender.close()  # the child has the only one, so that its end ends the pipe
        try:
            outcome = receiver.recv()
        except EOFError:
            outcome = None
        process.join()
    why = f"the process ended with {process.exitcode}"
    return outcome or Outcome(Counter(faults=1), faults={at.value: why})


def replay(name, target, number):
    """Read one input again in this process, and keep its files."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-{number}-"))
    files, base = make_input(name, target, target.seeds(), number), peak(reset=True)
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
        for number, why in outcome.faults.items():
            print(f"python tests/fuzz.py {name} --seed {number}\n    {why}")
    kinds = ("right", "ValueError", "OSError", "faults")
    print("".join(f"{cell:>12}" for cell in ("", "inputs", *kinds, "memory")))
    for name, outcome in outcomes.items():
        counts = [outcome.kinds.total(), *(outcome.kinds[kind] for kind in kinds)]
        cells = [name, *(f"{count:,}" for count in counts), f"{outcome.memory / 2**20:.0f} MB"]
        print("".join(f"{cell:>12}" for cell in cells))
    return int(any(outcome.faults for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
