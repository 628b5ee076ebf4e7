"""Compare every gradient of a config's network with numerical ones, layer by layer; no data set is read."""

from cnn.commands.common import add_config_arguments, read_config
from cnn.terminal import say


def add_arguments(parser):
    """Describe the command line."""
    add_config_arguments(parser)
    parser.add_argument("--layer", metavar="NAME", help='only this layer, for example "0" or "3.body.1"')
    parser.add_argument(
        "--backend", choices=("both", "reference", "numba"), default="both", help="default: both"
    )
    parser.add_argument("--json", metavar="F", help="write all comparisons to this file as well")
    parser.add_argument("--seed", type=int, default=0, help="of images, entries and directions (default 0)")
    parser.add_argument("--images", type=int, default=3, metavar="N", help="batch size (default 3)")
    parser.add_argument(
        "--entries", type=int, default=4, metavar="K", help="sampled entries of each tensor (default 4)"
    )


def run(args):
    """Check the gradients."""
    import json

    import numpy as np

    from cnn.errors import ConfigError, NumericError
    from cnn.files import write_atomically
    from cnn.gradcheck import check_network
    from cnn.layers import from_config
    from cnn.network import Network
    from cnn.training import experiment

    for option, low in (("seed", 0), ("images", 2), ("entries", 1)):
        if getattr(args, option) < low:
            raise ConfigError(f"--{option}: found {getattr(args, option)}, expected at least {low}")
    config = read_config(args)
    shape, classes = experiment.input_shape(config)
    experiment.build_network(config, shape, classes)  # its checks of the config; the one below is in float64
    network = Network(from_config(experiment.layer_specs(config)))
    network.build(shape, rng=np.random.default_rng(config.seed), dtype=np.float64)
    rng = np.random.default_rng(args.seed)
    images = rng.standard_normal((args.images, *shape))  # what normalised images look like to a gradient
    labels = rng.integers(network.output_shape[0], size=args.images)
    report = check_network(
        network,
        images,
        labels,
        experiment.build_loss(config, network.output_shape[0]),
        layer=args.layer,
        backends=("reference", "numba") if args.backend == "both" else (args.backend,),
        seed=args.seed,
        entries=args.entries,
    )
    say(report)
    if args.json:
        write_atomically(args.json, (json.dumps(report.to_json(), indent=1) + "\n").encode())
    if not report.ok:
        wrong = sorted({entry.layer for entry in report.bugs})
        raise NumericError(f"gradient check: {len(report.bugs)} wrong gradients, in layer {', '.join(wrong)}")
