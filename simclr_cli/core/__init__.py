"""Foundations that all packages use: errors, events, files, hardware, text, seeds, process groups."""
