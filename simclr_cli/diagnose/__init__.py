"""Checks of the machine and of folders."""
