"""Many pictures into one folder: what there is to do, what is done already, and what became of each."""
