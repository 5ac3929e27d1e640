"""What is kept of every trial, and how it is read."""
