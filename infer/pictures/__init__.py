"""Pictures: files, tiles, blending, colours and heat maps; numpy and Pillow only."""
