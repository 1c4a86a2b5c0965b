"""The command line's parser: short flags, a help that can be read, one-line errors."""

import argparse
import re
import sys
from collections.abc import Sequence
from enum import Enum
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse import DefaultHelpFormatter, Namespace
from jsonargparse.typing import register_type, restricted_number_type
from lightning.pytorch.cli import LightningArgumentParser

from mnist_lightning.console.classes import class_refused, file_named
from mnist_lightning.console.hints import advice, lacking
from mnist_lightning.errors import UserError


def _values(found: re.Match[str]) -> str:
    """The values of one Literal or several, each once."""
    listed = ", ".join(re.findall(r"Literal\[(.*?)\]", found[0])).replace("'", "").split(", ")
    return f"one of {', '.join(dict.fromkeys(listed))}"


Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])  # what NumPy's generator takes
# What a callback's argument may be by default, to be written into config.yaml and read
register_type(torch.device, deserializer_exceptions=RuntimeError)
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))

# jsonargparse's way of saying things -> ours: expected this, got that
MESSAGES = (
    (r'Parser key "([\w.]+)":', r"--\1:"),
    (
        r"Does not validate against any of the Union subtypes.*?Subtypes: \[(.*?)\]\s+Errors:.*Given value: (.*)",
        r"Expected \1. Got value: \2",
    ),
    (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),
    (r"Not of type \w+: (\S+) does not .* v>=(\S+) and v<(\S+)", r"expected from \2 to below \3, got \1; see --help"),
    (r"argument data\.\w+ --> (\S+): .*", r"expected no --\1, which is as the data is; leave it out"),
    (r"int, typing\.Literal\['auto'\]", "a number or auto"),
    (r", NoneType", ""),  # none is what the default is, not what anybody types
    (r"(?:typing\.)?Literal\[.*?\](?:, (?:typing\.)?Literal\[.*?\])*", _values),
    (r" 16-true,", ""),  # which training/options.py refuses
    (
        r"Expected (?:a )?(?:collections\.abc\.)?Sequence(?:\[int\])?\. Got value: ([\d,]+)",
        r"expected a list: [\1], got \1",
    ),
    (r"Expected (?:a )?(?:collections\.abc\.)?Sequence(?:\[int\])?", r"expected a list such as [256,128]"),
    (
        r'Problems parsing config: (.*?)\s+in "<unicode string>", (line \d+).*',
        r"expected options in YAML, but \2 is none: \1",
    ),
    (r"Unexpected config: .*", "expected options in YAML, got something else"),
    (r"Path is not a file: '(.*)'", r"expected a file, such as \1/config.yaml, got a folder"),
    (r"Expected (?:an? )?(.*?)\. Got value: (.*)", r"expected \1, got \2; see --help"),
    (r"expected (.*?)\. Got value: (.*)", r"expected \1, got \2; see --help"),
)

HIDDEN = re.compile(r"--trainer\b|--data.mirrors|.* --> ")  # from --help; --help_all shows them


class BriefHelp(DefaultHelpFormatter):
    """One spelling of each option, and its default without its Python type."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        metavar = self._format_args(action, self._get_default_metavar_for_optional(action))
        name = next((name for name in action.option_strings if name.startswith("--")), "")
        return " ".join([*([name] if name else []), *([metavar] if action.nargs != 0 else [])])

    def _get_help_string(self, action: argparse.Action) -> str:
        has_default = action.default not in (None, argparse.SUPPRESS)
        return f"{action.help} (default: %(default)s)" if has_default else action.help or ""


class Parser(LightningArgumentParser):
    """Shows the options of the experiment with --help, and those of the whole Trainer with --help_all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, formatter_class=BriefHelp, allow_abbrev=False)

    def add_lightning_class_args(self, lightning_class: Any, *args: Any, **kwargs: Any) -> Any:
        """Has limits of the Trainer take 1 for one batch and 1.0 for all, whichever spelling ``typing`` met first.

        It gives everybody that one. With PyTorch 2.11 it is Fabric's ``Union[float, int]``, and jsonargparse tries
        types in their order.
        """
        hints = lightning_class.__init__.__annotations__
        hints.update({name: int | float | None for name, hint in hints.items() if hint == int | float | None})
        return super().add_lightning_class_args(lightning_class, *args, **kwargs)

    def add_class_arguments(self, theclass: Any, nested_key: str | None = None, *args: Any, **options: Any) -> Any:
        """Leaves out ``--model FILE``, jsonargparse's for all of a class: who types --model means another option."""
        added = super().add_class_arguments(theclass, nested_key, *args, **options)
        if whole := self._option_string_actions.pop(f"--{nested_key}", None):
            whole.help = argparse.SUPPRESS
        return added

    def add_short_flag(self, name: str, help: str) -> None:
        """Lets ``--name`` stand for ``--trainer.name``."""
        action = self._option_string_actions[f"--trainer.{name}"]
        action.option_strings = [f"--{name}", *action.option_strings]
        action.help = help
        self._option_string_actions[f"--{name}"] = action

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        if self.formatter_class is not BriefHelp:
            return super().format_help(formatter)
        hidden = {each: each.help for each in self._actions if HIDDEN.match("".join(each.option_strings[:1]))}
        for action in hidden:
            action.help = argparse.SUPPRESS
        try:
            return super().format_help(formatter)
        finally:
            for action, text in hidden.items():
                action.help = text

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *more: Any, **options: Any
    ) -> Namespace:
        """Refuses a name that no configuration, page or curve could hold, and a file where a class is meant."""
        words = sys.argv[1:] if args is None else args
        for word in words:
            if any("\ud800" <= character <= "\udfff" for character in word):  # bytes that are no UTF-8
                raise UserError(f"expected a name in UTF-8, got {word!r}; rename it")
        if mistaken := file_named(words):
            raise UserError(mistaken)
        return super().parse_args(args, *more, **options)

    def parse_path(self, cfg_path: Any, *more: Any, **options: Any) -> Namespace:
        """Names the file in which something is wrong."""
        try:
            parsed: Namespace = super().parse_path(cfg_path, *more, **options)
            return parsed
        except ValueError as error:  # a UserError, or it is not UTF-8
            raise UserError(f"{cfg_path}: {error}") from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Replaces jsonargparse's usage and message by a UserError."""
        message = class_refused(message) or message
        absent = re.search(r"arguments are required: (.+)", message)
        if absent and any(action.dest in absent[1] for action in self._actions if not action.option_strings):
            flags = {action.dest: f"--{action.dest} " for action in self._actions if action.option_strings}
            names = [f"{flags.get(name, '')}{name.upper()}" for name in absent[1].split(", ")]
            raise UserError(lacking(names, self.prog)) from ex
        if absent:
            helps = {action.dest: action.help or "" for action in self._actions}
            given = [f"--{name} ({helps[name].rstrip('.').lower()})" for name in absent[1].split(", ")]
            message = f"expected {' and '.join(given)}, got none; give that"
        if alone := re.match(r"argument ([^\s/:]+)\S*: expected one argument", message):
            example = ", such as true" if "bool" in str(vars(self._option_string_actions[alone[1]])) else ""
            message = f"{alone[1]}: expected a value{example}, got none; see --help"
        unknown = re.match(
            r"unrecognized arguments: ([^\s=]+)|.*does not accept option '(\w+)'|Option '(\w+)\S*' is not accepted",
            message,
            re.IGNORECASE,
        )
        if unknown:
            known = self._option_string_actions
            in_file = advice(f"--{unknown[2] or unknown[3]}", known).replace("mean --", "mean ")  # where no dashes are
            message += advice(unknown[1], known) if unknown[1] else in_file
        for pattern, plain in MESSAGES:
            message = re.sub(pattern, plain, message, flags=re.DOTALL)
        raise UserError(message) from ex


class HelpAll(argparse.Action):
    """Prints the help with nothing left out."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "nargs": 0, "default": argparse.SUPPRESS})

    def __call__(self, parser: Any, *_: Any) -> None:
        parser.formatter_class = DefaultHelpFormatter
        parser.print_help()
        parser.exit()
