"""What encodes texts and images: torch, or OpenVINO on a CPU, behind one small interface."""
