"""Write a config that comes with cnn into a file, to change it; without NAME, list them."""

from cnn.terminal import say


def add_arguments(parser):
    """Describe the command line."""
    parser.add_argument("name", nargs="?", metavar="NAME", help='such as "mnist_lenet"')
    parser.add_argument("out", nargs="?", metavar="FILE", help="default: NAME.toml in the current folder")


def run(args):
    """Write or list."""
    from pathlib import Path

    from cnn.config import bundled_config
    from cnn.errors import ConfigError, did_you_mean
    from cnn.files import user_path, write_new
    from cnn.language import translate

    known = sorted(path.stem for path in bundled_config().parent.glob("*.toml"))
    if args.name is None:
        for name in known:
            first = bundled_config(f"{name}.toml").read_text(encoding="utf-8").lstrip("# ").splitlines()[0]
            say(f"{name:{max(map(len, known))}}  {first}")
        return
    name = args.name.removesuffix(".toml")
    if name not in known:
        raise ConfigError(f'found "{name}", expected one of {", ".join(known)}.{did_you_mean(name, known)}')
    out = user_path(args.out) if args.out else Path(f"{name}.toml")
    write_new(out, bundled_config(f"{name}.toml").read_bytes())
    say(translate(f"written: {out}; cnn train {out} trains it"))
