"""The entry point: run a command line and turn every outcome into an exit code.

0 done, 1 failed at run time, 2 usage, 3 bad input file, 4 batch with failed records,
130/143/129 interrupted, 141 the reader of stdout went away. The commands are in
`gptcli.cli.app`, which is imported only once signals and streams are in order.
"""

import gc
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress

from gptcli.core import signals

INTERRUPTED = 130


def main() -> None:
    """Run `gptcli` with the arguments of the process, and end the process."""
    signals.install()
    from gptcli.cli.render import console
    from gptcli.core.errors import GptcliError

    console.open_streams()
    if not sys.warnoptions:  # deprecations inside dependencies do not concern users
        warnings.simplefilter("ignore")
    code = run(sys.argv[1:])
    try:
        console.close_output()
    except console.ReaderGone:
        code = code or console.READER_GONE
    except GptcliError as problem:
        if not code:
            console.error(problem)
        code = code or problem.exit_code
    gc.freeze()  # no garbage collection at exit: the process ends anyway
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line → exit code. Nothing is raised; every message is on stderr."""
    from gptcli.cli.render import console
    from gptcli.core.errors import GptcliError

    console.reset()
    try:
        return _dispatch(arguments)
    except GptcliError as problem:
        console.error(problem)
        return problem.exit_code
    except SystemExit as leaving:  # ReaderGone, and whatever a dependency does
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:  # only where our own handler is not installed
        return INTERRUPTED
    except BaseException as problem:  # noqa: BLE001  # a Rust panic is no Exception
        return _unexpected(problem)


def _dispatch(arguments: Sequence[str]) -> int:
    _tidy_environment()
    from gptcli.cli.app import run_command

    return run_command(arguments)


def _unexpected(problem: BaseException) -> int:
    from gptcli.cli.render import console
    from gptcli.core.errors import RunError
    from gptcli.core.memory import is_exhausted

    if is_exhausted(problem):
        hint = "Choose a smaller model, --dtype bfloat16, or a shorter context"
        console.error(RunError("memory", "exhausted", hint))
    else:
        console.internal_error(problem)
    return 1


def _tidy_environment() -> None:
    """Correct environment variables that would crash Typer and Rich, or colour a pipe.

    Typer reads these when it is imported; both turn what looks like digits into a width.
    """
    from gptcli.cli.render import console

    width = console.width()
    if "COLUMNS" in os.environ:
        os.environ["COLUMNS"] = str(width)
    with suppress(ValueError):
        width = console.usable(int(os.environ.get("TERMINAL_WIDTH", ""), 10))
    os.environ["TERMINAL_WIDTH"] = str(width)
    if os.environ.get("FORCE_COLOR") == "0":
        del os.environ["FORCE_COLOR"]
    if not console.is_terminal(sys.stdout):
        os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"
