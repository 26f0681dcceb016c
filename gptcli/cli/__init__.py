"""The entry point: run a command line and turn every outcome into an exit code.

0 done, 1 failed at run time, 2 usage, 3 bad input file, 4 batch with failed records, 130/143/129
interrupted, 141 the reader of stdout is gone. `gptcli.cli.app` with the commands is imported only
once signal handlers and streams are set up.
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
    """Run `gptcli` with the process's arguments and end the process."""
    signals.install()
    from gptcli.cli.render import console
    from gptcli.core.errors import GptcliError

    console.open_streams()
    if not sys.warnoptions:  # users need not see the deprecations of dependencies
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
    """Run one command line → exit code. Nothing is raised; messages go to stderr."""
    from gptcli.cli.render import console
    from gptcli.core.errors import GptcliError

    console.reset()
    try:
        return _dispatch(arguments)
    except GptcliError as problem:
        console.error(problem)
        return problem.exit_code
    except SystemExit as leaving:  # ReaderGone, or a dependency that exits
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:  # without our own signal handler
        return INTERRUPTED
    except BaseException as problem:  # noqa: BLE001  # a Rust panic is not an Exception
        return _unexpected(problem)


def _dispatch(arguments: Sequence[str]) -> int:
    _correct_environment()
    from gptcli.cli.app import run_command

    return run_command(arguments)


def _unexpected(problem: BaseException) -> int:
    from gptcli.cli.render import console
    from gptcli.core.errors import RunError
    from gptcli.core.memory import is_out_of_memory

    if is_out_of_memory(problem):
        hint = "Choose a smaller model, --dtype bfloat16, or a shorter context"
        console.error(RunError("memory", "exhausted", hint))
    else:
        console.internal_error(problem)
    return 1


def _correct_environment() -> None:
    """Correct environment variables that would crash Typer and Rich, or colour a pipe.

    Both read widths from them, Typer when it is imported, and fail on values that are no width.
    """
    from gptcli.cli.render import console

    width = console.width()
    if "COLUMNS" in os.environ:
        os.environ["COLUMNS"] = str(width)
    with suppress(ValueError):
        width = console.usable_width(int(os.environ.get("TERMINAL_WIDTH", ""), 10))
    os.environ["TERMINAL_WIDTH"] = str(width)
    if os.environ.get("FORCE_COLOR") == "0":
        del os.environ["FORCE_COLOR"]
    if not console.is_terminal(sys.stdout):
        os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"
