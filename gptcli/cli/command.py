"""Typer commands whose parameters are option dataclasses.

    @CommandFunction
    def generate(prompt: Annotated[str | None, Argument(...)], params: SamplingParams) -> None: ...

Each option field of a dataclass parameter becomes an option of the command, and the command gets
the object. Values are converted here: Typer's conversion imports pydantic, which takes a third of
the time of a quick command.
"""

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from gptcli.cli.shell_completion import completer_of
from gptcli.core.errors import GptcliError, UsageError, rename_fields, rename_fields_in_text
from gptcli.core.escape import shown
from gptcli.core.options import Argument, OptionField

_BOOLS = {"1": True, "true": True, "yes": True, "on": True}
_BOOLS |= {"0": False, "false": False, "no": False, "off": False}


class Only:
    """In `Annotated[Dataclass, Only(...)]`: only these fields are options of the command."""

    def __init__(self, *names: str) -> None:
        self.names = frozenset(names)

    def __contains__(self, name: str) -> bool:
        return name in self.names


class Without(Only):
    """In `Annotated[Dataclass, Without(...)]`: all fields but these are options of the command."""

    def __contains__(self, name: str) -> bool:
        return name not in self.names


@dataclass(frozen=True, slots=True)
class _Group:
    """A dataclass, or the command itself: its option fields and nested dataclasses."""

    cls: Callable[..., Any]
    parts: "dict[str, OptionField | _Group]"

    def options(self) -> Iterator[OptionField]:
        """All option fields, also of nested dataclasses, in the order of the help."""
        for part in self.parts.values():
            if isinstance(part, _Group):
                yield from part.options()
            else:
                yield part

    def build(self, values: Mapping[str, Any], **extra: Any) -> Any:
        """Make the object; `values` are keyed by the names of the command's parameters."""
        built = {
            name: part.build(values) if isinstance(part, _Group) else values[_key(part)]
            for name, part in self.parts.items()
        }
        return self.cls(**built, **extra)


class CommandFunction:
    """Decorator: shows a function to Typer with one parameter for each option."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._group = _Group(function, {})
        self._context: str | None = None
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            if parameter.annotation is typer.Context:
                self._context = parameter.name
                continue
            default = MISSING if parameter.default is parameter.empty else parameter.default
            part = _part(parameter.name, parameter.annotation, default)
            assert part is not None, f"{parameter.name} of {function.__name__} is no option"
            self._group.parts[parameter.name] = part
        self.fields = {_key(field): field for field in self._group.options()}
        assert len(self.fields) == len(list(self._group.options())), "an option declared twice"
        self.__doc__, self.__name__ = function.__doc__, function.__name__
        kind = inspect.Parameter.KEYWORD_ONLY
        context = inspect.Parameter("_context", kind, annotation=typer.Context)
        names = {field.name: option_name(field) for field in self.fields.values()}
        parameters = [
            _typer_parameter(name, field, rename_fields_in_text(field.option.help, names))
            for name, field in self.fields.items()
        ]
        self.__signature__ = inspect.Signature([context, *parameters])
        self.__annotations__: dict[str, Any] = {}

    def __call__(self, _context: typer.Context, **given: Any) -> Any:
        """Run the function with the values that Typer parsed.

        Raises:
            GptcliError: the function's own, with fields spelled as options.
        """
        values = {
            name: tuple(given[name] or ()) if field.is_list else given[name]
            for name, field in self.fields.items()
        }
        extra = {self._context: _context} if self._context is not None else {}
        try:
            return self._group.build(values, **extra)
        except GptcliError as problem:
            raise rename_fields(problem, self.spelling(_context)) from None

    def spelling(self, context: typer.Context) -> dict[str, str]:
        """Each field's name for the user: its option, or the environment variable that set it."""
        return {f.name: _spelled_here(name, f, context) for name, f in self.fields.items()}

    def adjust(self, command: Any) -> None:
        """Make the Typer command of this function convert values as the fields say."""
        for parameter in command.params:
            if (field := self.fields.get(parameter.name)) is not None:
                _convert_with(parameter, field)
                if isinstance(field.option, Argument):
                    parameter.display_type_rich = lambda ctx: None  # `<list[str]>`


def was_given(context: typer.Context, name: str) -> bool:
    """Whether an option is set on the command line or in the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in {"COMMANDLINE", "ENVIRONMENT"}


def option_name(field: OptionField) -> str:
    """`--top-k` for the field `top_k`; for an argument its metavar."""
    if isinstance(field.option, Argument):
        return str(field.option.metavar or field.name.upper()).partition(" ")[0].rstrip(".")
    return "--" + (field.option.name or field.name).replace("_", "-")


def _part(name: str, annotation: Any, default: Any) -> "OptionField | _Group | None":
    plain, *marks = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    if not (isinstance(plain, type) and is_dataclass(plain)):
        return OptionField.of(name, annotation, default)
    chosen = next((mark for mark in marks if isinstance(mark, Only)), Without())
    hints = get_type_hints(plain, include_extras=True)
    parts = {}
    for field in fields(plain):
        value = field.default if field.default_factory is MISSING else field.default_factory()
        part = _part(field.name, hints[field.name], value)
        if part is not None and field.name in chosen:
            parts[field.name] = part
    return _Group(plain, parts) if parts else None


def _key(field: OptionField) -> str:
    """The name of the command's parameter, which also ends the environment variable."""
    return (field.option.name or field.name).replace("-", "_")


def _typer_parameter(name: str, field: OptionField, help: str) -> inspect.Parameter:
    option = field.option
    common: dict[str, Any] = {
        "help": help,
        "metavar": option.metavar,
        "rich_help_panel": option.panel,
        "show_default": option.default or True,
        "show_envvar": False,
        "autocompletion": _completer(field),
    }
    if isinstance(option, Argument):
        common["show_default"] = False
        info = typer.Argument(**common)
    else:
        long = option_name(field)
        if field.kind is bool and field.default is True:
            long += "/--no-" + long.removeprefix("--")
        short = (option.short,) if isinstance(option.short, str) else option.short
        info = typer.Option(long, *filter(None, short), **common)
    default = field.default
    if default is MISSING:
        default = inspect.Parameter.empty
    elif field.is_list:
        default = None
    kind = inspect.Parameter.KEYWORD_ONLY
    annotation: Any = Annotated[_typer_type(field), info]
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _completer(field: OptionField) -> Any:
    complete = completer_of(field)
    if complete is None:
        return None

    def typer_completion(incomplete: str) -> Any:  # Typer reads the signature
        return complete(incomplete)

    return typer_completion


def _typer_type(field: OptionField) -> Any:
    """The type that Typer makes help and completion from; `_convert_with` converts values."""
    kind: Any = str if field.kind is object else field.kind
    if field.choices:
        kind = Literal.__getitem__(field.choices)
    if field.is_list:
        kind = types.GenericAlias(list, (kind,))
    return kind | None if field.is_list or field.default is None else kind


def _spelled_here(name: str, field: OptionField, context: typer.Context) -> str:
    source = context.get_parameter_source(name)
    if source is not None and source.name == "ENVIRONMENT":
        return variable(context, name)
    return option_name(field)


def variable(context: typer.Context, name: str) -> str:
    """The environment variable of one of the running command's options."""
    return f"{context.auto_envvar_prefix}_{name.upper()}"


def _convert_with(parameter: Any, field: OptionField) -> None:
    def process_value(context: typer.Context, value: Any) -> Any:
        if context.resilient_parsing:  # a shell completes: convert and refuse nothing
            return value
        if value is None or value == ():
            if parameter.required:
                hint = f'See "{context.command_path} --help"'
                raise UsageError(option_name(field), "is missing", hint)
            return value
        items = value if field.is_list and not isinstance(value, str) else [value]
        try:
            converted = tuple(_converted(field, item) for item in items)
            result = converted if field.is_list else converted[0]
            field.check(result)
        except UsageError as problem:
            names = {field.name: _spelled_here(parameter.name, field, context)}
            raise rename_fields(problem, names) from None
        return result

    parameter.process_value = process_value
    parameter.split_envvar_value = str.splitlines  # a value may hold blanks


def _converted(field: OptionField, given: Any) -> Any:
    """Convert the text of an option to the field's type.

    Raises:
        UsageError: it cannot be converted.
    """
    if not isinstance(given, str):  # a flag, or a default
        return given
    if field.option.parse is not None:
        return field.option.parse(given)
    try:
        return _KINDS[field.kind](given)
    except (KeyError, ValueError):
        problem = f'must be {field.words}, got "{shown(given, 60)}"'
        raise UsageError(field.name, problem) from None


_KINDS: dict[type, Callable[[str], Any]] = {
    bool: lambda text: _BOOLS[text.strip().lower()],
    int: int,
    float: float,
    str: str,
    Path: Path,
}
