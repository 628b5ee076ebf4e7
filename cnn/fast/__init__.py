"""The fast wing: the same network, planned once and run by compiled kernels on all cores.

Its comments use these words for one thing each:

lane             one of the sixteen numbers side by side: images (BlockedArray) or channels (Lanes)
block, pixel     the sixteen images or channels that are lanes together; their numbers at one place of a plane
task, routine    a compiled function that ``launch`` runs once for each piece; one that tasks call by address
record, plan     the named int64 numbers that a task reads; the Python object that owns records and memory
part, chunk      what one task adds up of a longer sum; channels handled together to stay in the cache
micro-kernel     the innermost loops, whose sums are a register block of mr numbers by nr vectors
sliver, panel    mr rows of the operand of numbers, side by side; sixteen columns of that of vectors, alike
tap              one place (u, v) of a window
strip, band, run consecutive rows of one task; rows, and pixels of a row, whose windows meet the same taps
Strips           few images cut into strips of rows, each of them a lane (``kernels.strips``)
tile, point      4x4 or 2x2 outputs that Winograd's form computes together; one of the 6x6 products they take
step             bytes from one thing to the next (a stride is that of Conv2d, a group one of its channels)
"""

from cnn.backend import check_environment

check_environment()  # before any module of the wing imports Numba, which ends with a traceback
