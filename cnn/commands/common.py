"""Arguments that several commands share."""


def add_config_arguments(parser):
    """Add CONFIG and --set."""
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG", help="a TOML file (default: the bundled sample.toml)"
    )
    add_set_argument(parser)


def add_set_argument(parser):
    """Add --set."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, for example --set train.epochs=5 or --set 'model.layers[0].out_channels=8'",
    )


def add_trained_argument(parser):
    """Add RUN_OR_CHECKPOINT."""
    parser.add_argument(
        "trained", metavar="RUN_OR_CHECKPOINT", help="a run folder, or a .safetensors file of one"
    )


def read_config(args, default=None):
    """Return the Config that CONFIG and --set stand for; ``default`` replaces the bundled sample."""
    from cnn.config import bundled_config, load_config

    return load_config(args.config or default or bundled_config(), args.set)
