"""Models of other programs: read without running anything, rebuilt as our own."""
