"""The lab's promises, put to the test by breaking things on purpose."""
