"""What clients of each kind send, and what they are answered."""
