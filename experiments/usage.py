"""Help on a study: its fields, how their values are written, and common options."""

import ast
import re
import runpy
from fractions import Fraction
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments import studies
from experiments.checks import ConfigError

HELP = {"-h", "--help"}


def help_on(argv: list[str]) -> str:
    """Help on the experiment of ``--config=FILE.py:VARIANTS``; empty without that.

    Raises:
        ConfigError: for a wrong variant, or a file that cannot be read.
    """
    given = [arg for arg in argv if re.match("--?config=", arg)]
    if not given:
        return ""
    file, _, variants = given[-1].partition("=")[2].partition(":")
    return page(Path(file), variants)


def page(file: Path, variants: str = "") -> str:
    """What an experiment is, its fields and the common options.

    Args:
        file: the configuration.
        variants: of it, separated by commas.

    Raises:
        ConfigError: for a wrong variant, or a file that cannot be read.
    """
    try:
        module = runpy.run_path(str(file))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    if "get_config" not in module:
        raise ConfigError(f"{file} is no configuration: it has no get_config")
    config = module["get_config"](*([variants] if variants else []))
    rows = table(config)
    fields = [_FIELDS, "\n".join(rows), _VALUES] if rows else []
    return "\n\n".join([(module["__doc__"] or "").strip(), *fields, _OPTIONS])


_FIELDS = "Fields with their defaults, which --config.FIELD=VALUE changes:"
_VALUES = """\
Numbers that need not be whole may be fractions, such as 8/255. In a shell, brackets
need quotes: '--config.FIELD=(2/255,4/255)'."""
_OPTIONS = """\
Options:

  --workdir=DIRECTORY  where to write, by default runs/ and a name made from the fields;
                       run again, it goes on there, or shows the results

Exit status: 0 done, 1 the loss diverged, 2 wrong input, 130 and 143 stopped by Ctrl-C
and by SIGTERM."""


def table(config: ConfigDict) -> list[str]:
    """A line for each field: name, value and meaning, in the order of declaration."""
    fields = studies.of(config).all_fields()
    values = [written(config[name]) for name in fields]
    widths = [max(map(len, column), default=0) for column in ([*fields], values)]
    return [
        f"  {name:{widths[0]}}  {value:{widths[1]}}  {field.meaning}".rstrip()
        for (name, field), value in zip(fields.items(), values, strict=True)
    ]


def written(value: Any) -> str:
    """A value as it is typed after ``--config.FIELD=``, but for long tuples."""
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str):
        return value or "''"
    if isinstance(value, tuple):
        return f"({_items(value)})"
    return str(value)


def _number(value: float) -> str:
    """Its digits if they are few, else as radii are, n/255, or as another fraction."""
    digits = repr(value)
    if len(digits) < 8:
        return digits
    n = round(255 * value, 3)
    if n / 255 == value and (n < 1 or n in range(256)):
        return f"{n:g}/255"
    fraction = Fraction(value).limit_denominator(1000)
    return str(fraction) if float(fraction) == value else digits


def _items(values: tuple) -> str:
    items = [f'"{v}"' if isinstance(v, str) else written(v) for v in values]
    if len(items) == 1:
        return f"{items[0]},"
    shown = items[:]
    while len(",".join(shown)) > 20:
        shown.pop()
    return ",".join(shown if len(shown) == len(items) else [*shown, "…"])


def divided(config: ConfigDict, field: str, text: str) -> str:
    """What was typed, with numbers for fractions if the field is of floats.

    Raises:
        ConfigError: for a fraction that is no number.
    """
    if "/" not in text or not _is_real(config, field):
        return text
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return ast.unparse(_Divided().visit(tree))
    except ArithmeticError as error:
        raise ConfigError(f"config.{field} = {text!r}: {error}") from None
    except (SyntaxError, ValueError, TypeError):
        return text  # refused by the parser of the field


class _Divided(ast.NodeTransformer):
    def visit_BinOp(self, node):
        self.generic_visit(node)
        if not isinstance(node.op, ast.Div):
            return node
        over, under = map(ast.literal_eval, (node.left, node.right))
        return ast.Constant(over / under)


def _is_real(config: ConfigDict, field: str) -> bool:
    """Whether a field is of real numbers; strings may be paths, integers are whole."""
    return studies.of(config).all_fields()[field].is_real


def wanted(config: ConfigDict, field: str) -> str:
    """What to type for a field instead of what was refused."""
    kind, default = config.get_type(field).__name__, config[field]
    example = "" if default is None else f", as in {default!r}"
    return f"give a value of type {kind}{example}"
