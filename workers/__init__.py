"""What a worker does on its one device."""
