"""What predictions read in the place of parameters and statistics, and how a change of those is noticed."""

from cnn.fast.machine.fingerprint import Fingerprint


class Folding:
    """The weights that predictions read, made again as soon as a parameter or a statistic has changed.

    In evaluation a normalisation is a fixed scale and shift of each channel, so it moves into the weights in
    front of it:

        ((w * x + b) - mean) * s + beta  =  (s w) * x + (b - mean) s + beta,      s = gamma / sqrt(var + eps)
    """

    def __init__(self, layers, parameters):
        statistics = [a for layer in layers for a in layer.buffers().values() if a.dtype.kind == "f"]
        self._statistics, self._values = Fingerprint(statistics), _Values(parameters)
        self._entries = {}

    def entry(self, make, *layers):
        """Return ``make(*layers)``, which has a method ``refresh``; made once."""
        key = (make, *map(id, layers))
        if key not in self._entries:
            self._entries[key] = make(*layers)
            self._entries[key].refresh()
        return self._entries[key]

    def refresh(self):
        """Fold again if anything changed."""
        statistics, values = self._statistics.changed(), self._values.changed()
        if statistics or values:
            for entry in self._entries.values():
                entry.refresh()


class _Values:
    """Tells whether parameters may hold other values than the last time it was asked.

    To read them all takes a fifth of a prediction of one image. That is done only while somebody could have
    written to them: has asked for them since, or had not let go of them then.
    """

    def __init__(self, parameters):
        self._parameters, self._mark, arrays = parameters, None, []
        buffers = {id(p.buffer): p.buffer for p in parameters}
        self._buffer = next(iter(buffers.values())) if len(buffers) == 1 else None
        if self._buffer is not None:
            ends = min(p.start for p in parameters), max(p.stop for p in parameters)
            arrays = [self._buffer.data[slice(*ends)]]
        elif parameters:  # some have moved into another network
            arrays = [p.data for p in parameters]
        self._prints = Fingerprint(arrays)

    def changed(self):
        """Whether they may; the first time they do."""
        buffer = self._buffer
        if buffer is not None:
            mark = buffer.mark
            if mark is self._mark:
                return False
            self._mark = None if buffer.is_lent(self._parameters, views=1) else mark
        return self._prints.changed()
