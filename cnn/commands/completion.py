"""Print a script that completes cnn's commands and options in a shell (extra "completion").

bash   source <(cnn completion bash), in ~/.bashrc
zsh    cnn completion zsh > ~/.zfunc/_cnn, with that folder in fpath
"""

from cnn.terminal import say

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser):
    """Describe the command line."""
    parser.add_argument("shell", choices=SHELLS, help="whose completion")


def run(args):
    """Print."""
    from cnn.commands.common import whole_parser
    from cnn.errors import MissingExtra

    try:
        import shtab
    except ImportError as error:
        raise MissingExtra('completion needs shtab: pip install "cnn[completion]"') from error
    parser = whole_parser()
    for action in _actions(parser):
        if action.metavar in ("CONFIG", "IMAGE", "RUN_OR_CHECKPOINT", "DIR", "FILE", "F", "PHOTOS", "F.csv"):
            action.complete = shtab.FILE
    say(shtab.complete(parser, args.shell))


def _actions(parser):
    for action in parser._actions:
        yield action
        for inner in getattr(action, "choices", None).values() if isinstance(action.choices, dict) else ():
            yield from _actions(inner)
