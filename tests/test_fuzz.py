"""A short run of `fuzz`, and that it sees what it is for; the long one is `make fuzz`."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from fuzz import Target

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src"


def _python(*args):
    """A process of its own: fuzz forks, which one with threads had better not."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *args],
        cwd=HERE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


def test_no_input_does_harm():
    code, told = _python("fuzz.py", "-n", "150")
    assert code == 0, told


# ── The harness itself ───────────────────────────────────────────────────────────────────────────


def _raises(error):
    def read(path):
        raise error

    return read


def _hangs(path):
    while True:
        with suppress(Exception):
            sum(range(1000))


def _hears_no_alarm(path):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPROF])
    time.sleep(60)


def _wrong(path):
    assert path == "right"


PARSERS = {
    "KeyError": _raises(KeyError("x")),
    "MemoryError": _raises(MemoryError()),
    "SystemExit": _raises(SystemExit()),
    "error: ValueError": _raises(ValueError("something is wrong")),
    "error: UnicodeDecodeError": _raises(UnicodeDecodeError("x.bin", b"", 0, 1, "")),
    "5001 characters": _raises(ValueError("x.bin" + "x" * 4996)),
    "a wrong result": _wrong,
    "more than 2.0 s": _hangs,
    "ended with -9": _hears_no_alarm,
    "ended with -6": lambda path: os.abort(),
    "MB": lambda path: b"x" * (400 * 2**20),
}
"""By what is to be said of them, parsers of which each does one thing that none may do."""


def _target(parse):
    def read(folder):
        if (folder / "x.bin").read_bytes() != b"sound":
            parse(folder / "x.bin")

    return Target(lambda: [{"x.bin": b"sound"}], lambda rng, seeds: {"x.bin": b"damaged"}, read)


BAD = {f"bad{i}": _target(parse) for i, parse in enumerate(PARSERS.values())}
GOOD = {
    "takes": _target(lambda path: None),
    "refuses": _target(_raises(ValueError("x.bin is damaged"))),
    "is": _target(_raises(FileNotFoundError("no x.bin"))),
}


def test_each_harm_is_seen_and_can_be_had_again():
    begin = "import sys, fuzz, test_fuzz; fuzz.SECONDS, fuzz.PATIENCE = 2.0, 5; "
    code, told = _python("-c", begin + "sys.exit(fuzz.main(['-n', '3'], test_fuzz.BAD))")
    assert code == 1
    for (name, _), what in zip(BAD.items(), PARSERS, strict=True):
        # on a busy machine one may be found slow besides, even before the harm that it does
        faults = [
            part
            for part in told.split("python tests/fuzz.py ")
            if part.startswith(f"{name} --seed ")
        ]
        assert any(what in fault for fault in faults), told
    again = "sys.exit(fuzz.main(['bad0', '--seed', '1'], test_fuzz.BAD))"
    code, told = _python("-c", begin + again)
    assert (code, "KeyError" in told) == (1, True)


def test_no_harm_is_seen_where_none_is():
    begin = "import sys, fuzz, test_fuzz; "
    code, told = _python("-c", begin + "sys.exit(fuzz.main(['-n', '5'], test_fuzz.GOOD))")
    assert code == 0, told
    rows = [line.split()[:6] for line in told.splitlines()[-3:]]
    assert rows == [
        ["takes", "5", "5", "0", "0", "0"],
        ["refuses", "5", "1", "4", "0", "0"],
        ["is", "5", "1", "0", "4", "0"],
    ]
