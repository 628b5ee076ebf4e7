"""Runs a network by kernels: plan -> program -> run.

    plan      the layers as steps: neighbours better done in one pass over memory (``cnn.fast.steps``)
    program   the steps lowered, for one batch shape, to launches at fixed addresses in memory of its own;
              what only Python can do (a layer from outside) is an entry of it, too
    run       one compiled call for all launches up to the next Python entry

The walk of a batch: ``Network.forward`` asks ``Engine.forward``, which finds the program of this shape (or
lowers one), writes the addresses of the input and the output into its first and last launch, and runs it.
``backward`` does the same with the second part of that program. Nothing is decided while a program runs, so
the same launches follow in the same order every time: the same bits.

Programs that run one at a time share an arena: those of one thread that trains; those that predict, as many
arenas as there are threads in ``predict`` at once. A program and its memory are used by one thread at a time.
"""

import threading
from operator import attrgetter

import numpy as np

from cnn.backend import engine, get_winograd, use_backend
from cnn.errors import ConfigError, ShapeError
from cnn.fast.blocked import NotLowerable, as_blocked
from cnn.fast.folding import Folding
from cnn.fast.kept import kept, restore
from cnn.fast.kernels import conv
from cnn.fast.lanes import NotForFew
from cnn.fast.machine.bf16 import has_bf16
from cnn.fast.machine.jit import Launches, address
from cnn.fast.machine.owner import Arena, Lowering, lower_into
from cnn.fast.step import Context, Plain, array, enter, fact, leave, walk_back
from cnn.fast.steps import plan as plan_steps
from cnn.layers.watch import Watch
from cnn.pixels import Pixels

FEW = 8  # images up to which a prediction has sixteen channels side by side; sixteen images are faster beyond
KEPT = 6  # programs of an arena: the shapes of training, its last batch, validation ...

_trainable = attrgetter("trainable")


class Engine:
    """The passes of one network, each by a program of its own.

    Any number of threads may ask for predictions at once. Threads that train want a network each: gradients
    are the network's.

    Parameters
    ----------
    body : Sequential, built
    precision : "float32" or "bf16": how activations are stored and multiplied
    exact : list of Layer
        That store and multiply float32 in any case.
    """

    def __init__(self, body, precision="float32", exact=()):
        self._body, self._lock, self._formats = body, threading.RLock(), (precision, exact)
        self._plan, self._mine = None, threading.local()

    def forward(self, x, training, share=None):
        """Return the output (N, *output_shape) for an array or Pixels; keep what backward needs.

        ``share``: what part of a batch ``x`` is, a ``cnn.parallel.share.Share``; None is all of it.
        """
        plan = self._current_plan()
        x, dtype, table = plan.receive(x)
        if getattr(self._mine, "plan", None) is not plan:
            self._mine.plan, self._mine.programs = plan, _Programs()
        flags = (*map(_trainable, plan.parameters),)
        key = (x.shape, dtype, training, get_winograd(), id(table), flags, share)
        program = self._mine.programs.find(key)
        if program is None and plan.lowerable:
            try:
                with self._lock:
                    program = self._program(plan, x.shape, dtype, training, table, share)
                self._mine.programs.add(key, program)
            except NotLowerable:
                plan.lowerable = False
        if not plan.lowerable:
            if share is not None:
                raise _needs_pure_layers()
            self._mine.last = plan.walk
            return plan.walk.forward(x if table is None else Pixels(x, table), training)
        self._mine.last = program
        return program.forward(x)

    def backward(self, dy, input_gradient):
        """Return dx of this thread's last forward, or None unless asked for; add to the gradients."""
        program = getattr(self._mine, "last", None)
        if program is None:
            raise RuntimeError("Network: backward was called before forward")
        dx = program.backward(dy, input_gradient)
        if not program.lowerable and self._plan is not None:
            self._plan.lowerable = False
        return dx

    def predict(self, x):
        """Return the output in evaluation mode for an array (N, ...); keep nothing."""
        plan, self._mine.last = self._current_plan(), None
        x, dtype, table = plan.receive(x)
        with self._lock:
            plan.folding.refresh()
        try:
            programs = plan.idle.pop()
        except IndexError:
            programs = _Programs()
        try:
            key = (x.shape, dtype, get_winograd(), id(table))
            program = programs.find(key)
            if program is None and plan.lowerable:
                with self._lock:
                    program = self._prediction(plan, programs, x.shape, dtype, table)
                programs.add(key, program)
            if plan.lowerable:
                return program.forward(x)
        except NotLowerable:
            plan.lowerable = False
        finally:
            plan.idle.append(programs)
        with self._lock:
            return plan.walk.predict(x if table is None else Pixels(x, table))

    def _prediction(self, plan, programs, shape, dtype, table):
        """Lower a prediction: with sixteen channels side by side for few images, where all layers can."""
        arguments = programs.arena, plan, shape, dtype, False, table, self._lock
        if 0 < shape[0] <= FEW and plan.for_few and table is None:
            try:
                return Program(*arguments, predict="few")
            except NotForFew:
                plan.for_few = False
        return Program(*arguments, predict="many")

    def _program(self, plan, shape, dtype, training, table, share):
        """Lower a pass that backward may follow; if it is one of training, to places found beforehand."""
        arena, places = self._mine.programs.arena, ()
        arguments = plan, shape, dtype, training, table, self._lock
        if training:
            dry = Arena(dry=True)
            Program(dry, *arguments, share=share).lower_backward(False)
            places = arena.expect(dry)
        return Program(arena, *arguments, share=share, places=places)

    def memory(self, shape):
        """Return the bytes that a step of training takes: (kept from forward to backward, all the rest)."""
        plan, arena = self._current_plan(), Arena(dry=True)
        dtype = np.dtype(plan.dtype or np.float32)
        with use_backend("numba"), self._lock:
            program = Program(arena, plan, shape, dtype, True, None, self._lock)
            program.lower_backward(False)
        return program.kept_bytes, arena.nbytes - program.kept_bytes + arena.working_bytes

    def _current_plan(self):
        """Return the plan of the layers as they are now."""
        plan = self._plan
        if plan is None or not plan.holds():
            with self._lock:
                plan = self._plan = _Plan(self._body, *self._formats)
        return plan


def _needs_pure_layers():
    return ConfigError("a share of a batch: expected pure layers; a layer says to be pure, and is not")


class _Plan:
    """What a network was when it was planned; what its programs share."""

    def __init__(self, body, precision, exact):
        self.exact = frozenset(map(id, exact))
        self.body, self._watch = body, Watch(body)
        self.layers, self.parameters = self._watch.layers, self._watch.parameters
        self.holds = self._watch.holds
        floats = [a for layer in self.layers for a in layer.buffers().values() if a.dtype.kind == "f"]
        known = [p.dtype for p in self.parameters] + [a.dtype for a in floats]
        self.dtype = known[0] if known else None
        self.precision = precision if self._gains(precision) else "float32"
        self.folding, self.for_few, self.idle = Folding(self.layers, self.parameters), True, []
        # a layer that says to be pure and is not: then the layers run one by one
        self.lowerable, self.walk = True, engine(body, "reference")

    def _gains(self, precision):
        """Whether any layer computes otherwise in this precision: only then is anything stored so."""
        wanted = precision == "bf16" and has_bf16() and self.dtype == np.float32
        return wanted and any(
            conv.gains_from_bf16(self.dtype, c.weight.data.shape, c.groups)
            for c in self.layers
            if fact(c, "role") == "convolution" and id(c) not in self.exact
        )

    def receive(self, x):
        """Return (contiguous array or uint8 images, its numbers' dtype, table of Pixels or None).

        The dtype is that of the parameters and statistics, else that of ``x``.
        """
        dtype = self.dtype or (x.dtype if x.dtype in (np.float32, np.float64) else np.dtype(np.float32))
        if type(x) is Pixels and x.dtype == dtype:
            return x.images, dtype, x.table
        return np.ascontiguousarray(x, dtype), dtype, None


class _Programs:
    """Programs that run one at a time, in one arena; the latest are kept."""

    def __init__(self):
        self.arena, self._programs = Arena(), {}

    def find(self, key):
        """Return a program or None."""
        return self._programs.get(key)

    def add(self, key, program):
        """Keep a program, in the place of the oldest if there are many."""
        while len(self._programs) >= KEPT:
            del self._programs[next(iter(self._programs))]
        self._programs[key] = program


class Program:
    """A forward pass for one batch shape, and what follows it.

    Parameters
    ----------
    arena : Arena
    plan : _Plan
    shape, dtype : of the input
    training : bool
    table : the table of Pixels, or None
    lock : held while layers from outside run
    predict : "" for a pass that backward may follow, "many" or "few" for one that keeps nothing
    share : cnn.parallel.share.Share or None
    places : of the arrays of both passes, as ``Arena.expect`` says; where other ones are made, of no use
    """

    def __init__(self, arena, plan, shape, dtype, training, table, lock, predict="", share=None, places=()):
        self._arena, self._table, self._dtype = arena, table, np.dtype(dtype)
        self._parameters, self._backward, self._shape, self.lowerable = plan.parameters, {}, shape, True
        context = Context(lock, plan.folding if predict else None, plan.exact)
        self._steps = plan_steps(plan.body.layers, context)
        self._precision, self._share = plan.precision, share
        self._places = iter(places)
        lowering = Lowering(arena, precision=plan.precision, share=share, places=self._places)
        with lower_into(lowering):
            y = x = enter(shape, self._dtype, table, predict == "few")
            self._forward = _Part(lowering, x)
            del x
            for step in self._steps:
                y = step.forward(y, training)
                if predict:
                    step.forget()
            y = array(y)
            self._out_shape = y.shape
            leave(y, np.zeros(y.shape, self._dtype))
            self._forward.ends_with(y)
            del y
        self._taken = lowering.close()
        self._kept = None if predict else kept(self._steps)
        self._current = False

    def forward(self, x):
        """Return the output for ``x``, a NumPy array of its own."""
        y = np.empty(self._out_shape, self._dtype)
        self._forward.run(x, y)
        self._current = True
        return y

    def backward(self, dy, input_gradient):
        """Return dx of the last forward, or None unless asked for; add to the gradients.

        Without dx what forward kept is given back on the way, so another forward has to come first.
        """
        if not self._current:
            raise RuntimeError("Network: backward was called before forward")
        dy = np.asarray(dy)
        if dy.shape != self._out_shape:
            raise ShapeError(f"Network: backward expected dy of shape {self._out_shape}, found {dy.shape}")
        key = (input_gradient, *map(_trainable, self._parameters))
        part = self._backward.get(key)
        if part is None:
            try:
                part = self._backward[key] = self.lower_backward(input_gradient)
            except NotLowerable:
                self.lowerable = False
                if self._share is not None:
                    raise _needs_pure_layers() from None
                return self._walk_back(dy, input_gradient)
        dx = np.empty(self._shape, self._dtype) if input_gradient else None
        part.run(np.ascontiguousarray(dy, self._dtype), dx)
        self._current = input_gradient
        return dx

    def _walk_back(self, dy, input_gradient):
        """Go back step by step at once, from what the program has kept."""
        restore(self._steps, self._kept, None)
        dy = as_blocked(np.ascontiguousarray(dy, self._dtype))
        dx = walk_back(self._steps, dy, input_gradient, consume=False)
        for step in self._steps:
            step.forget()
        self._current = input_gradient
        return np.asarray(array(dx)) if input_gradient else None

    @property
    def kept_bytes(self):
        """Bytes of what lies in the arena between forward and backward."""
        return sum(size for _, size in self._taken)

    def lower_backward(self, input_gradient):
        """Return the part that goes back, lowered for what is to be trained now."""
        places, self._places = self._places, ()  # of the first way back: another one has other arrays
        lowering = Lowering(self._arena, self._taken, self._precision, self._share, places)
        restore(self._steps, self._kept, None if input_gradient else lowering)
        with lower_into(lowering):
            dy = enter(self._out_shape, self._dtype)
            part = _Part(lowering, dy)
            dx = walk_back(self._steps, dy, input_gradient, consume=not input_gradient, over=True)
            del dy
            if input_gradient:
                dx = array(dx)
                leave(dx, np.zeros(self._shape, self._dtype))
            part.ends_with(dx)
            del dx
        for step in self._steps:
            step.forget()
        lowering.close()
        return part


class _Part:
    """One direction of a program: launches, as many as follow each other in one call, and functions.

    Parameters
    ----------
    lowering : Lowering that is being filled
    source : what ``enter`` returned
    """

    def __init__(self, lowering, source):
        self._entries, self._kept = lowering.entries, lowering.kept
        self._source = source if type(source) is Plain else None
        self._target, self._runs, self._first, self._last = None, [], None, None

    def ends_with(self, target):
        """Group the entries; ``target`` is what was handed to ``leave``, or None."""
        launches = []
        for entry in [*self._entries, None]:
            if type(entry) is tuple:
                launches.append(entry)
                continue
            if launches:
                self._runs.append(Launches(launches).run)
                launches = []
            if entry is not None:
                self._runs.append(entry)
        tables = [entry[2] for entry in self._entries if type(entry) is tuple]
        if self._source is None and tables:
            self._first = tables[0]
        if type(target) is Plain:
            self._target = target
        elif target is not None and tables:
            self._last = tables[-1]

    def run(self, source, target):
        """Run all of it: from the array ``source``, into ``target`` if the part ends with an array."""
        if self._source is not None:
            self._source.put(source, None)
        elif self._first is not None:
            self._first[0] = address(source)
        if self._last is not None:
            self._last[1] = address(target)
        for run in self._runs:
            run()
        if self._target is not None:
            target[...] = self._target.take()
