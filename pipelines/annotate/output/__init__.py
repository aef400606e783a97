"""What lies in an output, and in which form."""
