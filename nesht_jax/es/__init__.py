"""Evolution strategies: noise, shaping, gradient, and the algorithm that assembles them."""
