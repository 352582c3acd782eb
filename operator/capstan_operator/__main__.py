"""The command line: `capstan-operator run` and `capstan-operator crds`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

import yaml
from kubernetes.aio.config import ConfigException

from capstan_operator.api.crd import crds
from capstan_operator.core.kinds import KINDS
from capstan_operator.shell import logs
from capstan_operator.shell.options import Options, options, parser
from capstan_operator.shell.run import run

logger = logging.getLogger(__name__)


async def _run(chosen: Options) -> bool:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return await run(chosen, KINDS, stop)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parsed = parser().parse_args(arguments)
    if parsed.command == "crds":
        yaml.safe_dump_all(crds(), sys.stdout, sort_keys=False, width=110)
        return 0
    chosen = options(parsed)
    logs.configure(chosen.log_level, chosen.log_format)
    try:
        good = asyncio.run(_run(chosen))
    except (ConfigException, OSError) as error:  # no cluster to talk to; the port is taken
        logger.critical("cannot start: %s", error)
        good = False
    logger.info("stopped" if good else "failed")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
