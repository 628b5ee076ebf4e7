"""The end of a run: its best weights are judged on the test images, once; result.json and report.html."""

import json

from cnn import report
from cnn.config import to_toml
from cnn.files import write_atomically
from cnn.report import gradients
from cnn.training import checkpoint
from cnn.training.evaluation import evaluate
from cnn.training.header import check_header


def finish(trainer):
    """Judge the best weights on the test images; write and return the result."""
    p, images, run = trainer.progress, trainer.images, trainer.run
    with checkpoint.opened(run.best) as file:
        meta = check_header(file.description, run.best)
        checkpoint.restore(file, "network", trainer.network.state(), run.best)
    score = meta.score or {"loss": None, "accuracy": None}
    batches = trainer.evaluation_batches(images.dataset.test)
    kind = images.kind
    judged = evaluate(trainer.network, batches, loss=trainer.loss, targets=kind.name)
    result = {
        "epoch": meta.epoch,
        "val_loss": score["loss"],
        "val_accuracy": score["accuracy"],
        "test_loss": judged.loss,
        **{f"test_{key}": value for key, value in judged.scores.items()},
        **_with_tta(trainer, batches),
        "test_images": len(images.dataset.test),
        "parameters": trainer.network.data.size,
        "seconds": round(p.seconds, 3),
        "data_sha256": images.dataset.digest,
    }
    write_atomically(run.result, (json.dumps(result, indent=2, allow_nan=False) + "\n").encode())
    why = "untrained" if meta.epoch == 0 else "the best on the validation images"
    if meta.score and score["loss"] is None:
        why = "the last: validation = 0"
    views = f" ({100 * result['tta_accuracy']:.2f} % with TTA)" if "tta_accuracy" in result else ""
    run.log(
        f"test {kind.words(judged.scores)}{views}, loss {judged.loss:.4f}, "
        f"on {len(images.dataset.test):,} images, "
        f"weights of epoch {meta.epoch} ({why}); trained for {p.seconds:.1f} s; see {run.path}",
        result=True,
    )
    _report(trainer, result, judged)
    return result


def _with_tta(trainer, batches):
    """Return what [tta] adds to the result: nothing without that section."""
    if trainer.config.tta is None:
        return {}
    judged = evaluate(trainer.network, batches, trainer.config.tta, trainer.loss)
    return {"tta_loss": judged.loss, "tta_accuracy": judged.accuracy}


def _report(trainer, result, judged):
    p, dataset, config = trainer.progress, trainer.images.dataset, trainer.config
    write_atomically(trainer.run.gradients, gradients.table(trainer.network, p.gradients).encode())
    story = report.Story(
        config.name,
        dataset.name,
        dataset.classes,
        trainer.history,
        p.gradients,
        result,
        trainer.network,
        dataset.test,
        judged.answers,
        to_toml(config),
        getattr(config.loss, "label_smoothing", 0.0),
        judged.labels,
        dataset.targets,
    )
    report.write(trainer.run.report, story)
