"""What each question reads out of a run's frame, for its answer, its tables and its figures.

Answers and figures must tell the same: what both need is worked out here, once.
"""
