"""Mutation testing of the Python layer: small faults are put in, and the tests must find them."""
