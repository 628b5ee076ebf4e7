import numpy as np


class ResidualBlock:
    def __init__(self, body, shortcut=None):
        self.body, self.shortcut = body, shortcut

    def forward(self, x, training):
        beside = x if self.shortcut is None else self.shortcut.forward(x, training)
        self.total = self.body.forward(x, training) + beside
        return np.maximum(self.total, 0)

    def backward(self, dy):
        g = np.where(self.total > 0, dy, 0)
        return self.body.backward(g) + (g if self.shortcut is None else self.shortcut.backward(g))
