"""Print layers, output shapes, parameters, multiply-adds and memory of a config; no data set is read."""

from cnn.commands.common import add_config_arguments, read_config
from cnn.terminal import say


def add_arguments(parser):
    """Describe the command line."""
    add_config_arguments(parser)
    parser.add_argument("--batch-size", type=int, metavar="N", help="default: that of the config")


def run(args):
    """Summarise."""
    from cnn.errors import ConfigError
    from cnn.training import experiment

    config = read_config(args)
    batch_size = config.data.batch_size if args.batch_size is None else args.batch_size
    if batch_size < 1:
        raise ConfigError(f"--batch-size: found {batch_size}, expected at least 1")
    shape, classes = experiment.input_shape(config)
    network = experiment.build_network(config, shape, classes)
    experiment.build_groups(config, network)
    say(network.summary(batch_size=batch_size))
