"""Reads what runs left: rows, statistics, figures."""
