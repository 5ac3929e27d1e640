"""Inside the measured process: the only package that knows llama_cpp."""
