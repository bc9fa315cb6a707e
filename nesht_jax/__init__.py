"""Natural Evolution Strategies with Hard Thresholding: sparse policies at simulator speed.

Fitness is maximised, everywhere.
"""
