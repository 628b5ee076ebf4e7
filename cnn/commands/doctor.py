"""Examine a config before training: data, initial loss, gradients, learning rate, can it learn at all.

Takes seconds. Each line has a verdict, what was measured and what was expected; WARN and FAIL come with
advice. Exit code 5 when anything is a FAIL.
"""

from cnn.commands.common import add_config_arguments, read_config
from cnn.terminal import say


def add_arguments(parser):
    """Describe the command line."""
    add_config_arguments(parser)
    parser.add_argument("--json", metavar="F", help="write the findings to this file as well")


def run(args):
    """Examine; return 5 after a FAIL."""
    import json
    import time

    from cnn.commands.train import set_threads
    from cnn.doctor import examine
    from cnn.files import write_atomically
    from cnn.language import fill

    begin = time.perf_counter()
    config = read_config(args)
    set_threads(args, config)
    report = examine(config)
    say(f"{config.name}\n\n{report} {fill('in {t} s', t=f'{time.perf_counter() - begin:.1f}')}")
    if args.json:
        payload = {"config": config.name, **report.to_json()}
        write_atomically(args.json, (json.dumps(payload, indent=2) + "\n").encode())
    return report.exit_code
