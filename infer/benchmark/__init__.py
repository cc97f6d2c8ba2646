"""`pure benchmark`: how fast pictures are written here, against what this machine's memory allows."""
