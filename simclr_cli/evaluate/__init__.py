"""Judging encoders against baselines, with labels."""
