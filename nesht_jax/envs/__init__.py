"""Suites: each turns an outside simulator into tasks and plays their episodes.

``tasks`` makes them by name; ``suite`` is the contract; ``catalog`` lists them without a simulator;
each suite is a module of its own.
"""
