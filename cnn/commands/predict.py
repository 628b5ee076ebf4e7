"""Print class probabilities for image files (or numbers, labels, masks), or write them into a table.

An IMAGE is an image file, a folder with image files at any depth, or a pattern in quotes ('photos/**/*.jpg').

Each image is resized to the size of the training images (the whole image, bilinear) and made grey or RGB
as they were; then it is normalised as in training. Digits for a network trained on MNIST must be white on
black and centred: a picture that is not is said to be so, and --invert and --center make it so.

--out takes any number of files in constant memory. Killed and started again, the same command goes on. With
--shard K/P, or started by mpiexec, processes share the work: the one that ends last puts the table together.
"""

from cnn.commands.common import (
    add_picture_arguments,
    add_precision_argument,
    add_trained_argument,
    load_trained,
)
from cnn.language import translate
from cnn.terminal import say


def add_arguments(parser):
    """Describe the command line."""
    add_trained_argument(parser)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="files, folders, patterns")
    parser.add_argument("--list", metavar="FILE", help="a file with one path a line, - for standard input")
    parser.add_argument(
        "--top", type=int, metavar="K", help="classes to show for each (default: 3; in a table all)"
    )
    add_picture_arguments(parser)
    add_precision_argument(parser)
    parser.add_argument("--json", action="store_true", help="print all probabilities as JSON")
    parser.add_argument("--masks", metavar="DIR", help="write the mask of each image into this folder (PNG)")
    parser.add_argument("--out", metavar="FILE", help="write a table: .csv, or .parquet (extra parquet)")
    parser.add_argument("--shard", metavar="K/P", help="with --out: do the K-th of P shares")


def run(args):
    """Predict."""
    from cnn.data.masks import MaskFolder
    from cnn.errors import ConfigError
    from cnn.inference.inputs import image_files, is_one_file
    from cnn.inference.stream import Predictor

    if args.top is not None and args.top < 1:
        raise ConfigError(f"--top: found {args.top}, expected at least 1")
    if not args.images and args.list is None:
        raise ConfigError("cnn predict: the following arguments are required: IMAGE, or --list")
    if args.masks is not None and args.out is not None:
        raise ConfigError("--masks: expected no --out beside it; its table has the shares of the classes")
    if args.shard is not None and args.out is None:
        raise ConfigError("--shard: expected --out as well, where the shares come together")
    network, config, meta = load_trained(args.trained)
    network.precision = args.precision or network.precision
    if args.masks is not None and config.data.targets != "masks":
        found = f"{args.trained} tells {config.data.targets}"
        raise ConfigError(f'--masks: {found}, expected a network with data.targets = "masks"')
    predictor = Predictor(network, config, meta, args.invert, args.center)
    paths = image_files(args.images, args.list)
    if args.out is not None:
        return _write_table(args, predictor, paths)
    known = all(map(is_one_file, args.images)) and args.list is None
    masks = None if args.masks is None else MaskFolder(args.masks, meta["image_shape"], config.data.fit)
    width = max(map(len, args.images)) if known else 0
    _print(_answers(predictor, paths), predictor.meta, predictor.kind, args, width, masks)
    return 0


def _write_table(args, predictor, paths):
    from cnn.backend import get_threads, set_threads
    from cnn.errors import DataError
    from cnn.files import user_path
    from cnn.inference.run import predict_table
    from cnn.parallel.ranks import parse_shard, shard_of_rank, threads_of_rank

    *shard, local = (*parse_shard(args.shard), 1) if args.shard else shard_of_rank()
    if local > 1 and args.threads is None:
        set_threads(threads_of_rank(get_threads()))
    complete = predict_table(predictor, paths, user_path(args.out), args.top, shard)
    return 0 if complete else DataError.exit_code


def _answers(predictor, paths):
    """Yield the predictions of a stream of paths; DataError for the first that cannot be read."""
    import itertools

    from cnn.errors import DataError

    paths = iter(paths)
    batches = iter(lambda: list(itertools.islice(paths, predictor.batch_size)), [])
    for prediction in itertools.chain.from_iterable(predictor.stream(batches)):
        if prediction.error:
            raise DataError(prediction.error)
        tell_remarks(prediction.image, prediction.remarks, predictor.meta["mean"])
        yield prediction


def _print(predictions, meta, kind, args, width, masks):
    import json

    classes, options = meta["classes"], {} if args.top is None else {"top": args.top}
    for number, (image, answer, _, _) in enumerate(predictions):
        if masks is not None:
            masks.write(image, answer)
        if args.json:
            entry = {"image": image, kind.told: kind.by_name(answer, classes)}
            if kind.name == "labels":
                entry["labels"] = kind.given(answer, classes)
            text = json.dumps(entry, indent=2).replace("\n", "\n  ")
            say(("[\n  " if number == 0 else ",\n  ") + text, end="")
            continue
        say(f"{image:{width}}  {kind.line(answer, classes, **options)}")
    if args.json:
        say("\n]")


def tell_remarks(path, remarks, mean):
    """Say on stderr where a picture differs from the training images."""
    from cnn.data.picture import describe

    for remark in remarks:
        say(f"{path}: {translate(describe(remark, mean))}", error=True)
