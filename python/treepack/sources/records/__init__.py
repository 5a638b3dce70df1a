"""Formats of data records, one small file each."""
