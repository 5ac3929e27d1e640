"""The model's file: how it is named, found and made, and what its header says."""
