"""Train a network from a config and write a run folder; without CONFIG, the bundled sample.

Started by mpiexec (extra mpi), the processes share each batch; the bits do not depend on how many they are.
"""

import json
import shutil
from tempfile import TemporaryDirectory

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
    from cnn.parallel.team import team as find_team

    team = find_team()
    with team.guarded(args.debug):
        if args.resume and args.start:
            raise ConfigError("--from: a run that is resumed has its weights; leave out --from or --resume")
        resume(args, team) if args.resume else begin(args, team)


def begin(args, team):
    """Train a new run, by one process or by those of a team, of which only the first writes."""
    from cnn.training import run_folder
    from cnn.training.loop import Trainer

    config = shared(read_start(args) if args.start else read_config(args), team)
    set_threads(args, config)
    trainer = Trainer(config, team=team)
    if args.dry_run:
        if team.rank == 0:
            say(translate(trainer.describe()))
            say(trainer.network.summary(batch_size=config.data.batch_size))
        return
    if team.rank == 0:
        trainer.run = run_folder.create(args.run, config.name)
        trainer.fit()
        return
    with TemporaryDirectory() as folder:
        trainer.run = run_folder.RunFolder(folder, quiet=True)
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


def resume(args, team):
    """Go on with a run, by any number of processes; nobody else may train in its folder meanwhile."""
    from cnn.training import run_folder

    name = None if args.run else read_config(args).name
    run = run_folder.find(args.run, name)
    if team.rank == 0:
        team.meet()  # before this process changes anything, the others take their copies
        go_on(args, team, run)
        return
    with TemporaryDirectory() as folder:
        shutil.copytree(run.path, folder, dirs_exist_ok=True)
        team.meet()
        go_on(args, team, run_folder.RunFolder(folder, quiet=True))


def go_on(args, team, run):
    """Train from where a run folder stands."""
    from cnn.training.loop import Trainer
    from cnn.training.resume import began_with, check_same_experiment

    with run.locked():
        config = shared(read_config(args, default=run.config), team)
        check_same_experiment(config.plain(), began_with(run).plain())
        set_threads(args, config)
        trainer = Trainer(config, run, team=team)
        trainer.restore()
        trainer.fit()


def shared(config, team):
    """Return the Config of a training under mpiexec: in micro-batches, each process with its cores."""
    from cnn.backend import get_threads, set_threads
    from cnn.parallel.micro import DEFAULT
    from cnn.parallel.ranks import threads_of_rank

    if not team.launched:
        return config
    set_threads(threads_of_rank(get_threads()))
    if config.train.micro_batch is not None:
        return config
    train = config.train.model_copy(update={"micro_batch": DEFAULT})
    return config.model_copy(update={"train": train})


def set_threads(args, config):
    """Let the config choose the number of threads unless the command line did."""
    from cnn import backend

    if args.threads is None and config.train.threads is not None:
        backend.set_threads(config.train.threads)
