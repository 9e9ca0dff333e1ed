"""The embedded generators: simulated data from real anatomy and a real connectome, without any download."""
