"""From a plan to records: each trial in a fresh process."""
