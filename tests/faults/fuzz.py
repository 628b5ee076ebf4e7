"""Hypothesis draws configs, command lines, pictures and headers; what fails is made small by it."""

import resource
import shutil
import signal
import tomllib
from collections import Counter
from itertools import count
from pathlib import Path

from faults import hostile, place
from faults.mutate import bytes_mutated, mutated, text_mutated
from faults.trial import HARMLESS, NOTICED, Fault, Trial, command

_EXAMPLES = 25
_SECONDS = 20
_ROOM = 1_000_000_000  # bytes of address space beyond what the worker has


def _rounds(rng, kind, example):
    """Yield Trials of _EXAMPLES examples each; ``example(random)`` tries one and returns its outcome."""
    for number in count():
        seed = rng.randrange(2**32)
        yield Trial(kind, f"round {number}, seed {seed}", lambda s=seed: _round(example, s))


def _round(example, seed):
    import hypothesis
    from hypothesis import strategies as st

    outcomes = Counter()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=_EXAMPLES,
        database=None,
        deadline=None,
        print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.randoms(use_true_random=False))
    def examined(random):
        outcomes[_limited(example, random)] += 1

    def late(*_):
        raise Fault(f"a hang: no end after {_SECONDS} s")

    signal.signal(signal.SIGPROF, late)  # processor time: other processes may keep this one waiting
    examined()
    return dict(outcomes)


def _limited(example, random):
    """One example, within seconds and memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _ROOM, hard))
    signal.setitimer(signal.ITIMER_PROF, _SECONDS, 1)  # again, where the first is lost in a callback
    told = []
    try:
        return example(random, told)
    except BaseException as error:
        error.add_note(" ".join(map(str, told))[:3000])
        raise
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def configs(rng):
    """Shipped configs and a tiny one with values changed, lost, moved; as texts, too."""
    import tomli_w

    place.write()
    texts = [Path(place.CONFIG).read_text()]
    for path in sorted((Path(__file__).parents[2] / "configs").glob("*.toml")):
        document = tomllib.loads(path.read_text())
        document["data"] = {
            k: v for k, v in document["data"].items() if k not in ("root", "dataset", "split")
        }
        document["data"] |= {"dataset": "sample"}
        texts.append(tomli_w.dumps(document))

    def example(random, told):
        text = random.choice(texts)
        if random.random() < 0.2:
            text = text_mutated(text, random)
        else:
            how, document = mutated(tomllib.loads(text), random, random.choice((1, 1, 2, 3)))
            told.append(how)
            try:
                text = tomli_w.dumps(document)
            except (TypeError, ValueError, UnicodeEncodeError, AttributeError):
                return "no TOML"
        if any(name in text for name in ("MNIST", "CIFAR", "SVHN")):
            return "no TOML"
        Path("fuzzed.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
        argv = random.choice((("summary",), ("train", "--dry-run"), ("summary", "--batch-size", "3")))
        answer = command(argv[0], "fuzzed.toml", *argv[1:]).checked({0, 2, 3})
        if answer.code == 2 and "not enough memory" not in answer.err and "fuzzed.toml" not in answer.err:
            raise Fault(f"does not name the file: {answer.err}")
        return NOTICED if answer.code else HARMLESS

    return _rounds(rng, "configs", example)


def command_lines(rng):
    """Every command with its own options, others' and nonsense."""
    place.write()
    place.trained("run")
    Path("empty").mkdir()
    shutil.copytree("run", "whole")
    commands = [
        "train",
        "sweep",
        "evaluate",
        "predict",
        "explain",
        "export",
        "summary",
        "doctor",
        "gradcheck",
    ]
    options = [
        "--set",
        "--run",
        "--resume",
        "--schema",
        "--out",
        "--image",
        "--images",
        "--label",
        "--max-mb",
        "--training",
        "--history",
        "--invert",
        "--center",
        "--top",
        "--batch-size",
        "--layer",
        "--json",
        "--seeds",
        "--split",
        "--tta",
        "--format",
        "--with-preprocessing",
        "--language",
        "--debug",
        "--help",
        "--version",
        "-h",
        "--",
        "-",
        "--set=",
    ]
    values = [
        "run",
        place.CONFIG,
        place.IMAGE,
        "images",
        "empty",
        "run/best.safetensors",
        "run/log.txt",
        "nothing",
        "",
        " ",
        ".",
        "/dev/null",
        "~nobody/x",
        "0",
        "1",
        "-1",
        "0..1",
        "3..1",
        "0..",
        "1e9",
        "nan",
        "99999999999999999999",
        "²",
        "٣",
        "a\0b",
        "\udce9",
        "\x1b[31m",
        "x" * 3000,
        "train.epochs=0",
        "train.epochs=x",
        "model.layers[0]=3",
        "a.b.c=1",
        "model.layers[99].x=1",
        "optimizer.lr=[[[",
        "data.validation=0",
        "=",
        "a=",
        "zh",
        "c",
        "onnx",
        "torch",
        "test",
        "train",
        "validation",
        "Linear",
        "6",
        "seed=1,2",
        "optimizer.lr=0.1,0.2",
        "data.root=/dev",
        "data.root=\0",
    ]
    need = {"train": ["--dry-run"], "sweep": ["--set", "train.epochs=0"], "gradcheck": ["--layer", "4"]}

    def example(random, told):
        name = random.choice(commands) if random.random() < 0.95 else random.choice(values)
        argv = [name]
        first = {"evaluate": "run", "predict": "run", "explain": "run", "export": "run"}.get(
            name, place.CONFIG
        )
        if name in need or random.random() < 0.8:
            argv.append(first)
        for _ in range(random.choice((0, 1, 2, 3, 5))):
            word = random.choice(options) if random.random() < 0.5 else random.choice(values)
            argv.append(text_mutated(word, random) if random.random() < 0.1 and word else word)
        argv += need.get(name, [])
        told.append(repr(argv))
        answer = command(*[a for a in argv if not a.startswith("--serv")])
        if "--debug" not in argv:
            answer.checked({0, 2, 3, 4, 5, 141})
        elif answer.code not in (0, 2, 3, 4, 5):
            raise Fault(f"exit {answer.code}: {answer.err[-1000:]}")
        shutil.rmtree("run")
        shutil.copytree("whole", "run")
        return NOTICED if answer.code else HARMLESS

    return _rounds(rng, "command lines", example)


def images(rng):
    """Pictures of every format, bytes changed."""
    place.write()
    place.trained("run")
    paths = place.pictures(rng, "pictures")

    def example(random, told):
        path = random.choice(paths)
        content = bytes_mutated(path.read_bytes(), random)
        told.append(f"{path.name} {content[:1500].hex()}")
        return hostile.opened(path.name, content, random.random() < 0.03)

    return _rounds(rng, "pictures", example)


def headers(rng):
    """Checkpoints that are sound in themselves and say something else."""
    place.write()
    place.trained("run")
    shutil.copytree("run", "whole")
    readers = [
        ("best", ("evaluate", "run")),
        ("best", ("predict", "run", place.IMAGE)),
        ("last", ("evaluate", "run/last.safetensors")),
        ("last", ("train", "--resume", "--run", "run", "--set", "train.epochs=2")),
    ]

    def example(random, told):
        name, argv = random.choice(readers)
        path = Path("run", f"{name}.safetensors")
        how, content = hostile.forged(path.read_bytes(), random)
        told.append(f"{name}: {how}")
        return hostile._read(path, content, argv)

    return _rounds(rng, "headers", example)
