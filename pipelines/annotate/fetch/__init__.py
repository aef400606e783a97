"""Images that came as addresses: what may be asked, how many at a time, and what came back."""
