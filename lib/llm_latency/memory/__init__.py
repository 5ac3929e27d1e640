"""What a model takes, foretold from its header, and what truly fits, found by trying."""
