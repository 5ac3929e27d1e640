"""Estimates, comparisons and fits, with the process as the sample."""
