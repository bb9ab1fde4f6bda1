"""What is counted, by each worker and over the fleet."""
