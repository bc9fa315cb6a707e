"""The edges: the only place that reads, writes, prints or knows the time."""
