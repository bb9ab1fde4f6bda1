"""What a worker answers to who operates it: health, metrics, scaling."""
