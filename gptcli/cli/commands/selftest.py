"""`gptcli selftest`: check known answers on this machine."""

import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli.cli.command import CommandFunction
from gptcli.cli.options import OUTPUT, Json
from gptcli.cli.render import console
from gptcli.core.options import Option
from gptcli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gptcli.diagnostics.selftest import Check

SCHEMA = "gptcli.selftest/1"


@CommandFunction
def selftest(
    quick: Annotated[
        bool, Option("Skip the book's ten tokens, which need 700 MB of memory.", OUTPUT)
    ] = False,
    json: Json = False,
) -> None:
    """Check known answers on this machine, offline, and report what deviates.

    Checked are the book's counts, gradients and tokens, files, tokenizer and random draws, and that
    a text does not depend on the others of its batch. The exit code is 1 if anything deviates.
    Without a C compiler there are no kernels; this is reported and they are not checked.
    """
    with console.waiting("loading PyTorch ..."):
        from gptcli.diagnostics.selftest import names, run
    checks = []
    for name in names(quick=quick):
        with console.waiting(f"{name} ..."):
            checks.append(run(name))
    if json:
        console.print_json(_document(checks))
    else:
        _show(checks)
    if not all(check.holds for check in checks):
        raise typer.Exit(1)


def _document(checks: "Sequence[Check]") -> dict[str, Any]:
    """What --json prints: whether all hold, each check, and the machine they ran on."""
    return {
        "schema": SCHEMA,
        "holds": all(check.holds for check in checks),
        "checks": [asdict(check) for check in checks],
        "machine": _machine(),
    }


def _machine() -> dict[str, str]:
    import torch

    from gptcli.diagnostics.machine import processor
    from gptcli.engine import library
    from gptcli.engine.library import available_threads

    reason = library.why_unavailable()
    kernels = reason or ", ".join(b.name for b in library.builds() if b.is_supported)
    return {
        "gptcli": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "kernels": kernels,
        "threads": str(available_threads()),
    }


def _show(checks: "Sequence[Check]") -> None:
    from gptcli.cli.render.table import WRONG, Report, Row
    from gptcli.engine import library

    report = Report()
    report.rows(
        [
            Row(
                ("ok" if check.holds else "DEVIATES", check.name, f"{check.seconds:.2f} s"),
                style="" if check.holds else WRONG,
            )
            for check in checks
        ],
        right=(2,),
    )
    wrong = [check for check in checks if not check.holds]
    for check in wrong:
        report.heading(check.name)
        report.pairs([("expected", check.expected), ("found", check.found)])
    report.heading("Machine")
    report.pairs(_machine().items())
    report.heading("Result")
    seconds = sum(check.seconds for check in checks)
    verdict = f"{len(wrong)} of {len(checks)} checks deviate" if wrong else "Everything holds"
    report.bullets([f"{verdict} ({seconds:.1f} s)."], WRONG if wrong else "")
    if not library.library_path().exists():
        reason = library.why_unavailable()
        report.bullets([f"PyTorch computes; the kernels were not checked: {reason}."])
