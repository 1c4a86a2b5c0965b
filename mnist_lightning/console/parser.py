"""The command line's parser: short flags, a help that can be read, one-line errors."""

import argparse
import difflib
import re
from typing import Any, NoReturn

from jsonargparse import DefaultHelpFormatter
from jsonargparse.typing import restricted_number_type
from lightning.pytorch.cli import LightningArgumentParser

from mnist_lightning.errors import UserError

Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])  # what NumPy's generator takes

# Options that earlier versions called otherwise, by the last part of their names
RENAMED = {
    "width": "model.ink_width",
    "gradient_clip_val": "trainer.gradient_clip_val",
    "steps_per_execution": "steps_per_execution",
    "pictures": "plots",
}

# jsonargparse's way of saying things -> ours: expected this, got that
MESSAGES = (
    (r'Parser key "([\w.]+)":', r"--\1:"),
    (
        r"Does not validate against any of the Union subtypes.*?Subtypes: \[(.*?)\]\s+Errors:.*Given value: (.*)",
        r"Expected \1. Got value: \2",
    ),
    (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),
    (r"Not of type \w+: (\S+) does not .* v>=(\S+) and v<(\S+)", r"expected from \2 to below \3, got \1; see --help"),
    (r"int, typing\.Literal\['auto'\]", "a number or auto"),
    (r", NoneType", ""),  # none is what the default is, not what anybody types
    (r"Expected an? (?:typing\.)?Literal\[(.*?)\]", r"expected one of \1"),
    (r"Expected (?:a )?(?:collections\.abc\.)?Sequence(?:\[int\])?", r"expected a list such as [256,128]"),
    (r"Expected (?:an? )?(.*?)\. Got value: (.*)", r"expected \1, got \2; see --help"),
    (r"expected (.*?)\. Got value: (.*)", r"expected \1, got \2; see --help"),
)


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
        super().__init__(*args, **kwargs, formatter_class=BriefHelp)

    def add_short_flag(self, name: str, help: str) -> None:
        """Lets ``--name`` stand for ``--trainer.name``."""
        action = self._option_string_actions[f"--trainer.{name}"]
        action.option_strings = [f"--{name}", *action.option_strings]
        action.help = help
        self._option_string_actions[f"--{name}"] = action

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        if self.formatter_class is not BriefHelp:
            return super().format_help(formatter)
        hidden = {
            action: action.help
            for action in self._actions
            if any(
                map(
                    re.compile(r"--trainer\b|--(model|data|checkpoint|plots)$|--data.mirrors").match,
                    action.option_strings[:1],
                )
            )
        }
        for action in hidden:
            action.help = argparse.SUPPRESS
        try:
            return super().format_help(formatter)
        finally:
            for action, text in hidden.items():
                action.help = text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Replaces jsonargparse's usage and message by a UserError."""
        lacking, key = (re.search(e, message) for e in (r"arguments are required: (\w+)", r'Parser key "(\S+)"'))
        if lacking and key:  # of a class that the user named
            raise UserError(f"expected --{key[1]}.{lacking[1]}, which the class needs, got none; give it") from ex
        if unknown := re.match(r"unrecognized arguments: (--[\w.]+)", message, re.IGNORECASE):
            close = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1)
            message += f"; did you mean {close[0]}?" if close else "; see --help"
        elif refused := re.search(r"does not accept option '(\w+)'|Option '(\w+)\S*' is not accepted", message):
            now = RENAMED.get(refused[1] or refused[2])
            message += f"; it is {now} now" if now else "; see --help"
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
