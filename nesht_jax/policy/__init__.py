"""Networks that act: layers, normalization of what they see, bounds of what they do."""
