"""Which weights live: operators, masks and optax transformations that keep params sparse."""
