"""`scorefield studio`: the page over a model in the browser."""

import secrets
import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..values import import_extra
from . import options

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
MIN_TOKEN = 16


def studio(
    run: Annotated[
        Positional[Path | None],
        arg(
            metavar="[RUN]",
            help="a run's directory, a saved or converted model, or hub:OWNER/NAME; by default "
            "closed-form mixtures alone",
            help_behavior_hint="",
        ),
    ] = None,
    *,
    runs: Path = Path("runs"),
    host: str = "127.0.0.1",
    port: int = 8642,
    token: str | None = None,
    browser: bool = True,
) -> None:
    """See a score and steer its samplers in the browser.

    The page is for this machine only, and for whoever has the address that is printed. From
    another machine, forward the port: ssh -L 8642:localhost:8642 MACHINE.

    Args:
        runs: folder whose runs the page lists, and in which it trains.
        host: address or name to listen at. Anything but loopback needs --token.
        port: 0 takes any free one.
        token: secret in the address, at least 16 characters; by default a new one.
        browser: open the page in a browser.
    """
    if not 0 <= port < 65536:
        raise ValueError(f"--port {port}: give a number from 0 to 65535")
    if token is not None and (len(token) < MIN_TOKEN or not token.isascii() or not token.isalnum()):
        raise ValueError(f"--token: give at least {MIN_TOKEN} letters and digits")
    if host not in LOOPBACK_HOSTS:
        if token is None:
            raise ValueError(f"--host {host} is open to other machines: give a --token of your own")
        print(
            f"scorefield: --host {host}: whoever has the token and can reach this machine can "
            "use the studio; the connection is not encrypted",
            file=sys.stderr,
        )
    if runs.exists() and not runs.is_dir():
        raise ValueError(f"--runs {runs}: this is a file, name a folder of runs")
    for module in ("starlette", "uvicorn", "websockets"):
        import_extra(module, "studio", "the studio")
    place = None if run is None else options.find_run(run)
    from ..studio import serve

    serve(
        place, runs=runs, host=host, port=port, token=token or secrets.token_hex(16),
        open_browser=browser,
    )  # fmt: skip
