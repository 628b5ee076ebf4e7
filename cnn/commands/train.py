"""Train a network from a config and write a run folder; without CONFIG, the bundled sample."""

import json

from cnn.commands.common import add_config_arguments, read_config
from cnn.language import translate
from cnn.terminal import say


def add_arguments(parser):
    """Describe the command line."""
    add_config_arguments(parser)
    parser.add_argument("--run", metavar="DIR", help="run folder (default: a new one, runs/<name>)")
    parser.add_argument(
        "--from",
        dest="start",
        metavar="RUN_OR_FILE",
        help="fine-tune: start with the weights of a run, a checkpoint or a file of Network.save; without "
        "CONFIG its config is used, and its layers where CONFIG has no [model]",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with --run DIR, or the newest runs/<name>"
    )
    parser.add_argument("--dry-run", action="store_true", help="build and check everything, train nothing")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of configs, for editors")


def run(args):
    """Train."""
    if args.schema:
        from cnn.config import json_schema

        say(json.dumps(json_schema(), indent=2))
        return
    from cnn.errors import ConfigError
    from cnn.training import run_folder
    from cnn.training.loop import Trainer

    if args.resume:
        if args.start:
            raise ConfigError("--from: a run that is resumed has its weights; leave out --from or --resume")
        resume(args)
        return
    config = read_start(args) if args.start else read_config(args)
    set_threads(args, config)
    trainer = Trainer(config)
    if args.dry_run:
        say(translate(trainer.describe()))
        say(trainer.network.summary(batch_size=config.data.batch_size))
        return
    trainer.run = run_folder.create(args.run, config.name)
    trainer.fit()


def read_start(args):
    """Return the Config of --from: CONFIG, which may leave out [model], or else the run's own."""
    from cnn.config import read_document, resolve
    from cnn.errors import ConfigError
    from cnn.training.fine_tuning import document_of

    theirs = document_of(args.start)
    theirs.pop("start", None)  # how that run itself began
    if args.config is None and "data" not in theirs:
        raise ConfigError(f"--from {args.start}: it holds a network alone, so a CONFIG has to name the data")
    document = read_document(args.config) if args.config else theirs
    document.setdefault("model", theirs["model"])
    document.setdefault("start", {})["weights"] = args.start
    source = args.config or f"{theirs['name']}-tuned"
    return resolve(document if args.config else {**document, "name": source}, source, args.set)


def resume(args):
    """Go on with a run; nobody else may train in its folder meanwhile."""
    from cnn.training import run_folder
    from cnn.training.loop import Trainer
    from cnn.training.resume import began_with, check_same_experiment

    name = None if args.run else read_config(args).name
    run = run_folder.find(args.run, name)
    with run.locked():
        config = read_config(args, default=run.config)
        check_same_experiment(config.plain(), began_with(run).plain())
        set_threads(args, config)
        trainer = Trainer(config, run)
        trainer.restore()
        trainer.fit()


def set_threads(args, config):
    """Let the config choose the number of threads unless the command line did."""
    from cnn import backend

    if args.threads is None and config.train.threads is not None:
        backend.set_threads(config.train.threads)
