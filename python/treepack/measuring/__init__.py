"""Measuring whole data sets: worker processes, part files, one table."""
