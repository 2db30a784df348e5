"""Wait for what another thread does."""

import time

SECONDS = 60


def wait_until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
