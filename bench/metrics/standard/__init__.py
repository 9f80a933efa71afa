"""FVD, IS and CLIPSIM by their protocols, with network files that the user names."""
