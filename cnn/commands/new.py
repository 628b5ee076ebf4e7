"""Look at a folder of photos, or a CSV file of files and labels, and write a config for it.

What is chosen is said and stands in the file with its reason: size, colour or grey, augmentation, network,
epochs.
"""

from cnn.terminal import say


def add_arguments(parser):
    """Describe the command line."""
    parser.add_argument(
        "root", metavar="PHOTOS", help="a folder of photos, or a CSV file of files and labels"
    )
    parser.add_argument("--out", metavar="FILE", help="default: NAME.toml in the current folder")


def run(args):
    """Look and write."""
    import re
    from pathlib import Path

    from cnn.config import parse_document, resolve
    from cnn.data.survey import survey
    from cnn.files import user_path, write_new
    from cnn.language import translate
    from cnn.training.recipe import recipe

    found = survey(args.root)
    for line in found.lines():
        say(translate(line))
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", Path(args.root).resolve().stem).lstrip(".-_") or "photos"
    out = user_path(args.out) if args.out else Path(f"{stem}.toml")
    text = recipe(stem, found)
    resolve(parse_document(text, out), out)  # what is written can be trained
    write_new(out, text.encode())
    say("\n" + translate(f"written: {out}; look at it, then: cnn doctor {out}, cnn train {out}"))
