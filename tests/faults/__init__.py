"""What is longer, or hurts: crashes, backlogs, servers that come and go."""
