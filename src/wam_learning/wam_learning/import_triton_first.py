"""Import this before the simulator in programs that also run a model; it does nothing else.

torch's compiler brings an LLVM, the simulator's off-screen OpenGL another, and MuJoCo loads that
with its import: the compiler's must be the first, loaded second it crashes.
"""

import importlib.util

if importlib.util.find_spec('triton'):
    import triton  # noqa: F401
