"""The comparison of ISGD with what it has to beat, under fixed rules."""
