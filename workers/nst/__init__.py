"""The algorithms: plain torch, importable by itself, no type of the farm; what is wrong raises ValueError."""
