"""Everything between gradients and new weights: optimizers, schedules, groups of parameters, averages."""

from cnn.optimizers.averaging import AVERAGES, EMA, Average, Lookahead, make_average
from cnn.optimizers.groups import Groups
from cnn.optimizers.methods import OPTIMIZERS, SGD, Adam, AdamW, Muon, Optimizer, RMSprop, make_optimizer
from cnn.optimizers.schedules import SCHEDULES, make_schedule, schedule_options

__all__ = [
    "AVERAGES",
    "EMA",
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "Adam",
    "AdamW",
    "Average",
    "Groups",
    "Lookahead",
    "Muon",
    "Optimizer",
    "RMSprop",
    "make_average",
    "make_optimizer",
    "make_schedule",
    "schedule_options",
]
