"""Training: the loop, the step, the plan, resuming, measuring."""
