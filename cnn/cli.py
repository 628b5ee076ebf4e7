"""The ``cnn`` command: finds the command's module, parses, runs it, turns errors into lines and exit codes.

Exit codes: 0 done; 2 usage or config; 3 data; 4 checkpoint; 5 numbers; 70 an exception that nobody foresaw;
128 + n stopped by signal n, after saving: 129 SIGHUP, 130 SIGINT, 141 the reader of a pipe left, 143 SIGTERM.
"""

import argparse
import sys

import cnn
from cnn import terminal
from cnn.commands import COMMANDS, module_of
from cnn.errors import CnnError, ConfigError, did_you_mean
from cnn.language import LANGUAGES, choose, pad, phrase, speaking, translate

_MAX_LINES = 3
_MAX_LENGTH = 380  # of a line of an error
_USAGE, _UNFORESEEN, _INTERRUPTED = 2, 70, 130


def main(argv=None):
    """Run one command line and return its exit code; ``argv=None`` stands for ``sys.argv[1:]``."""
    argv = list(sys.argv[1:] if argv is None else argv)
    with terminal.prepared(), speaking(_language(argv)):
        return _guarded(argv, "--debug" in argv)


def _language(argv):
    """Return what --language says, wherever it stands, else the language of the locale."""
    for k, argument in enumerate(argv):
        option, _, value = argument.partition("=")
        if option == "--language":
            value = value or "".join(argv[k + 1 : k + 2])
            return value if value in LANGUAGES else choose()
    return choose()


def _guarded(argv, debug):
    """Run a command line; turn whatever happens into lines on stderr and an exit code."""
    try:
        code = _run(argv)
        terminal.finish()
        return code
    except SystemExit as error:  # argparse after --help
        return error.code or 0
    except terminal.ReaderLeft as error:  # as every program of a pipe: without a word
        return error.exit_code
    except KeyboardInterrupt:
        return _fail("interrupted", _INTERRUPTED, debug)
    except CnnError as error:
        return _fail(str(error), error.exit_code, debug)
    except MemoryError as error:
        return _fail(f"not enough memory: {str(error) or 'try a smaller data.batch_size'}", _USAGE, debug)
    except OSError as error:
        return _fail(f"{error.filename or 'system'}: {error.strerror or error}", _USAGE, debug)
    except Exception as error:
        return _fail(_unforeseen(argv, error), _UNFORESEEN, debug)


def _run(argv):
    if any("\0" in argument for argument in argv):
        raise ConfigError("found an argument with a NUL character, which no name can have")
    if argv[:1] == ["help"] and len(argv) > 1 and not argv[1].startswith("-"):
        argv = [argv[1], "--help"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        terminal.say(_overview())
        return 0
    if argv[0] == "--version":
        terminal.say(f"cnn {cnn.__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        raise ConfigError(
            f'found "{name}", expected a command: {", ".join(COMMANDS)}.{did_you_mean(name, COMMANDS)}'
        )
    from cnn.backend import check_environment
    from cnn.commands.common import add_common_arguments
    from cnn.helptext import localise
    from cnn.parallel.ranks import take_cores

    take_cores()
    check_environment()
    module = module_of(name)
    parser = _Parser(prog=f"cnn {name}", description=module.__doc__, allow_abbrev=False)
    module.add_arguments(parser)
    add_common_arguments(parser)
    localise(parser)
    args, unknown = parser.parse_known_args(rest)
    if unknown:
        raise ConfigError(f'{parser.prog}: unknown argument "{unknown[0]}".{_hint(parser, unknown[0], rest)}')
    if args.threads is not None:
        from cnn.backend import set_threads

        set_threads(args.threads)
    with terminal.volume(quiet=args.quiet, verbose=args.verbose):
        return module.run(args) or 0


def _hint(parser, unknown, rest):
    """Return what somebody meant by an unknown option: a key of the config, or another option."""
    options = [option for action in parser._actions for option in action.option_strings]
    if "--set" in options and unknown.startswith("--"):
        from cnn.config import option_for

        following = rest[rest.index(unknown) + 1 :][:1]
        meant = option_for(unknown, *(value for value in following if not value.startswith("-")))
        if meant:
            return f' Did you mean "{meant}"?'
    return did_you_mean(unknown, options)


class _Parser(argparse.ArgumentParser):
    """Complains in one line instead of printing the whole usage."""

    def error(self, message):
        raise ConfigError(f"{self.prog}: {message}; see {self.prog} --help")


def _overview():
    width = max(map(len, COMMANDS))
    lines = [f"  {pad(name, width)}  {phrase(summary)}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            phrase("usage: cnn COMMAND ..."),
            "",
            phrase("Convolutional networks from scratch. `cnn train` trains the bundled sample in seconds."),
            "",
            *lines,
            "",
            phrase("cnn help COMMAND explains a command; cnn --version prints the version."),
        ]
    )


def _unforeseen(argv, error):
    """Return three lines on an exception that has no message of its own; its traceback goes into a file."""
    import shlex
    import tempfile
    import traceback

    what = terminal.printable_name(f"{type(error).__name__}: {error}")
    done = "; ".join([f"cnn {shlex.join(argv)}", *reversed(getattr(error, "__notes__", []))])
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="cnn-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(f"cnn {cnn.__version__}, Python {sys.version}\n{done}\n\n")
            traceback.print_exception(error, file=file)
        where = f"the traceback is in {file.name}"
    except OSError:  # no room for a file
        where = "--debug shows the traceback"
    return f"unforeseen {what}\nwhile running {done}\nno file is half written; {where}; please report it"


def _fail(message, code, debug):
    """Print at most three lines on stderr, after the traceback with ``--debug``; return the exit code."""
    if debug:
        import traceback

        terminal.say(traceback.format_exc(), error=True)
    lines = [_shortened(line) for line in translate(message).splitlines()] or ["error"]
    terminal.say("\n".join([f"cnn: {lines[0]}", *lines[1:_MAX_LINES]]), error=True)
    return code


def _shortened(line):
    """Return a line of an error without its middle where that is very long."""
    if len(line) <= _MAX_LENGTH:
        return line
    return f"{line[: _MAX_LENGTH // 2]} ... {line[-_MAX_LENGTH // 2 :]}"
