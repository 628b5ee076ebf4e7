"""Builds the website of the project: a folder of static pages in English and Chinese.

    python scripts/site.py OUT                     needs the extra "site"
    python scripts/site.py OUT --data DIR          MNIST and CIFAR-10, for the two networks that learn them
    python scripts/site.py OUT --pyodide DIR       takes Python for browsers from DIR instead of by pip
    python scripts/site.py OUT --draft             quickly: networks hardly trained, notebooks without outputs

The pages open from disk and from any static host; nothing is fetched from anywhere else. OUT is made anew:
it must not exist, or be a site that this script has built.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARK = ".cnn-site"  # in a folder that may be replaced


def main(argv=None):
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="MNIST/, cifar-10-batches-py/ or cifar10-images/; default: data/",
    )
    parser.add_argument(
        "--pyodide", type=Path, metavar="DIR", help="Pyodide's files, for the page that runs cnn"
    )
    parser.add_argument("--draft", action="store_true", help="networks hardly trained, notebooks not run")
    args = parser.parse_args(argv)
    try:
        from website.build import build
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] in ("cnn", "website"):
            raise
        missing = f"{error.name}: not installed; python -m pip install '.[site]' brings what the site needs"
        print(missing, file=sys.stderr)
        return 3
    if (
        args.out.exists()
        and not (args.out / MARK).is_file()
        and (args.out.is_file() or any(args.out.iterdir()))
    ):
        print(f"{args.out}: exists and is no site of this script; left as it is", file=sys.stderr)
        return 2
    data = args.data or (None if args.draft else ROOT / "data")
    begin = time.perf_counter()
    temporary = args.out.with_name(f".{args.out.name}.building")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    (temporary / MARK).touch()
    pages = build(ROOT, temporary, data, args.draft, args.pyodide)
    shutil.rmtree(args.out, ignore_errors=True)
    temporary.rename(args.out)
    print(f"{args.out}: {pages} pages in {time.perf_counter() - begin:.0f} s; open {args.out / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
