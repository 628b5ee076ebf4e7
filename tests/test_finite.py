"""Finite gradients that overflow in the update: the run ends in that step, and no file has taken them."""

import numpy as np
import pytest
import tiny

from cnn.config import load_config
from cnn.errors import NumericError
from cnn.training import checkpoint, run_folder
from cnn.training.loop import Trainer


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_an_update_that_overflows_ends_the_run_in_its_step(tmp_path, monkeypatch, backend):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    tiny.write_images(tmp_path / "images", train=16, test=4)
    tiny.write_config(tmp_path / "tiny.toml", "images")
    (tmp_path / "nan").mkdir()
    sets = [f"train.backend={backend}", "train.snapshots=9"]
    trainer = Trainer(load_config("tiny.toml", sets), run_folder.RunFolder(tmp_path / "nan"))
    backward, steps = trainer.network.backward, []

    def enormous(dy, **options):
        backward(dy, **options)
        steps.append(1)
        if len(steps) == 5:
            trainer.network.grad[:], trainer.optimizer.lr = 3e38, 1e3

    trainer.network.backward = enormous
    expected = r"epoch 2, step [12] of 3: after the update \d\.\w+ holds (NaN|Inf)"
    with pytest.raises(NumericError, match=expected):
        trainer.fit()
    files = list(trainer.run.path.rglob("*.safetensors"))
    assert len(files) > 3
    assert all(np.isfinite(a).all() for path in files for a in checkpoint.load(path)[0].values())
