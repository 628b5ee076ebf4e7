"""What the steps of a program keep between forward and backward."""

from cnn.fast.blocked import BlockedArray


def kept(steps):
    """Return what all steps keep, inside as well, as one list."""
    return [(step.kept, [kept(part) for part in step.parts]) for step in steps]


def restore(steps, values, home):
    """Give steps back what ``kept`` returned, for one way back.

    The arrays are the same memory; when the last array that uses it dies, the memory goes to ``home``
    (a Lowering) if given.
    """
    _restore(steps, values, _SameMemory(home))


def _restore(steps, values, same):
    for step, (value, inside) in zip(steps, values, strict=True):
        step.kept = same(value)
        for part, inner in zip(step.parts, inside, strict=True):
            _restore(part, inner, same)


class _SameMemory:
    """Makes copies of kept values whose arrays share the memory of the originals."""

    def __init__(self, home):
        self._home, self._made = home, {}

    def __call__(self, value):
        if isinstance(value, tuple):
            return tuple(self(part) for part in value)
        if type(value) is not BlockedArray:
            return value
        if id(value) not in self._made:
            owner = None if value._owner is None else self(value._owner)
            home = self._home if owner is None else None
            self._made[id(value)] = BlockedArray(value.buffer, value.shape, owner, value.address, home)
            self._made[id(value)].strips = value.strips
        return self._made[id(value)]
