"""Break it: a classic bug is planted in a copy of cnn, and you find out which.

`cnn break` chooses one, trains the right and the broken copy, and shows the curves and what the gradient
check, the doctor and the page of `cnn explain` say; then it asks for your guess, and shows the diff. The
package itself is never changed.

  cnn break                    blind: evidence, your guess, the diff
  cnn break list               the bugs
  cnn break NAME               a chosen one, with its diff
  cnn break guess NAME         your guess about the evidence in --out, where nobody was there to be asked
"""

import textwrap

from cnn.language import current, pad, translate
from cnn.terminal import say

_COLUMNS, _BLOCKS = 60, "▁▂▃▄▅▆▇█"
_WIDTH = 100


def add_arguments(parser):
    """Describe the command line."""
    import argparse
    from pathlib import Path

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", nargs="?", metavar="NAME|list|guess", help="without it: blind")
    parser.add_argument("name", nargs="?", metavar="NAME", help="of guess: the bug that you suspect")
    parser.add_argument("--seed", type=int, metavar="N", help="chooses the hidden bug (default: by chance)")
    parser.add_argument("--epochs", type=int, default=4, metavar="N", help="of 62 steps each (default 4)")
    parser.add_argument(
        "--out", type=Path, default=Path("broken"), metavar="DIR", help="curves and page (default: broken)"
    )


def run(args):
    """Plant, ask everybody, show; return 5 when one who should complain does not."""
    from cnn.course.breaking import bugs, find_bug
    from cnn.errors import ConfigError

    if args.epochs < 1:
        raise ConfigError(f"--epochs: found {args.epochs}, expected at least 1")
    if args.name is not None and args.what != "guess":
        raise ConfigError(f'found "{args.name}", expected it only after guess')
    if args.what == "list":
        return _list(bugs())
    if args.what == "guess":
        if args.name is None:
            raise ConfigError("cnn break guess: expected the name of a bug; cnn break list names them")
        return _judge_guess(find_bug(args.name), args.out)
    if args.out.exists() and not args.out.is_dir():
        raise ConfigError(f"--out: {args.out} is a file, expected a folder")
    if args.what is None:
        return _blind(args)
    return _open(find_bug(args.what), args)


def _list(known):
    columns = max(map(len, known))
    for name, bug in known.items():
        say(f"{pad(name, columns)}  {bug.what[current()]}")


def _blind(args):
    """Show the evidence of a hidden bug, ask, tell."""
    import random
    import sys

    from cnn.course.breaking import bugs

    bug = random.Random(args.seed).choice(list(bugs().values()))
    evidence = _gather(bug, args, hidden=True)
    _keep_secret(bug, args.out)
    _show(evidence, args.out)
    if not sys.stdin.isatty():
        say(translate(f"which bug is it? cnn break list names them; cnn break guess NAME --out {args.out}"))
        return 0
    numbered = dict(enumerate(bugs().values(), 1))
    say(translate("Which bug is it?"))
    for number, candidate in numbered.items():
        say(f"{number:3}  {candidate.what[current()]}")
    guess = _asked(numbered)
    if guess is not None:
        _judge_guess(guess, args.out)
    return 0


def _asked(numbered):
    """Return the bug that is chosen by number or name, None when the input ends."""
    while True:
        say(translate("number, or Enter to give up:"), end=" ")
        try:
            answer = input().strip()
        except EOFError:
            return None
        if not answer:
            return None
        for number, bug in numbered.items():
            if answer in (str(number), bug.name):
                return bug


def _open(bug, args):
    """Show one bug with its diff, its evidence and its lesson."""
    say(f"{bug.name}: {bug.what[current()]}\n")
    _diff(bug)
    evidence = _gather(bug, args, hidden=False)
    say()
    _show(evidence, args.out)
    _paragraph(bug.lesson[current()])
    seen, answers = evidence.seen_by(), evidence.answers
    blind = [name for name in bug.seen_by if name not in seen and not answers[name][0].startswith("written")]
    if blind:
        say(f"\nnot seen by: {', '.join(blind)}, which should see it", error=True)
    return 5 if blind else 0


def _gather(bug, args, hidden):
    """Return the Evidence; keep curves and page in --out."""
    import shutil
    import tempfile

    from cnn.course.breaking import collect
    from cnn.report.plots import lines

    say(translate("training the right and the broken copy ..."), error=True)
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cnn-broken-") as scratch:
        evidence = collect(bug, scratch, args.epochs)
        if evidence.page is not None:
            shutil.copy(evidence.page, args.out / "page.html")
    series = {name: (range(1, len(losses) + 1), losses) for name, losses in evidence.losses.items()}
    title = "" if hidden else f"{bug.name}: {bug.what['en']}"
    lines(args.out / "curves.png", series, title, "step", "training loss", ylim=(0, 4))
    return evidence


def _show(evidence, out):
    """Print curves, table and answers."""
    steps = len(evidence.losses["right"])
    say(translate(f"loss of {steps} steps") + f"\n\n{_curves(evidence.losses)}\n\n{_table(evidence.rows)}\n")
    for name, lines in evidence.answers.items():
        for i, line in enumerate(lines):
            label = pad(f"{translate(name)}:" if i == 0 else "", 16)
            text = translate(line)
            if current() == "zh":
                say(label + text)
            else:
                say(textwrap.fill(text, _WIDTH, initial_indent=label, subsequent_indent=" " * 18))
    say("\n" + translate(f"kept in {out}: curves.png, page.html") + "\n")


def _judge_guess(guess, out):
    """Tell whether the guess is right, and show what was planted."""
    from cnn.course.breaking import bugs
    from cnn.errors import ConfigError

    file = out / "secret"
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; cnn break --out {out} plants a bug")
    secret = file.read_text(encoding="utf-8").strip()
    found = [bug for bug in bugs().values() if _fingerprint(bug) == secret]
    if not found:
        raise ConfigError(f"{file}: names no bug of this version of cnn")
    (bug,) = found
    say(translate("Right." if bug == guess else "Not that one."), end=" ")
    say(f"{bug.name}: {bug.what[current()]}\n")
    _diff(bug)
    say()
    _paragraph(bug.lesson[current()])
    return 0 if bug == guess else 5


def _keep_secret(bug, out):
    """Write which bug it is, so that a glance does not tell."""
    from cnn.files import write_atomically

    write_atomically(out / "secret", f"{_fingerprint(bug)}\n".encode())


def _fingerprint(bug):
    import hashlib

    return hashlib.sha256(f"cnn break {bug.name}".encode()).hexdigest()


def _diff(bug):
    from cnn.course.breaking import difference

    for line in difference(bug):
        say(f"  {line}")


def _paragraph(text):
    text = " ".join(text.split())
    say(text if current() == "zh" else textwrap.fill(text, _WIDTH))


def _curves(losses):
    """Return a line of blocks for each training, on one scale from 0 to the largest loss, at most 4."""
    top = min(4.0, max(loss for series in losses.values() for loss in series if loss is not None))
    lines = []
    for name, series in losses.items():
        count = len(series)
        bins = [series[i * count // _COLUMNS : max(1, (i + 1) * count // _COLUMNS)] for i in range(_COLUMNS)]
        lines.append(f"  {pad(translate(name), 7)} {''.join(_block(part, top) for part in bins)}")
    return "\n".join([*lines, " " * 10 + translate(f"height: 0 to {top:.3g}; ×: not a finite number")])


def _block(losses, top):
    """Return the block for the mean of some losses."""
    if any(loss is None for loss in losses):
        return "×"
    if not losses:
        return " "
    share = min(1.0, sum(losses) / len(losses) / top)
    return _BLOCKS[min(len(_BLOCKS) - 1, int(share * len(_BLOCKS)))]


def _table(rows):
    """Return both metrics.csv side by side."""
    names = ("train loss", "val loss", "val accuracy")
    head = "".join(pad(translate(name), 20) for name in names)
    sides = "".join(pad(translate(side), 10) for _ in names for side in ("right", "broken"))
    lines = [pad(translate("epoch"), 7) + head, " " * 7 + sides]
    for i, right in enumerate(rows["right"]):
        broken = rows["broken"][i] if i < len(rows["broken"]) else None
        cells = []
        for key in ("train_loss", "val_loss", "val_accuracy"):
            for row in (right, broken):
                share = key == "val_accuracy"
                text = (
                    "×"
                    if row is None
                    else f"{100 * float(row[key]):.1f} %"
                    if share
                    else f"{float(row[key]):.3f}"
                )
                cells.append(pad(text, 10))
        lines.append(pad(right["epoch"], 7) + "".join(cells))
    return "\n".join(f"  {line.rstrip()}" for line in lines)
