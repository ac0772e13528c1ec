"""The only input and output of the farm: local folders and S3-compatible stores."""

from jobs.storage.base import Committed, Entry, Found, Store
from jobs.storage.opening import open_store, store_and_key

__all__ = ["Committed", "Entry", "Found", "Store", "open_store", "store_and_key"]
