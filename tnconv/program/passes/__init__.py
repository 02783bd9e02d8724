"""Passes on programs, one a file."""
