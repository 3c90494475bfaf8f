"""Pictures and requests that nobody should send, from a seed: a few hundred in the tests, as many as wanted by `benchmarks/fuzz.py`."""
