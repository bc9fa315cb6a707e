"""``python -m nesht_jax.run.cli`` is ``nesht``."""

import sys

from nesht_jax.run.cli import main

if __name__ == "__main__":
    sys.exit(main())
