"""The doctor: examines the data, the first step and a short rehearsal before hours go into training.

``examine(config)`` returns a Report of Findings. Each has a verdict (OK, WARN, FAIL), the number that was
measured, what was expected and one line of advice. Everything is drawn from the config's seed, so a verdict
comes out the same again.

References
----------
Karpathy, "A Recipe for Training Neural Networks", 2019.
Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186 (the learning rate range).
"""

from cnn.doctor.finding import FAIL, OK, WARN, Finding, Report

__all__ = ["FAIL", "OK", "WARN", "Finding", "Report", "examine"]


def examine(config, images=None, network=None):
    """Return the Report on a config.

    Parameters
    ----------
    config : Config
    images : cnn.training.experiment.Images, optional
        Loaded and split as training does unless given.
    network : Network, optional
        A built network in place of the config's. It is given back with its state unchanged.

    Raises what building the parts raises: ConfigError, ShapeError, DataError.
    """
    import numpy as np

    from cnn.backend import use_backend
    from cnn.doctor import data, rehearsal, start
    from cnn.doctor.patient import Patient
    from cnn.training import experiment

    images = experiment.load_images(config) if images is None else images
    with use_backend(config.train.backend), np.errstate(all="ignore"):
        findings = data.check(config, images)
        patient = Patient(config, images, network)
        try:
            findings += start.check(patient)
            findings += rehearsal.check(patient)
        finally:
            patient.restore()
    return Report(findings)
