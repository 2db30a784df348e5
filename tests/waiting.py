"""Wait for what another thread does."""

import time

SECONDS = 300
"""No test asserts a time; this is for what never comes."""


def wait_until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def wait_for_address(page):
    """Wait until a page of the studio has its state in its address, which it writes so often."""
    page.evaluate("() => new Promise((resolve) => setTimeout(resolve, 250))")
