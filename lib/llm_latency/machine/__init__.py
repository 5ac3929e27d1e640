"""What is around a trial: CPUs, memory, devices, the page cache, and one run at a time."""
