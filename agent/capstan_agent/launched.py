"""Where the launcher enters: put back what it hid, and read the name it was started by.

`DIR/run ...` is `capstan-agent run ...`; under any other name the arguments are the command line as it is.
"""

import os
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import PurePath

from capstan_agent.__main__ import main
from capstan_agent.install import FETCH

_HIDDEN = "\x01D_"


def restore(environment: MutableMapping[str, str]) -> None:
    """Give the LD_... variables their names back, for the command that the runner starts."""
    for name in [name for name in environment if name.startswith(_HIDDEN)]:
        environment["LD_" + name[len(_HIDDEN) :]] = environment.pop(name)


def command_line(argv: Sequence[str]) -> list[str]:
    """The arguments of `capstan-agent` that a launcher's argv stands for."""
    return ["run", *argv[1:]] if PurePath(argv[0]).name == "run" else list(argv[1:])


if __name__ == "__main__":
    restore(os.environ)
    sys.path.append(os.path.join(sys.prefix, FETCH))  # noqa: PTH118  (which only the agent's image has)
    sys.exit(main(command_line(sys.argv[1:])))
