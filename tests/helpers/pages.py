"""The console blocks of README.md and docs/*.md: parse them, run them, compare, rewrite.

`python tests/helpers/pages.py [PAGE...]` runs every block and puts what it printed into the page.
Where a block says `...`, anything may stand, and it is left as it is.
"""

import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
SHELL = re.compile(r"^```(?:sh|cron)\n(.*?)^```$", re.M | re.S)
BLOCK = re.compile(r"((?:<!-- needs: [^\n]* -->\n+)?)^```console\n(.*?)^```$", re.M | re.S)
END = "\x1e"  # what stands between the outputs of two commands


@dataclass(frozen=True)
class Command:
    """A command line of a block, and what the page says it prints."""

    line: str
    output: str

    def prints(self, actual: str) -> bool:
        """Whether `output` describes what was printed.

        A line `...` stands for any lines, `...` in a line for anything in it, and a number may be
        off by one in its last decimal place: processors round differently.
        """
        parts = re.split(r"(^\.{3}\n|\.{3}|\d+\.\d+)", self.output, flags=re.M)
        numbers = parts[1::2]
        for at in range(1, len(parts), 2):
            decimals = len(parts[at].partition(".")[2])
            any_text = {"...\n": "((?s:.*))", "...": "(.*)"}
            parts[at] = any_text.get(parts[at], rf"(\d+\.\d{{{decimals}}})")
        parts[::2] = map(re.escape, parts[::2])
        found = re.fullmatch("".join(parts), actual)
        return found is not None and all(map(near, numbers, found.groups()))


def near(expected: str, actual: str) -> bool:
    """Alike in the last place, or as far apart as processors are: an error of 1e-5 in a logit of
    about 20, which float32 sums in another order make, is one of 1e-5 of a probability.
    """
    if expected.startswith("."):
        return True
    last_place = 0.1 ** len(expected.partition(".")[2])
    return math.isclose(float(expected), float(actual), rel_tol=1e-5, abs_tol=1.01 * last_place)


@dataclass(frozen=True)
class Block:
    """Commands that share a folder. `needs` names what not every machine has."""

    needs: frozenset[str]
    commands: tuple[Command, ...]
    start: int

    @property
    def name(self) -> str:
        return self.commands[0].line

    def problem(self, results: list[tuple[int, str]]) -> str:
        """What went wrong that the block does not say: it asks for the code of what may fail."""
        asked = [following.line == "echo $?" for following in self.commands[1:]] + [False]
        for command, (code, output), is_asked in zip(self.commands, results, asked, strict=True):
            if code and not is_asked:
                return f"exit code {code}\n$ {command.line}\n{output}"
        return ""


def parse(text: str) -> list[Block]:
    blocks = []
    for match in BLOCK.finditer(text):
        needs = set(re.findall(r"\w[\w-]*", match[1].removeprefix("<!-- needs:")))
        needs |= {"jq"} if re.search(r"\bjq\b", match[2]) else set()
        parts = re.split(r"^\$ ((?:[^\n]*\\\n)*[^\n]*)\n", match[2], flags=re.M)[1:]
        pairs = zip(parts[::2], parts[1::2], strict=True)
        commands = tuple(Command(line, output) for line, output in pairs)
        blocks.append(Block(frozenset(needs), commands, match.start(2)))
    return blocks


def invocations(text: str) -> list[list[str]]:
    """The arguments of every gptcli command in a page's `sh` blocks, which are not run."""
    found = []
    for block in SHELL.findall(text):
        for line in re.sub(r"\$\([^)]*\)|\$\w+", "1", block).replace("\\\n", " ").splitlines():
            words = shlex.shlex(line, posix=True, punctuation_chars=True)
            words.whitespace_split = True
            arguments: list[str] | None = None
            for word in words:
                if word == "gptcli" and arguments is None:
                    arguments = []
                elif set(word) <= set("();<>|&"):
                    found += [arguments] if arguments is not None else []
                    arguments = None
                elif arguments is not None:
                    arguments.append(word)
            found += [arguments] if arguments is not None else []
    return [arguments for arguments in found if arguments]


def run(block: Block, folder: Path, environment: dict[str, str]) -> list[tuple[int, str]]:
    """Run a block's commands in one shell in `folder` → their exit codes and outputs."""
    (folder / "configs").symlink_to(ROOT / "configs")
    command = folder / ".bin" / "gptcli"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gptcli "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    script = "".join(
        f"{each.line}\ncode=$?; printf '{END}%d{END}' $code; (exit $code)\n"
        for each in block.commands
    )
    done = subprocess.run(
        ["bash", "-c", script],
        check=False,
        cwd=folder,
        env=os.environ | clean(folder, command.parent) | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=100,
    )
    parts = done.stdout.decode("utf-8").split(END)
    return [(int(code), output) for output, code in zip(parts[::2], parts[1::2], strict=False)]


def clean(folder: Path, commands: Path) -> dict[str, str]:
    """A user's environment: nothing downloaded yet, no network, 80 columns."""
    package = find_spec("gptcli")
    home = Path(package.origin).parent.parent if package and package.origin else ROOT
    return {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(home),
        "COLUMNS": "80",
        "HF_HOME": str(folder / ".huggingface"),
        "HF_HUB_OFFLINE": "1",
    }


def missing(needs: frozenset[str]) -> set[str]:
    """What of a block's needs this machine lacks; `gpt2-bpe` is for the caller to see to."""
    here = {
        "stories": (ROOT / "gptcli" / "data" / "stories" / "model.safetensors").is_file(),
        "gpt2-bpe": True,
        "jq": shutil.which("jq") is not None,
    }
    return {need for need in needs if not here[need]}


def renewed(text: str) -> str:
    """A page with outputs as they are today."""
    for block in reversed(parse(text)):
        if missing(block.needs):
            continue
        with TemporaryDirectory() as folder:
            results = run(block, Path(folder), {})
        if problem := block.problem(results):
            sys.exit(problem)
        shown = "".join(
            f"$ {command.line}\n{command.output if command.prints(output) else output}"
            for command, (_, output) in zip(block.commands, results, strict=True)
        )
        end = text.index("```\n", block.start)
        text = text[: block.start] + shown + text[end:]
    return text


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]) if sys.argv[1:] else PAGES:
        page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")
