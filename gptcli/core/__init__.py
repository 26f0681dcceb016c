"""What every part needs: errors, safe text and file access, signals, memory."""
