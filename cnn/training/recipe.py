"""A config for somebody's photos: the choices that fit what was found, each with its reason."""

import json
import math

import numpy as np

_SIDES = (32, 48, 64, 96, 128)
_STEPS = 3000  # that a small network needs at least to learn a few hundred photos
_RARE = 3  # times rarer than the most frequent class: such classes get weights


def recipe(name, survey):
    """Return the TOML text of a config called ``name`` for what a `cnn.data.survey.Survey` found."""
    images, side = int(survey.of_classes.sum()), _side(survey)
    batch = 16 if images < 400 else 32 if images < 4000 else 64
    epochs = int(np.clip(math.ceil(_STEPS * batch / images), 10, 60))
    first, last = (16, 64) if images < 1500 else (24, 128)
    stages = _stages(side, first, last)
    weights = _weights(survey)
    lines = [
        f"# {images:,} training images of {len(survey.classes)} classes; written by `cnn new {survey.root}`.",
        "",
        f'name = "{name}"',
        "seed = 0",
        "",
        "[data]",
        'dataset = "folder"',
        f"root = {json.dumps(str(survey.root))}",
        f"image_size = {side}  # the smaller side of half of the photos is at least {_smaller(survey)}",
        f'mode = "{"RGB" if survey.colour else "L"}"',
        *_fit(survey),
        *_decode(survey, side),
        f"batch_size = {batch}",
        *(
            []
            if "validation" in survey.counts
            else ["validation = 0.15  # which epoch is the best is judged by it"]
        ),
        *(["skip_unreadable = true"] if survey.unreadable else []),
        "augment = [",
        '  { type = "RandomHorizontalFlip" },  # leave it out where left and right differ, as in text',
        '  { type = "RandomResizedCrop", scale = [0.5, 1.0] },',
        *(
            ['  { type = "ColorJitter", brightness = 0.2, contrast = 0.2, saturation = 0.2 },']
            if survey.colour
            else []
        ),
        "]",
        "",
        "[model]",
        "layers = [",
        *stages,
        '  { type = "GlobalAvgPool2d" },',
        '  { type = "Dropout", p = 0.2 },',
        f'  {{ type = "Linear", out_features = {len(survey.classes)} }},  # one a class',
        "]",
        "",
        "[loss]",
        "label_smoothing = 0.05",
        *weights,
        "",
        "[optimizer]",
        'type = "AdamW"',
        "lr = 2e-3",
        "weight_decay = 0.01",
        "clip_norm = 5.0",
        "",
        "[schedule]",
        'type = "cosine"',
        "warmup_epochs = 1",
        "",
        "[train]",
        f"epochs = {epochs}  # about {epochs * math.ceil(images / batch):,} steps",
        "",
    ]
    return "\n".join(lines)


def _smaller(survey):
    return int(np.median(survey.sizes.min(axis=1)))


def _side(survey):
    """The largest of the sides that the photos have; few photos are learned no better in many pixels."""
    most = 64 if survey.of_classes.sum() < 500 else 128
    fitting = [side for side in _SIDES if side <= min(_smaller(survey), most)]
    return fitting[-1] if fitting else max(8, _smaller(survey))


def _fit(survey):
    if survey.same_shape and abs(survey.sizes[0, 0] - survey.sizes[0, 1]) <= 0.05 * survey.sizes[0, 0]:
        return []
    return ['fit = "crop"  # the middle of each photo; "pad" keeps all of it, with black borders']


def _decode(survey, side):
    if _smaller(survey) < 4 * side:
        return []
    return ['decode = "reduced"  # large JPEG files are read some five times faster, nearly as exactly']


def _weights(survey):
    counts = survey.of_classes
    if counts.max() < _RARE * counts.min():
        return []
    weights = [round(float(w), 3) for w in counts.sum() / (len(counts) * counts)]
    return [f"class_weight = {weights}  # classes are of {counts.min():,} to {counts.max():,} images"]


def _stages(side, first, last):
    """Convolutions with batch normalisation; each stage halves the picture and doubles the channels."""
    lines, channels, stage = [], first, 0
    while side >= 8 and stage < 4:
        for _ in range(1 if stage == 0 else 2):
            convolution = f'type = "Conv2d", out_channels = {channels}, kernel_size = 3, padding = 1'
            lines.append(f"  {{ {convolution}, bias = false }},")
            lines += ['  { type = "BatchNorm2d" },', '  { type = "ReLU" },']
        side //= 2
        lines.append(f'  {{ type = "MaxPool2d", kernel_size = 2 }},  # {side}x{side}')
        channels, stage = min(2 * channels, last), stage + 1
    return lines
