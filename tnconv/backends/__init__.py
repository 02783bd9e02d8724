"""Backends: what turns a plan into numbers."""
