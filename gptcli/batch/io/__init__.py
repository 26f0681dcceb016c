"""What a batch reads from and writes to."""
