"""What every command takes and says."""
