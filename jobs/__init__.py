"""The language of the farm: what can be asked for, how it is cut, what may happen next, where it is kept."""
