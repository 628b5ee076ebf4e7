"""Train some hundred steps while the learning rate grows, and suggest where the loss falls fastest.

Draws the curve into a picture and as lines; no run folder is written, and no weight is kept.
"""

from cnn.commands.common import add_config_arguments, read_config
from cnn.language import pad, translate
from cnn.terminal import say

_ROWS, _COLUMNS = 22, 48


def add_arguments(parser):
    """Describe the command line."""
    add_config_arguments(parser)
    parser.add_argument("--low", type=float, default=1e-6, metavar="LR", help="first rate (default 1e-6)")
    parser.add_argument("--high", type=float, default=10.0, metavar="LR", help="last rate (default 10)")
    parser.add_argument("--steps", type=int, default=150, metavar="N", help="default 150")
    parser.add_argument("--out", default="lr-find.png", metavar="FILE", help="default: lr-find.png")
    parser.add_argument("--json", metavar="F", help="write rates, losses and slopes to this file as well")


def run(args):
    """Find; return 5 where no rate brings the loss down."""
    import json

    from cnn.commands.train import set_threads
    from cnn.files import write_atomically
    from cnn.training.loop import Trainer
    from cnn.training.lr_find import draw, find_learning_rate

    config = read_config(args)
    set_threads(args, config)
    curve = find_learning_rate(Trainer(config), args.low, args.high, args.steps)
    say(_table(curve))
    draw(args.out, curve, config.name)
    if args.json:
        write_atomically(args.json, (json.dumps(curve.to_json(), indent=1) + "\n").encode())
    say()
    if curve.suggestion is None:
        say(translate("no rate brought the loss down: cnn doctor examines what else may be wrong"))
        return 5
    where = f"where the loss falls fastest; see {args.out}"
    say(translate(f"suggested: --set optimizer.lr={curve.suggestion:.2g}, {where}"))
    return 0


def _table(curve):
    """Return some of the steps as lines: rate, smoothed loss, a bar."""
    count = len(curve.rates)
    chosen = sorted({round(i * (count - 1) / (min(_ROWS, count) - 1)) for i in range(min(_ROWS, count))})
    best = None
    if curve.suggestion is not None:
        best = min(chosen, key=lambda i: abs(i - list(curve.rates).index(curve.suggestion)))
    top = 1.5 * float(curve.smoothed[0])
    lines = [f"{pad(translate('lr'), 10)}{translate('train loss')}"]
    for i in chosen:
        loss = float(curve.smoothed[i])
        bar = "█" * max(0, min(_COLUMNS, round(_COLUMNS * loss / top))) if loss == loss else "×"
        mark = "  ◀" if i == best else ""
        lines.append(f"{curve.rates[i]:<10.2g}{loss:<8.3f}{bar}{mark}")
    return "\n".join(lines)
