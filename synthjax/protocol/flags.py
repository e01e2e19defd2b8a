"""How a launcher turns its command line into specs, and what it says where that fails.

ml_collections parses `--config=FILE:VARIANT` and `--config.field=value`; its answers to a wrong
line are tracebacks, which become one-line errors here.
"""

import contextlib
import dataclasses
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import config_dict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from synthjax.protocol.spec import (
    SpecError,
    UnreadError,
    describe,
    fields_of,
    from_config,
    rule_of,
    to_config,
)

flags.disclaim_key_flags()  # --config is the launcher's, whose --help shows it

_OVERRIDE = re.compile(r"--?config\.([^=]+)(?:=(.*))?$", re.DOTALL)
# How absl begins when a value does not parse.
_ILLEGAL = re.compile(r"flag --config\.([^=]+)=(.*?): ", re.DOTALL)


def fail(message: object, code: int = 2) -> NoReturn:
    """Say why in one line on standard error and exit; 2: what was asked for cannot be run."""
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    sys.exit(code)


def launch(
    main: Callable[..., None],
    errors: tuple[type[Exception], ...],
    cls: type | None = None,
    commands: Sequence[str] = (),
    exit_code: Callable[[Exception], int] = lambda error: 2,
) -> None:
    """Parse the command line and run `main`; wrong flags, SpecError and `errors` take one line.

    `cls` is the spec that --config overrides, where the launcher has that flag. With `commands` the
    command line must have one of them, and `main` takes it. `exit_code` is that of an error.
    """

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        except Exception as error:  # whatever a config file or ml_collections may raise
            fail(_explain(error, argv, cls) if cls else error)

    def guarded(argv: list[str]) -> None:
        given, rest = argv[1 : 1 + bool(commands)], argv[1 + bool(commands) :]
        if rest:
            fail(f"unexpected argument {rest[0]!r}; --help says more")
        if commands and (not given or given[0] not in commands):
            fail(f"needs one of {', '.join(commands)} (--help says more)")
        try:
            main(*given)
        except (SpecError, *errors) as error:
            fail(error, exit_code(error))

    # JAX tells at length which accelerators are not there; absl would print it.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    app.run(guarded, flags_parser=parse)


class _ConfigFile(ConfigFileFlagParser):
    """Loads a config file. Says in one line, a ValueError, why it cannot.

    ml_collections makes `type(error)(a traceback)` of what the file raises, or puts it off.
    """

    def parse(self, path: str) -> config_dict.ConfigDict:
        """What get_config returns; a spec will do too."""
        file = path.split(":", 1)[0]
        if not os.path.lexists(file):
            raise ValueError("no such file")
        try:
            config = super().parse(path)
            getattr(config, "lock", None)  # raises what was put off, an OSError
        except (TypeError, ValueError, OSError) as error:  # then the file's own is behind it
            raise ValueError(_told(error.__cause__ or error.__context__ or error, file)) from None
        except Exception as error:  # whatever else the file may raise
            raise ValueError(_told(error, file)) from None
        if dataclasses.is_dataclass(config) and not isinstance(config, type):
            config = to_config(config)
            config.lock()
        parts = config.values() if isinstance(config, config_dict.ConfigDict) else ()
        if not _is_spec(config) and not (parts and all(map(_is_spec, parts))):
            raise ValueError(
                "get_config must return a Spec, or to_config of one, or a ConfigDict of several "
                "of these configs by name"
            )
        return config


def _is_spec(config: Any) -> bool:
    """Whether this is what `to_config` makes."""
    is_config = isinstance(config, config_dict.ConfigDict)
    return is_config and isinstance(config.get("sweep"), config_dict.ConfigDict)


def _told(error: BaseException, file: str) -> str:
    """An error of a config file; where it may not tell what is wrong, with its kind and line."""
    text = " ".join(str(error).split())
    if type(error) in (ValueError, SpecError, UnreadError):
        return text
    places = traceback.extract_tb(error.__traceback__)
    lines = [at.lineno for at in places if os.path.abspath(at.filename) == os.path.abspath(file)]
    if isinstance(error, AttributeError) and error.name == "get_config" and not lines:
        return "has no function get_config"
    return f"{type(error).__name__}: {text}" + (f" (line {lines[-1]})" if lines else "")


def define_config(cls: type) -> flags.FlagHolder[config_dict.ConfigDict]:
    """The flag --config, whose help describes every field of the spec."""
    flag = config_flags.DEFINE_config_file(
        "config",
        None,
        "FILE.py:VARIANT, the settings to start from. Then --config.FIELD=VALUE sets a field, "
        "also one that the variant sweeps, and --config.sweep.FIELD='(a,b,…)' sweeps it.\n"
        + describe(cls),
    )
    flags.FLAGS[flag.name].parser = _ConfigFile(flag.name)
    return flag


def define_path(name: str, doc: str) -> flags.FlagHolder[str]:
    """A flag that names a file or folder; an empty one, as of an unset variable, is refused."""
    flag = flags.DEFINE_string(name, None, doc)
    # Path("") would be the current folder.
    rule = "must name a file or folder, and is empty; the current folder is ."
    flags.register_validator(flag, lambda path: path != "", rule)
    return flag


def specs(flag: flags.FlagHolder[config_dict.ConfigDict], cls: type) -> dict[str, Any]:
    """The specs that the flag asks for: name -> spec; the name is empty where there is one alone.

    A config holds either the fields of a spec or several named specs.
    """
    config = flag.value
    nested = "sweep" not in config
    explicit = set(config_flags.get_override_values(flags.FLAGS[flag.name]))
    parts = {name: config[name] for name in config} if nested else {"": config}
    for name, part in parts.items():
        if name in explicit:
            raise _whole(name, part.to_dict())
        strange = sorted({*part} - {*fields_of(cls)})
        if len(strange) > 2:  # no slip, but another launcher's config
            task, file = cls.__module__.split(".")[1], flags.FLAGS[flag.name].config_filename
            some = ", ".join(strange[:2])
            fail(f"--config={file}: is no config of launch.{task}, which has no {some} …")
    return {name: _one(cls, part, name, explicit) for name, part in parts.items()}


def _one(cls: type, config: config_dict.ConfigDict, name: str, explicit: set[str]) -> Any:
    prefix = f"{name}." if name else ""
    explicit = {path.removeprefix(prefix) for path in explicit}
    with named(name):
        for field in explicit & {*fields_of(cls)}:
            # What the file sweeps is replaced like any value; what a flag sweeps stays, as where an
            # axis is added to a command of before.
            if config.sweep.get(field) is not None and f"sweep.{field}" not in explicit:
                config.sweep[field] = None
        while True:
            try:
                spec = from_config(cls, config)
                break
            except UnreadError as error:
                # What the file set or swept for a kind that a flag has replaced goes with it.
                if error.path in explicit:
                    raise
                *swept, field = error.path.split(".")
                where, value = config, fields_of(cls)[field].default
                if swept:
                    where, value = config.sweep, None
                where[field] = value
        spec.check_explicit(explicit)
        return spec


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Put the name of a spec before the path that a SpecError gives."""
    try:
        yield
    except SpecError as error:
        path = f"{name}.{error.path}" if name else error.path
        raise SpecError(path, error.value, error.rule, error.choices) from None


def _explain(error: Exception, argv: list[str], cls: type) -> object:
    """What is wrong with the command line, given what ml_collections or absl raised."""
    fields = fields_of(cls)
    axes = [name for name, field in fields.items() if field.metadata["axis"]]
    if isinstance(error, flags.UnrecognizedFlagError):
        known = error.flagname.partition("=")[0] in fields
        return f"{error}; fields begin with --config." if known else error
    if str(error).startswith("flag --config="):  # then no field is known yet
        return error
    if match := _ILLEGAL.match(str(error)):
        path, value = match.groups()
        *parents, name = path.split(".")
        if parents[-1:] == ["sweep"]:
            return SpecError(path, value, "must be a tuple of values, such as '(0.1,0.5)'")
        if _names(fields, path):
            return _set_by_name(path, value, fields)
        name = parents[-1] if _names(fields, ".".join(parents)) else name
        if path in _parts(argv):
            return _whole(path, value)
        return SpecError(path, value, rule_of(fields[name])) if name != "sweep" else error
    parts = _parts(argv)
    for argument in argv:
        if match := _OVERRIDE.match(argument):
            path, value = match.groups()
            *parents, name = path.split(".")
            if parts and path.split(".")[0] not in parts:
                rule = "this config holds several specs: begin with the name of one"
                return SpecError(path, value, rule, parts)
            if _names(fields, path):
                return _set_by_name(path, value, fields)
            if names := _names(fields, ".".join(parents)):
                if name not in names:
                    return SpecError(path, value, "is no field", names)
                continue
            swept = parents[-1:] == ["sweep"]
            if name not in (axes if swept else fields):
                rule = "cannot be swept" if swept and name in fields else "is no field"
                return SpecError(path, value, rule, axes if swept else fields)
    return error


def _names(fields: Mapping[str, Any], path: str) -> tuple[str, ...]:
    """The names under a path, where that is a field of several counts and no axis."""
    *parents, name = path.split(".")
    return fields[name].metadata.get("names", ()) if name in fields and parents != ["sweep"] else ()


def _set_by_name(path: str, value: str, fields: Mapping[str, Any]) -> SpecError:
    names = (f"config.{path}.{name}" for name in _names(fields, path))
    return SpecError(path, value, "is set by its names", names)


def _whole(part: str, value: Any) -> SpecError:
    """One of several specs, set as if it were a field."""
    return SpecError(part, value, f"is a spec: set its fields, as --config.{part}.FIELD=VALUE")


def _parts(argv: list[str]) -> list[str]:
    """The names of the specs in the config that the command line names, where it holds several."""
    for argument in argv:
        if argument.removeprefix("-").startswith("-config="):
            with contextlib.suppress(Exception):  # then another error says what is wrong
                config = flags.FLAGS["config"].parser.parse(argument.split("=", 1)[1])
                return [] if "sweep" in config else list(config)
    return []
