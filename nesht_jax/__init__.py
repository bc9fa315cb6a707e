"""Natural Evolution Strategies with Hard Thresholding: sparse policies at simulator speed.

Fitness is maximized, everywhere. The public names stand in ``__init__.pyi``; each is imported when
it is first asked for, so that the command line answers before JAX is loaded.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
